"""
Time, memory and arithmetic of the cascade and its baselines: inference, and one training step. See cascade.md.

    python benchmarks/cascade.py [--quick] [--markdown] [--parts inference training planned] [--stages 1 2 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from monai.bundle import ConfigParser
from torch import nn

from baselines import BASELINES, LiftedNetwork
from planning import plan
from scripts import Region
from scripts.data.batch import random_region
from scripts.projection.imaging import NUMBER_OF_STAGES
from table import Table

PARTS = ("inference", "training", "planned")
COLUMNS = {
    "what": 9, "network": 14, "size": 4, "type": 8, "batch": 5, "part": 8, "seconds": 7, "growth": 6, "GFLOP": 6,
    "of peak": 7, "memory GiB": 10, "imports GiB": 11, "planned GB": 10, "goal": 0,
}  # fmt: skip
GOALS = {
    ("inference", 2): "growth 8.5",
    ("inference", 3): "20 s, 6 GiB, growth 8.5",
    ("training", 3): "16 GiB",
    ("planned", 1): "6 GB (limit 10)",
    ("planned", 2): "12 GB (limit 16)",
    ("planned", 3): "22 GB (limit 35)",
}
FITTING = 0.75
"""Share of this machine's memory that a plan may take, which counts neither workspaces nor other processes."""
LONG = 30.0
"""Seconds from which on the first run stands for itself."""
PRODUCTS = 20
"""Matrix products of which the fastest is the machine's peak."""


@dataclass(frozen=True)
class Case:
    """
    One row.

    Args:
        what: one of :data:`PARTS`, or "peak" for the machine's matrix products.
        network: "cascade" or the name of a baseline, which has the size of the cascade's `stage`.
        stage: the stage to stop after, or to train.
        dtype: "float32" or "bfloat16", which means autocast.
        batch: X-ray pairs at a time.
        crop: side of the part that is decoded in training.
        slabs: see :class:`~scripts.ProgressiveCascadeModel`.
        quick: whether to take the sizes of `tiny.json`.
    """

    what: str
    network: str
    stage: int
    dtype: str
    batch: int = 1
    crop: int | None = None
    slabs: int = 1
    quick: bool = False

    @property
    def is_baseline(self) -> bool:
        return self.network in BASELINES


class Work:
    """
    One inference or one training step (forward, loss, backward, AdamW) on random X-rays.

    Args:
        case: which.
        network: in training or evaluation mode.
        loss: of the stage, in training; the baselines' is the first stage's.
        size: voxels along a side of the cascade's last volume.
        region: the crop, None for the whole.
    """

    def __init__(
        self, case: Case, network: nn.Module, loss: nn.Module | None, size: int, region: Region | None
    ) -> None:
        self.case, self.network, self.loss = case, network, loss
        self.target = {"xrays": torch.rand(case.batch, 2, 2 * size, 2 * size)}
        self.arguments: dict = {"stages": 1 if case.is_baseline else case.stage}
        if network.training:
            self.target |= {"ct": torch.rand(case.batch, 1, size, size, size)}
            self.optimizer = torch.optim.AdamW(p for p in network.parameters() if p.requires_grad)
        if region is not None:
            self.target["region"] = self.arguments["region"] = region
        if case.slabs > 1:
            self.arguments["slabs"] = case.slabs

    def __call__(self) -> None:
        is_training = self.network.training
        with torch.set_grad_enabled(is_training), torch.autocast("cpu", torch.bfloat16, self.case.dtype == "bfloat16"):
            volumes = self.network(self.target["xrays"], **self.arguments)
            loss = self.loss(volumes, self.target) if is_training else None
        if is_training:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.case:
        print(json.dumps(measure(Case(**json.loads(options.case)), options.repeats)))
        return
    table, seconds, peaks = Table(COLUMNS, options.markdown), {}, {}
    for case in cases(options):
        result = _in_its_own_process(case, options.repeats)
        if case.what == "peak":
            peaks[case.dtype] = result["flops"] / result["seconds"]
            table.add(what="peak", network="matrix product", type=case.dtype, **_cells(result, None))
            continue
        time = seconds[case] = result.get("seconds")
        smaller = seconds.get(replace(case, stage=case.stage - 1))
        growth = {"growth": time / smaller} if time and smaller else {}
        size = _config(case).get_parsed_content("imaging").volume_size(case.stage)
        part = f"crop {case.crop}" if case.crop else f"{case.slabs} slabs" if case.slabs > 1 else ""
        goal = None if case.is_baseline else GOALS.get((case.what, case.stage))
        table.add(
            what=case.what, network=case.network, size=size, type=case.dtype, batch=case.batch, part=part, goal=goal,
            **growth, **_cells(result, peaks.get(case.dtype)),
        )  # fmt: skip


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All rows, in the order in which they are printed."""
    crop = 32 if options.quick else 128
    for dtype in options.dtypes:
        yield Case("peak", "", 1, dtype, quick=options.quick)
    for what in (part for part in PARTS if part in options.parts):
        for network in options.networks:
            for dtype in ["bfloat16"] if what == "planned" else options.dtypes:
                for stage in options.stages:
                    batch = _config(Case(what, network, stage, dtype, quick=options.quick))["batch_size"]
                    case = Case(what, network, stage, dtype, batch if what == "planned" else 1, quick=options.quick)
                    yield case
                    if stage == 3 and network == "cascade":
                        part = {"slabs": 8} if what == "inference" else {"crop": crop}
                        yield replace(case, **part)


def measure(case: Case, repeats: int) -> dict[str, float]:
    """The figures of a case: seconds, FLOPs, memory in bytes. What would not fit into this machine is planned only."""
    if case.what == "peak":
        return _matrix_product(case)
    torch.manual_seed(0)
    config = _config(case)
    imaging = config.get_parsed_content("imaging")
    network = _network(case, config)
    modules = [network, config.get_parsed_content("loss")] if network.training else [network]
    region = None if case.crop is None else random_region(imaging.volume_size(case.stage), case.crop)

    def work_on(network: nn.Module, loss: nn.Module | None = None) -> Work:
        return Work(case, network, loss, imaging.volume_size(NUMBER_OF_STAGES), region)

    planned = plan(modules, work_on)
    result = {"flops": planned.flops, "planned": planned.peak_bytes}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if case.what == "planned" or planned.peak_bytes > FITTING * memory:
        return result
    imports = _peak_bytes()
    seconds = _seconds(work_on(*modules), repeats)
    return {**result, "seconds": seconds, "memory": _peak_bytes(), "imports": imports}


def _config(case: Case) -> ConfigParser:
    """The bundle's own configuration of the stage; a baseline has the loss of the first."""
    stage = 1 if case.is_baseline else case.stage
    overlays = ([f"stage{stage}.json"] if stage > 1 else []) + (["tiny.json"] if case.quick else [])
    config = ConfigParser()
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in ("train.json", *overlays)])
    config["vgg_weights"] = "untrained"
    return config


def _network(case: Case, config: ConfigParser) -> nn.Module:
    if case.is_baseline:
        imaging = config.get_parsed_content("imaging")
        size = imaging.volume_size(case.stage)
        network = LiftedNetwork(BASELINES[case.network](size), imaging.geometry, size)
    else:
        network = config.get_parsed_content("network_def")
    return network.train(case.what != "inference")


def _seconds(work: Work, repeats: int) -> float:
    """Median time of a run after the first."""
    first = _timed(work)
    return first if first > LONG else median(_timed(work) for _ in range(repeats))


def _timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _matrix_product(case: Case) -> dict[str, float]:
    """The fastest of some large square matrix products."""
    side = 512 if case.quick else 4096
    a, b = (torch.rand(side, side).to(getattr(torch, case.dtype)) for _ in range(2))
    return {"flops": 2 * side**3, "seconds": min(_timed(lambda: a @ b) for _ in range(PRODUCTS))}


def _peak_bytes() -> int:
    """Peak resident memory of this process so far; the unit is KiB everywhere but on a Mac."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _in_its_own_process(case: Case, repeats: int) -> dict[str, float]:
    line = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--repeats", str(repeats)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=environment)
    if run.returncode:
        raise RuntimeError(f"{case} ended with {run.returncode}; its own message stands above.")
    return json.loads(run.stdout.splitlines()[-1])


def _cells(result: dict[str, float], peak: float | None) -> dict[str, object]:
    cells: dict[str, object] = {"GFLOP": result["flops"] / 1e9}
    if "planned" in result:
        cells["planned GB"] = result["planned"] / 1e9
    if "seconds" in result:
        rate = result["flops"] / result["seconds"]
        cells |= {"seconds": result["seconds"], "of peak": f"{rate / peak:.0%}" if peak else f"{rate / 1e9:.0f} G/s"}
    if "memory" in result:
        cells |= {"memory GiB": result["memory"] / 2**30, "imports GiB": result["imports"] / 2**30}
    return cells


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--stages", nargs="+", type=int, choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--networks", nargs="+", choices=("cascade", *BASELINES), default=("cascade", *BASELINES))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
