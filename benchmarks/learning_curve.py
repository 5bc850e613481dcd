"""
What more training patients are worth to stage 1 and to the best baseline: both trained on some of a split's patients,
then on more of them, as long each time, and scored on patients that they never saw. See learning_curve.md.

    python benchmarks/learning_curve.py --dataset_dir DIR --split SPLIT --shapes_dir SHAPES --output OUT --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import numpy as np
from matplotlib.figure import Figure

import learning
from patients import Record, records_in, with_interval
from scripts.anatomy.shapes import read_content, read_shapes, read_targets, write_shapes
from scripts.evaluation.summary import mean_and_interval
from scripts.io.atomic_write import NOTICE, write_atomically, write_json
from table import Table

METHODS = ("stage1", "without_shapes", "without_augmentation", "unet")
METRICS = {
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "mae_hu": "MAE HU",
    "lung_volume_error_l": "error of lung volume, L",
}
FARTHEST = 100
"""Patients up to which the line is drawn: ten times as many as there are to fit it."""
UNUSED = "unused"
"""Section of a datalist with the training patients that a part of them leaves out."""
CASES = "cases"

Curves = dict[str, dict[int, list[Record]]]
"""The results of every method by number of patients, one for each seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    split = json.loads(options.split.read_text(encoding="utf-8"))
    counts = sorted({min(count, len(split["training"])) for count in options.patients})
    curves: Curves = {method: {} for method in options.methods}
    for count in counts:
        for seed in options.seeds:
            for method, result in trained(count, seed, split, options).items():
                curves[method].setdefault(count, []).append(result)
    print_scores(curves, options)
    print_gains(curves, options)
    figure = curve_figure(curves, options.section)
    write_atomically(str(options.output / "learning_curve.png"), figure.savefig)


def trained(count: int, seed: int, split: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Record]:
    """Every method trained on so many patients and scored by `learning.py`, which keeps what is done."""
    folder = options.output / f"{count}_patients_seed{seed}"
    part = part_of(split, count, seed)
    write_json(str(folder / "split.json"), part)
    steps, own = options.output / "seconds_per_step.json", folder / "seconds_per_step.json"
    if steps.is_file():
        shutil.copyfile(steps, own)
    lines = ["--dataset_dir", options.dataset_dir, "--split", folder / "split.json", "--output", folder]
    lines += ["--seeds", seed, "--minutes", options.minutes, "--deformations", options.deformations]
    lines += ["--methods", *options.methods, *["--tiny"] * options.tiny, *["--markdown"] * options.markdown]
    if options.shapes_dir and count > 1:
        named = {Path(record["ct"]).name for record in part["training"]}
        records = [record for record in records_in(options.dataset_dir) if Path(record["ct"]).name in named]
        write_shapes_between(records, options.shapes_dir, folder / "shapes", fov_mm())
        lines += ["--shapes_dir", folder / "shapes"]
    learning.main([str(part) for part in lines])
    if own.is_file():
        shutil.copyfile(own, steps)
    paths = {method: folder / f"fold0_{method}_seed{seed}.json" for method in options.methods}
    return {method: json.loads(path.read_text(encoding="utf-8")) for method, path in paths.items()}


def part_of(split: Mapping[str, Any], count: int, seed: int) -> dict[str, Any]:
    """The split with so many of its training patients; those of fewer are among those of more."""
    order = np.random.RandomState(seed).permutation(len(split["training"]))
    chosen = [split["training"][place] for place in order]
    return {**split, "training": chosen[:count], UNUSED: chosen[count:]}


def write_shapes_between(records: Sequence[Record], source: Path, folder: Path, fov_mm: float) -> None:
    """The displacements of `launch.py register` between these CTs alone, so that no others' bodies are trained on."""
    names = {record["name"] for record in records}
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        path = str(source / f"{record['name']}.nii.gz")
        content, targets = read_content(path), read_targets(path)
        chosen = [place for place, target in enumerate(targets) if target in names]
        kept = {**content, "targets": [targets[place] for place in chosen]}
        write_shapes(str(folder / f"{record['name']}.nii.gz"), read_shapes(path, fov_mm)[chosen], fov_mm, kept)


def fov_mm() -> float:
    """Side of the field of view of the bundle's configuration."""
    return float(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())["geometry"]["fov_mm"])


def by_patient(runs: Sequence[Record], section: str, metric: str) -> dict[str, float]:
    """A metric of each patient of a section, its mean over the runs; without patients of whom it cannot be had."""
    found = {
        patient: [case[metric] for run in runs for case in run[section][patient] if case[metric] is not None]
        for patient in runs[0][section]
    }
    return {patient: fmean(values) for patient, values in found.items() if values}


def print_scores(curves: Curves, options: argparse.Namespace) -> None:
    """A row for each method and number of patients: means over seeds, then over patients with their interval."""
    table = Table({"method": 22, "patients": 8, "seeds": 5} | dict.fromkeys(METRICS.values(), 26), options.markdown)
    for method, runs_of in curves.items():
        for count, runs in runs_of.items():
            cells = {
                heading: with_interval(by_patient(runs, options.section, metric).values())
                for metric, heading in METRICS.items()
            }
            table.add(method=method, patients=count, seeds=len(runs), **cells)


def print_gains(curves: Curves, options: argparse.Namespace) -> None:
    """
    What the number of patients is worth: the difference of the most and each fewer, and of a doubling by the line
    through all, by patient; and where that line leads, which nobody has measured.
    """
    print()
    table = Table({"method": 22, "PSNR dB": 40, "mean": 26}, options.markdown)
    for method, runs_of in curves.items():
        of_counts = {count: by_patient(runs, options.section, "psnr_db") for count, runs in runs_of.items()}
        most = max(of_counts)
        for count in of_counts:
            if count < most:
                gains = [of_counts[most][patient] - psnr for patient, psnr in of_counts[count].items()]
                table.add(method=method, **{"PSNR dB": f"{most} patients for {count}", "mean": with_interval(gains)})
        if len(of_counts) > 1:
            lines = lines_of(of_counts)
            slopes = [slope for slope, _ in lines.values()]
            table.add(method=method, **{"PSNR dB": "a doubling, by the line", "mean": with_interval(slopes)})
            ends = [start + slope * np.log2(FARTHEST) for slope, start in lines.values()]
            table.add(method=method, **{"PSNR dB": f"EXTRAPOLATED to {FARTHEST} patients", "mean": with_interval(ends)})


def lines_of(of_counts: Mapping[int, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """For each patient slope and start of the least-squares line of a metric over log2 of the training patients."""
    doublings = np.log2(list(of_counts))
    patients = next(iter(of_counts.values()))
    values = {patient: [of_count[patient] for of_count in of_counts.values()] for patient in patients}
    return {patient: tuple(map(float, np.polyfit(doublings, found, 1))) for patient, found in values.items()}


def curve_figure(curves: Curves, section: str) -> Figure:
    """Each metric against the number of training patients, a line for each method; beyond the data, dashed."""
    figure = Figure(figsize=(11, 6.5), layout="constrained", dpi=110)
    figure.suptitle(f"Stage 1 by number of training patients, section '{section}', equal time\n{NOTICE}", fontsize=10)
    for place, (metric, heading) in zip(figure.subplots(2, 2).flat, METRICS.items()):
        for number, (method, runs_of) in enumerate(curves.items()):
            of_counts = {count: by_patient(runs, section, metric) for count, runs in runs_of.items()}
            found = [mean_and_interval(list(values.values())) for values in of_counts.values()]
            place.plot(list(of_counts), [each["mean"] for each in found], "o-", color=f"C{number}", label=method)
            if metric == "psnr_db" and len(of_counts) > 1:
                ends = np.array([max(of_counts), FARTHEST])
                lines = lines_of(of_counts).values()
                drawn = [fmean(start + slope * at for slope, start in lines) for at in np.log2(ends)]
                place.plot(ends, drawn, "--", color=f"C{number}", linewidth=0.8)
        place.set_xscale("log", base=2)
        place.set_title(heading, fontsize=9)
        place.set_xlabel("training patients; dashed: extrapolated", fontsize=8)
        place.grid(linewidth=0.3)
        place.tick_params(labelsize=7)
        place.legend(fontsize=7)
    return figure


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="the CTs of the split, *.nii.gz, and no others")
    parser.add_argument("--split", type=Path, required=True, help="datalist with the section training")
    parser.add_argument("--section", default="test", help="of the split, what is compared")
    parser.add_argument("--shapes_dir", type=Path, help="what `launch.py register` made of the training patients")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "learning_curve", help="keeps what is done")
    parser.add_argument("--patients", nargs="+", type=int, default=[1, 3, 6, 1000], help="more than there are: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training steps, each time")
    parser.add_argument("--deformations", type=int, default=100, help="of each training CT")
    parser.add_argument("--tiny", action="store_true", help="the small network of tiny.json, to see that it works")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
