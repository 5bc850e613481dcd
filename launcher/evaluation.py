"""Scoring weights."""

from __future__ import annotations

from pathlib import Path

from . import places
from .computing import Computing
from .weights import sidecar_overlay
from .workflows import run_workflow


def run_evaluation(
    dataset: Path,
    output: Path,
    weights: Path,
    computing: Computing = Computing(),
    further: tuple[Path, ...] = (),
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
        overrides: values of config ids.
    """
    configs = [places.CONFIGS / "train.json", places.CONFIGS / "evaluate.json", *further, *sidecar_overlay(weights)]
    # An overlay may name the datalist of its training, which is not that of this dataset.
    given = {"dataset_dir": dataset, "datalist": dataset / "datalist.json", "weights": weights, "output_dir": output}
    run_workflow("run", configs, output, computing, **{**given, **overrides})
