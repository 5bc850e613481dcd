"""Weights, and what a training has left next to them."""

from __future__ import annotations

from pathlib import Path

from .failures import LaunchError
from .from_bundle import shared_overlay

SIDECARS = {"familiarity": "familiarity", "calibration": "projections"}
"""Ids of `inference.json`, and the sidecar of the weights that each needs."""


def check_weights(weights: Path) -> None:
    if not weights.is_file():
        raise LaunchError(
            f"{weights}: no such weights. Train them with `python launch.py train --stage all` (or see them work with "
            f"`python launch.py demo`), then name them by --weights DIR/stage3_best.pth."
        )


def check_start(weights: Path, dataset: Path | None, output: Path) -> None:
    """Refuses what a training cannot start from, before any work."""
    if not weights.is_file():
        found = "is a folder, expected a file in it" if weights.is_dir() else "no such file, expected weights"
        raise LaunchError(f"--from {weights}: {found}, such as stage3_best.pth of a training.")
    if dataset is None:
        raise LaunchError("--from needs --dataset_dir: say on which data the training goes on.")
    if weights.parent == output:
        raise LaunchError(f"--from {weights}: lies in --output, which is written over. Choose another --output.")


def assessed_beside(weights: Path) -> dict[str, str]:
    """Those ids of `inference.json` that the weights have the sidecars for, as what is asked of it."""
    there = {name: weights.with_name(f"{weights.stem}_{sidecar}.json") for name, sidecar in SIDECARS.items()}
    return {name: "True" for name, path in there.items() if path.is_file()}


def sidecar_overlay(weights: Path) -> list[Path]:
    """The overlay config that a training has left next to its weights; none where it would not change the network."""
    return [weights.parent / shared_overlay.NAME] if read_sidecar_overlay(weights.parent) else []


def read_sidecar_overlay(folder: Path) -> dict:
    """What the overlay config of a folder of weights holds: numbers and words, which nothing evaluates."""
    overlay = folder / shared_overlay.NAME
    if not overlay.is_file():
        return {}
    try:
        return shared_overlay.read_shared_overlay(overlay)
    except ValueError as error:
        raise LaunchError(str(error)) from error
