"""Assessing reconstructions without a CT: one pair of radiographs, or those of a folder one after the other."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from . import places
from .computing import Computing
from .failures import LaunchError
from .files import write_atomically
from .tables import print_assessment
from .weights import assessed_beside, sidecar_overlay
from .workflows import run_workflow

VIEWS = ("frontal", "lateral")
COLUMNS = (
    "pair", "error", "consistency_before", "consistency_after", "consistency_reconstructed_from",
    "reprojection_mae_frontal", "reprojection_mae_lateral", "distance", "threshold", "flagged",
    "lung_dice", "lung_contour_mm", "rules_passed", "rules_failed",
)  # fmt: skip
"""Of `assessments.csv`; a figure that there is not is empty."""


def assess(pair: dict[str, Path], weights: Path, output: Path, computing: Computing) -> dict:
    """Reconstructs a pair as `infer` does, and assesses it; what `assessment.json` then holds."""
    for name, path in pair.items():
        if not path.is_file():
            raise LaunchError(f"--{name} {path}: no such file.")
    configs = [places.CONFIGS / "inference.json", places.CONFIGS / "assess.json", *sidecar_overlay(weights)]
    chosen = {"weights": weights, "output_dir": output, **assessed_beside(weights)}
    run_workflow("run", configs, output, computing, **pair, **chosen)
    content = json.loads((output / "assessment.json").read_text(encoding="utf-8"))
    print_assessment(content)
    return content


def assess_folder(folder: Path, weights: Path, output: Path, computing: Computing) -> None:
    """
    Assesses the pairs of a folder one after the other, goes on where one fails, and writes `assessments.csv` and
    `assessments.json`.

    Raises:
        LaunchError: when the folder is not one of pairs; or, at the end, when pairs have failed, with each and why.
    """
    pairs = sorted(pairs_of(folder).items())
    rows = []
    for number, (name, place) in enumerate(pairs, start=1):
        print(f"\n[{number} of {len(pairs)}] {name}", flush=True)
        try:
            rows.append({"pair": name, **row_of(assess(radiographs_of(place), weights, output / name, computing))})
        except LaunchError as error:
            print(f"{name} failed: {error}", flush=True)
            rows.append({"pair": name, "error": str(error)})
        write_summary(rows, output)
    failed = [f"{row['pair']}: {row['error']}" for row in rows if "error" in row]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} pairs are assessed, in {output / 'assessments.csv'}.")
    if failed:
        raise LaunchError("\n".join([f"{len(failed)} of {len(rows)} pairs failed:", *failed]))


def pairs_of(folder: Path) -> dict[str, Path]:
    """
    The sub-folders of a folder by name; hidden files and folders do not count.

    Raises:
        LaunchError: when there is none, or a file lies beside them.
    """
    if not folder.is_dir():
        raise LaunchError(f"--pairs {folder}: no such folder.")
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path.name for path in found if not path.is_dir()]
    if files or not found:
        what = f"holds the file {files[0]}" if files else "is empty"
        raise LaunchError(
            f"--pairs {folder}: {what}, expected sub-folders alone, one for each pair, with the files frontal.* and "
            f"lateral.*, such as {folder.name}/patient_1/frontal.png; move the files there."
        )
    return {path.name: path for path in found}


def radiographs_of(folder: Path) -> dict[str, Path]:
    """
    The frontal and the lateral file of a pair's folder.

    Raises:
        LaunchError: when there is not one of each.
    """
    pair = {}
    for view in VIEWS:
        found = [path for path in folder.iterdir() if path.is_file() and path.name.split(".")[0].lower() == view]
        if len(found) != 1:
            raise LaunchError(f"{folder}: {len(found)} files {view}.* are there, expected one; add or remove some.")
        pair[view] = found[0]
    return pair


def row_of(content: dict) -> dict[str, object]:
    """The row of `assessments.csv` of what an `assessment.json` holds."""
    consistency, rules = content["consistency"], content["checklist"]["rules"]
    known = content["out_of_distribution"] or {}
    return {
        "consistency_before": consistency["before_calibration"],
        "consistency_after": consistency["after_calibration"],
        "consistency_reconstructed_from": consistency["as_reconstructed"],
        **{f"reprojection_mae_{view}": content["reprojection"][view]["mae"] for view in VIEWS},
        **{name: known.get(name) for name in ("distance", "threshold", "flagged")},
        "lung_dice": content["lung_fields"]["dice"],
        "lung_contour_mm": content["lung_fields"]["contour_distance_mm"],
        "rules_passed": content["checklist"]["passed"],
        "rules_failed": " ".join(rule["key"] for rule in rules if not rule["passed"]),
    }


def write_summary(rows: list[dict], output: Path) -> None:
    """`assessments.csv`, and `assessments.json`: how many were assessed, how often each rule failed, what failed."""
    output.mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    table = csv.DictWriter(lines, fieldnames=COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(output / "assessments.csv", lines.getvalue())
    done = [row for row in rows if "error" not in row]
    rules = [key for row in done for key in row["rules_failed"].split()]
    content = {
        "notice": "Research use only, not for diagnosis",
        "pairs": len(rows),
        "assessed": len(done),
        "flagged": sum(bool(row["flagged"]) for row in done),
        "failed_rules": {key: rules.count(key) for key in sorted(set(rules))},
        "failed": {row["pair"]: row["error"] for row in rows if "error" in row},
    }
    write_atomically(output / "assessments.json", json.dumps(content, indent=2) + "\n")
