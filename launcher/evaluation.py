"""Scoring weights, and systems on pairs of radiographs with a CT."""

from __future__ import annotations

import json
from pathlib import Path

from . import places
from .computing import Computing
from .failures import LaunchError
from .tables import print_pairs
from .weights import assessed_beside, check_weights, sidecar_overlay
from .workflows import run_workflow


def run_evaluation(
    dataset: Path,
    output: Path,
    weights: Path,
    computing: Computing = Computing(),
    further: tuple[Path, ...] = (),
    workflow: str = "run",
    **overrides: Path | str,
) -> None:
    """
    Scores weights on a dataset by `evaluate.json`.

    Args:
        dataset: holds the CTs, and the datalist where there is one.
        output: gets the scores.
        weights: with the overlay config of their training next to them, if they have one.
        computing: where it computes.
        further: configs that are merged after `evaluate.json`.
        workflow: "run", or "merge" of what shards have left.
        overrides: values of config ids.
    """
    configs = [places.CONFIGS / "train.json", places.CONFIGS / "evaluate.json", *further, *sidecar_overlay(weights)]
    # An overlay may name the datalist of its training, which is not that of this dataset.
    given = {"dataset_dir": dataset, "datalist": dataset / "datalist.json", "weights": weights, "output_dir": output}
    computing = computing.of_one_process() if workflow == "merge" else computing
    run_workflow(workflow, configs, output, computing, **{**given, **overrides})


def evaluate_pairs(
    dataset: Path,
    output: Path,
    weights: Path,
    predictions: Path | None = None,
    computing: Computing = Computing(),
    **overrides: Path | str,
) -> None:
    """
    Scores the section `pairs` of a datalist by `evaluate_pairs.json`, and prints the table also where patients fail.

    Args:
        dataset: holds radiographs, CTs and the datalist.
        output: gets the scores.
        weights: reconstruct the pairs, where there are no predictions.
        predictions: a folder of another system's volumes; None for the weights.
        computing: where it computes.
        overrides: values of config ids.

    Raises:
        LaunchError: when anything fails; patients that do are listed in it.
    """
    given = {"dataset_dir": dataset, "datalist": dataset / "datalist.json", "output_dir": output, **overrides}
    if predictions is None:
        check_weights(weights)
        workflow, further = "run", sidecar_overlay(weights)
        given |= {"weights": weights, **assessed_beside(weights)}
    else:
        if not predictions.is_dir():
            raise LaunchError(f"--predictions {predictions}: no such folder.")
        workflow, further = "run_folder", []
        given |= {"predictions": predictions}
    configs = [places.CONFIGS / "inference.json", places.CONFIGS / "evaluate_pairs.json", *further]
    report = output / "pairs.json"
    report.unlink(missing_ok=True)
    try:
        run_workflow(workflow, configs, output, computing, **given)
    finally:
        if report.is_file():
            print_pairs(json.loads(report.read_text(encoding="utf-8")))
            print(
                f"\nEvery patient is in {output / 'pairs.csv'}; pairs.json next to it has the definitions.", flush=True
            )
