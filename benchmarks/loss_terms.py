"""
What each term of the losses is worth on patients that were never seen: the cascade at the demo's size, each stage
trained with all its terms and with one left out, from the same stage before it. See learning.md.

    python benchmarks/loss_terms.py --dataset_dir DIR --output OUT [--fold 0] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from launcher.evaluation import run_evaluation
from launcher.overlays import content_of
from launcher.places import CONFIGS
from launcher.training import train_stages
from patients import left_out, records_in
from scripts.io.atomic_write import write_json
from table import Table

ALL = "all"
LEFT_OUT = {"l1": "loss#l1", "ssim": "loss#ssim", "vgg": "vgg", "gradient": "loss#gradient", "drr": "drr"}
"""Where the configs have the weight of each term."""
TERMS = {1: ("l1", "ssim"), 2: ("l1", "ssim", "vgg"), 3: ("l1", "ssim", "vgg", "gradient", "drr")}
METRICS = {"psnr_db": "PSNR dB", "ssim": "SSIM", "mae_hu": "MAE HU", "reprojection_mae": "reprojection"}
COLUMNS = {"stage": 6, "left out": 16, "patients": 8, **dict.fromkeys(METRICS.values(), 12)}
FOLDS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of CTs, *.nii.gz")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "loss_terms", help="keeps what is done")
    parser.add_argument("--fold", type=int, default=0, help=f"which of the {FOLDS} folds of patients is left out")
    parser.add_argument("--repeats", type=int, default=5, help="of each training CT in an epoch")
    parser.add_argument("--overlay", type=Path, default=CONFIGS / "demo", help="sizes and schedule")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    write_datalist(options.dataset_dir, options.fold, output / "data")
    results = {
        (stage, term): trained_without(stage, term, output, options.overlay, options.repeats)
        for stage, terms in TERMS.items()
        for term in (ALL, *terms)
    }
    print_table(results, options.markdown)


def write_datalist(dataset_dir: Path, fold: int, folder: Path) -> None:
    """
    The patients of a fold as `test`, all others as `training`. Training validates once, after its last epoch, so that
    `validation` chooses nothing.
    """
    records = records_in(dataset_dir.resolve())
    unseen = left_out(records, FOLDS)[fold]
    sections = {"training": [], "test": []}
    for record in records:
        sections["test" if record["group"] in unseen else "training"].append({"ct": record["ct"]})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(str(folder / "datalist.json"), {**sections, "validation": sections["training"][:1]})


def trained_without(stage: int, term: str, output: Path, overlay: Path, repeats: int) -> list[dict[str, Any]]:
    """The cases of the evaluation of a stage that was trained without a term; done once and kept."""
    folder = output / f"stage{stage}_{'with_all' if term == ALL else f'without_{term}'}"
    if not (folder / "metrics.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if stage > 1:
            before = f"stage{stage - 1}_best.pth"
            shutil.copyfile(output / f"stage{stage - 1}_with_all" / before, folder / before)
        config = content_of(overlay, stage)
        config |= {"repeats": repeats, "val_interval": "@epochs"} | ({} if term == ALL else {LEFT_OUT[term]: 0.0})
        path = output / f"{folder.name}.json"
        write_json(str(path), config)
        train_stages([stage], output / "data", folder, path)
        weights = folder / f"stage{stage}_best.pth"
        run_evaluation(output / "data", folder, weights, stage=str(stage), written_cases="0")
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["summary"]


def print_table(results: dict[tuple[int, str], list[dict[str, Any]]], markdown: bool) -> None:
    """Means over the unseen patients, next to the upsampled stage before."""
    table = Table(COLUMNS, markdown)
    for (stage, term), summary in results.items():
        own = next(entry for entry in summary if entry["method"] == f"stage {stage}")
        if term == ALL and stage > 1:
            base = next(entry for entry in summary if entry["method"] == f"upsampled stage {stage - 1}")
            table.add(**{"stage": stage, "left out": "the stage itself"}, **_cells(base))
        table.add(**{"stage": stage, "left out": "nothing" if term == ALL else term}, **_cells(own))


def _cells(entry: dict[str, Any]) -> dict[str, Any]:
    means = {column: f"{entry[name]['mean']:.4g}" for name, column in METRICS.items()}
    return {"patients": entry["cases"], **means}


if __name__ == "__main__":
    main()
