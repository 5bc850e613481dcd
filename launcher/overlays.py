"""The config that changes ids of `train.json`: what a training may be given."""

from __future__ import annotations

import json
from pathlib import Path

from .failures import LaunchError
from .from_bundle import shared_overlay
from .places import ROOT


def checked_overlay(overlay: Path, dataset: Path | None) -> Path:
    """The path of a training's overlay config, from the repository root where it lies in it."""
    if "datalist" in content_of(overlay) and dataset is None:
        raise LaunchError(f"{overlay} names a datalist: say by --dataset_dir where the files of its records lie.")
    return overlay.relative_to(ROOT) if overlay.is_relative_to(ROOT) else overlay


def content_of(overlay: Path) -> dict:
    try:
        content = json.loads(overlay.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaunchError(f"{overlay}: no such file.") from error
    except ValueError as error:
        raise LaunchError(f"{overlay}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{overlay}: holds a {type(content).__name__}, expected an object of config ids.")
    return content


def shared_with_inference(overlay: Path) -> dict:
    """What an overlay changes of network, geometry and units: all that evaluation and inference need to know of it."""
    shared = shared_overlay.shared_part(content_of(overlay))
    try:
        shared_overlay.check_shared_overlay(shared, overlay)
        return shared_overlay.with_present_ids(shared, overlay)
    except ValueError as error:
        raise LaunchError(str(error)) from error
