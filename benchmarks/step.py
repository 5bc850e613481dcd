"""
CPU time of one training step of each stage, and where it goes, on one thread. See step.md.

    python benchmarks/step.py [--stages 1 2 3] [--repeats 10] [--quick] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import thread_time

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from monai.bundle import ConfigParser
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from scripts.data.batch import random_region
from scripts.io.stage_overlays import configs_of
from table import Table

FAMILIES = {
    "convolution": ("convolution", "slow_conv", "thnn_conv"),
    "matrices": ("::mm", "::addmm", "::bmm", "::baddbmm", "scaled_dot_product"),
    "lift, project": ("embedding_bag", "_Lift", "_Project"),
    "resampling": ("upsample", "pool", "pad3d"),
    "norm": ("batch_norm", "layer_norm"),
    "copies": ("::copy_", "::clone", "::cat", "::index", "_index_put", "::fill_", "::zero_"),
    "optimizer": ("Optimizer", "_fused_adamw", "_foreach"),
}
"""By parts of an operator's name; the first that fits. What is left is "other": elementwise arithmetic and overhead."""
COLUMNS = {"stage": 5, "batch": 5, "seconds": 7, "GFLOP": 6, "at peak": 7, **dict.fromkeys((*FAMILIES, "other"), 13)}


class Step:
    """
    One step (forward, loss, backward, optimizer) on random X-rays.

    Args:
        stage: which to train, 1, 2 or 3, by the configs of the shipped weights; without VGG.
        is_quick: whether to take the sizes of `tiny.json`.
    """

    def __init__(self, stage: int, is_quick: bool) -> None:
        torch.manual_seed(0)
        config = _config(stage, is_quick)
        imaging = config.get_parsed_content("imaging")
        self.network = config.get_parsed_content("network_def").train()
        self.loss = config.get_parsed_content("loss")
        self.optimizer = config.get_parsed_content("optimizer")
        self.batch, size = config["batch_size"], config.get_parsed_content("volume_size")
        pixels, crop = imaging.geometry.detector_pixels, config["crop"]
        self.arguments = {"stages": stage}
        self.target = {
            "ct": torch.rand(self.batch, 1, size, size, size),
            "xrays": torch.rand(self.batch, 2, pixels, pixels),
        }
        if crop is not None:
            region = random_region(imaging.volume_size(stage), crop)
            self.target["region"] = self.arguments["region"] = region

    def __call__(self) -> None:
        loss = self.loss(self.network(self.target["xrays"], **self.arguments), self.target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    table, peak = Table(COLUMNS, options.markdown), _peak(512 if options.quick else 2048)
    for stage in options.stages:
        step = Step(stage, options.quick)
        with FlopCounterMode(display=False) as counter:
            step()
        seconds = median(_timed(step) for _ in range(options.repeats))
        flops = counter.get_total_flops()
        cells: dict[str, object] = {name: f"{share:.0%}" for name, share in shares(step).items()}
        cells["at peak"] = flops / peak
        table.add(stage=stage, batch=step.batch, seconds=seconds, GFLOP=flops / 1e9, **cells)


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Each family's share of the time, its backward pass included; they add up to 1."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        spent[family_of(event.key)] += event.self_cpu_time_total
    return {name: spent[name] / spent.total() for name in (*FAMILIES, "other")}


def family_of(operator: str) -> str:
    fitting = (name for name, parts in FAMILIES.items() if any(part in operator for part in parts))
    return next(fitting, "other")


def _config(stage: int, is_quick: bool) -> ConfigParser:
    folder = ROOT / "bundle" / "configs"
    files = [folder / "train.json", *([folder / f"stage{stage}.json"] if stage > 1 else [])]
    config = ConfigParser()
    config.read_config([str(path) for path in (*files, *configs_of(folder / "weights", stage))])
    config["device"] = "cpu"
    if is_quick:
        tiny = json.loads((folder / "tiny.json").read_text(encoding="utf-8"))
        config.update({name: value for name, value in tiny.items() if name.startswith(("geometry#", "network_def#"))})
        config["volume_size"], config["crop"] = 64, 32 if stage == 3 else None
    return config


def _peak(side: int) -> float:
    """FLOP/s of the fastest of some matrix products."""
    a = torch.rand(side, side)
    return 2 * side**3 / min(_timed(lambda: a @ a) for _ in range(10))


def _timed(work: Callable[[], object]) -> float:
    start = thread_time()
    work()
    return thread_time() - start


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", type=int, choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--repeats", type=int, default=10, help="steps after the first, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
