"""
What other people's bodies are worth without any training: each CT of the section `training` is registered to stage 1's
volume of a patient of another section, deformed, averaged, and joined with stage 2's volume.

    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --section validation
    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --pairs 12

The second registers training patients to each other and says how close they come, in how much CPU time, and whether
anything folds: the smallest determinant of the Jacobian, between neighbouring voxels at 64³, has to be positive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from time import process_time
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]
from monai.bundle import ConfigParser
from tqdm import tqdm

from scripts.anatomy.neighbours import Neighbours
from scripts.anatomy.registration import windowed
from scripts.anatomy.shape_model import ShapeModel
from scripts.evaluation.metrics import volume_metrics
from scripts.projection.resampling import resized, truth_at, upsample
from scripts.training.checkpoints import read_checkpoint
from table import Table

CONFIGS = ROOT / "bundle" / "configs"
STAGE = 2
DETERMINANTS_SIZE = 64
SHAPE_GRID = 24
METRICS = {"psnr_db": "PSNR dB", "ssim": "SSIM", "mae_hu": "MAE HU"}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = ConfigParser()
    config.read_config([str(CONFIGS / name) for name in ("train.json", "anatomy.json")])
    sections = json.loads(options.split.read_text(encoding="utf-8"))
    load = config.get_parsed_content("load")

    def cts_of(section: str) -> dict[str, torch.Tensor]:
        paths = [options.dataset_dir / record["ct"] for record in sections[section]]
        loaded = {path.name: load({"ct": str(path)})["ct"] for path in tqdm(paths, desc=f"Loading {section}")}
        return {name: torch.as_tensor(ct).as_subclass(torch.Tensor)[None] for name, ct in loaded.items()}

    training = {name: truth_at(ct, ct.shape[-1] // 2) for name, ct in cts_of("training").items()}
    if options.pairs:
        print_pairs(training, config, options)
    else:
        print_rows(training, cts_of(options.section), config, options)


def print_pairs(training: dict[str, torch.Tensor], config: ConfigParser, options: argparse.Namespace) -> None:
    """A row for each pair, evenly chosen of all, and their means."""
    register = config.get_parsed_content("registration")
    pairs = list(permutations(training, 2))
    chosen = pairs[:: max(1, len(pairs) // options.pairs)][: options.pairs]
    columns = {"moving": 34, "fixed": 34, "before": 8, "after": 8, "CPU s": 6, "det": 6}
    table, rows = Table(columns, options.markdown), []
    for moving, fixed in chosen:
        started = process_time()
        deformation, _ = register(training[moving], training[fixed])
        seconds = process_time() - started
        after = difference(deformation.warp(training[moving], training[fixed].shape[-1]), training[fixed])
        found = {
            "before": difference(training[moving], training[fixed]),
            "after": after,
            "CPU s": seconds,
            "det": deformation.determinants(DETERMINANTS_SIZE).min().item(),
        }
        rows.append(found)
        table.add(moving=moving, fixed=fixed, **found)
    table.add(moving="mean", **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]})


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean square of the difference at 48³, in the windows of the registration."""
    return (resized(windowed(one), 48) - resized(windowed(other), 48)).square().mean().item()


def print_rows(
    training: dict[str, torch.Tensor],
    unseen: dict[str, torch.Tensor],
    config: ConfigParser,
    options: argparse.Namespace,
) -> None:
    """A row for each patient and method, and the means over the patients."""
    imaging, registration = config.get_parsed_content("imaging"), config.get_parsed_content("registration")
    network = config.get_parsed_content("network_def").eval()
    network.up_to(3).load_state_dict(read_checkpoint(str(options.weights)))
    cts = torch.cat(list(training.values()))
    shapes = ShapeModel.of(cts[:1], cts[1:], registration, SHAPE_GRID)
    table = Table({"patient": 34, "method": 34, **dict.fromkeys(METRICS.values(), 8), "CPU s": 6}, options.markdown)
    found: dict[str, list[dict[str, float]]] = {}
    for name, ct in unseen.items():
        neighbours = Neighbours(cts, registration, imaging)
        size = imaging.volume_size(STAGE)
        truth = truth_at(imaging.scale(ct), size)
        with torch.no_grad():
            xrays = imaging.project(ct)
            stage1, stage2 = network(xrays, stages=STAGE)
        volumes: dict[str, tuple[torch.Tensor, float]] = {
            "upsampled stage 1": (upsample(stage1), 0.0),
            "stage 2": (stage2, 0.0),
        }
        started = process_time()
        coefficients, _ = shapes.fit(imaging.to_hu(stage1))
        volumes["shape model"] = (imaging.scale(shapes.warp(coefficients, size)), process_time() - started)
        target, started = stage1, process_time()
        for turn in (1, 2):
            warped = neighbours.warped(neighbours.register(target), size)
            mean = warped.mean(0, keepdim=True)
            target = neighbours.joined(mean, stage2, xrays)
            seconds = process_time() - started
            volumes[f"mean of {len(cts)} neighbours, turn {turn}"] = (mean, seconds)
            volumes[f"joined with stage 2, turn {turn}"] = (target, seconds)
        for method, (volume, seconds) in volumes.items():
            metrics = volume_metrics(volume.clamp(0, 1), truth, imaging)
            row = {label: metrics[metric] for metric, label in METRICS.items()} | {"CPU s": seconds}
            found.setdefault(method, []).append(row)
            table.add(patient=name, method=method, **_rounded(row))
    for method, rows in found.items():
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        table.add(patient="mean", method=method, **_rounded(means))


def _rounded(row: dict[str, float]) -> dict[str, Any]:
    digits = {"PSNR dB": 2, "SSIM": 3, "MAE HU": 1, "CPU s": 1}
    return {name: f"{value:.{digits[name]}f}" for name, value in row.items()}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="holds the CTs of the datalist")
    parser.add_argument("--split", type=Path, default=CONFIGS / "split.json", help="datalist")
    parser.add_argument("--section", default="validation", help="whose patients are reconstructed")
    parser.add_argument("--weights", type=Path, default=ROOT / "bundle" / "models" / "model.pt")
    parser.add_argument("--pairs", type=int, default=0, help="how many pairs of training patients to register instead")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
