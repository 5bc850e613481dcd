"""
What other people's bodies are worth to stages 2 and 3: each trained with them and without, as long and on the same
samples, from the same stage before it, and scored on patients that it never saw. See refining.md.

    python benchmarks/refining.py --dataset_dir DIR --split SPLIT --weights STAGE1 --output OUT --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from launcher.computing import Computing
from launcher.evaluation import run_evaluation
from launcher.overlays import content_of
from launcher.places import CONFIGS
from launcher.training import train_stages
from patients import with_interval
from scripts.io.atomic_write import write_json
from table import Table

VARIANTS = {"without anatomy": False, "with anatomy": True}
METRICS = {"psnr_db": "PSNR dB", "ssim": "SSIM", "mae_hu": "MAE HU", "reprojection_mae": "reprojection"}
COLUMNS = {"stage": 6, "method": 44, "runs": 5, "steps": 6, "s/step": 7, **dict.fromkeys(METRICS.values(), 26)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    output = options.output.resolve()
    write_datalist(options.dataset_dir.resolve(), options.split, output / "data")
    runs = [
        trained(variant, seed, output, options)
        for seed in options.seeds
        for variant in VARIANTS
        if variant in options.variants
    ]
    print_table(runs, options)


def write_datalist(dataset_dir: Path, split: Path, folder: Path) -> None:
    """The split, its paths whole."""
    sections = json.loads(split.read_text(encoding="utf-8"))
    named = {
        section: [record | {"ct": str(dataset_dir / record["ct"])} for record in records]
        for section, records in sections.items()
        if isinstance(records, list)
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(str(folder / "datalist.json"), {**sections, **named})


def trained(variant: str, seed: int, output: Path, options: argparse.Namespace) -> dict[str, Any]:
    """
    Stages 2 and, where asked for, 3 of a variant, trained and scored; what is done is kept.

    Returns:
        The variant, the seed, for each stage its steps and seconds a step, and the rows of its evaluation.
    """
    anatomy = VARIANTS[variant]
    folder = output / f"{variant.replace(' ', '_')}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "stage1_best.pth").is_file():
        shutil.copyfile(options.weights, folder / "stage1_best.pth")
    found: dict[str, Any] = {"variant": variant, "seed": seed, "stages": {}}
    for stage in options.stages:
        overlay = folder / f"overlay{stage}.json"
        write_json(str(overlay), overlay_of(stage, seed, options))
        computing = Computing(threads=options.threads)
        train_stages([stage], output / "data", folder, overlay, computing, anatomy=anatomy)
        scores = folder / f"{options.section}_stage{stage}"
        if not (scores / "metrics.csv").is_file():
            weights = folder / f"stage{stage}_best.pth"
            chosen = {"stage": str(stage), "test_section": options.section, "written_cases": "0"}
            run_evaluation(output / "data", scores, weights, computing, **chosen)
        epochs = [json.loads(line) for line in (folder / f"stage{stage}_epochs.jsonl").read_text().splitlines()]
        steps = epochs[-1]["step"]
        with open(scores / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        seconds = sum(epoch["seconds"] for epoch in epochs) / steps
        found["stages"][stage] = {"steps": steps, "seconds_per_step": seconds, "rows": rows}
    return found


def overlay_of(stage: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The overlay's stage in the crops, epochs and seed of this benchmark; no epoch is chosen."""
    changes = {"seed": seed, "epochs": options.epochs, "repeats": options.repeats, "crop": options.crop}
    overlay = content_of(options.overlay, stage) | changes | {"val_interval": "@epochs"}
    return {name: value for name, value in overlay.items() if name != "datalist"}


def print_table(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """
    A row for each method, the networks' of each variant apart: means over seeds, then over patients with their 95 %
    interval; then what each has more than the upsampled stage before, by patient.
    """
    table = Table(COLUMNS, options.markdown)
    methods = {stage: rows_by_method(stage, runs) for stage in options.stages}
    for stage, by_method in methods.items():
        for method, rows in by_method.items():
            spent = [run["stages"][stage] for run in runs if method == _name(stage, run["variant"])]
            effort = (
                {"steps": spent[0]["steps"], "s/step": fmean(s["seconds_per_step"] for s in spent)} if spent else {}
            )
            cells = {label: with_interval(_by_patient(rows, metric).values()) for metric, label in METRICS.items()}
            table.add(stage=stage, method=method, runs=len(spent) or None, **effort, **cells)
    table = Table({"stage": 6, "method": 44, "metric": 12, "difference": 30, "by patient": 60}, options.markdown)
    for stage, by_method in methods.items():
        base = by_method.pop(f"upsampled stage {stage - 1}")
        for method, rows in by_method.items():
            for metric, label in METRICS.items():
                mine, its = _by_patient(rows, metric), _by_patient(base, metric)
                gains = {patient: value - its[patient] for patient, value in mine.items()}
                shown = ", ".join(f"{patient} {gain:+.3g}" for patient, gain in gains.items())
                cells = {"metric": label, "difference": with_interval(gains.values()), "by patient": shown}
                table.add(stage=stage, method=method, **cells)


def rows_by_method(stage: int, runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """The rows of a stage's size, those of its network under the name of the variant."""
    by_method: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        rows = run["stages"][stage]["rows"]
        size = next(row["size"] for row in rows if row["method"] == f"stage {stage}")
        for row in rows:
            if row["size"] == size:
                is_network = row["method"] == f"stage {stage}"
                by_method.setdefault(_name(stage, run["variant"]) if is_network else row["method"], []).append(row)
    return by_method


def _name(stage: int, variant: str) -> str:
    return f"stage {stage} {variant}"


def _by_patient(rows: Sequence[dict[str, str]], metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["patient"], []).append(float(row[metric]))
    return {patient: fmean(of_patient) for patient, of_patient in values.items()}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="holds the CTs of the datalist")
    parser.add_argument("--split", type=Path, default=CONFIGS / "split.json", help="datalist")
    parser.add_argument("--section", default="validation", help="whose patients are scored")
    parser.add_argument(
        "--weights", type=Path, default=ROOT / "bundle" / "models" / "stage1_best.pth", help="stage 1's"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "refining", help="keeps what is done")
    parser.add_argument("--overlay", type=Path, default=CONFIGS / "weights", help="sizes and schedule")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--stages", nargs="+", type=int, choices=(2, 3), default=[2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=4, help="of each training CT in an epoch")
    parser.add_argument("--crop", type=int, default=64, help="voxels along a side of what is decoded and scored")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
