"""The configs that change ids of `train.json`: what a training may be given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .failures import LaunchError
from .from_bundle import shared_overlay, stage_overlays
from .places import ROOT


def checked_overlay(overlay: Path, dataset: Path | None) -> Path:
    """The path of a training's overlay, a config or a folder of them, from the repository root where it lies in it."""
    if dataset is None and any("datalist" in content_of(overlay, stage) for stage in stage_overlays.STAGES):
        raise LaunchError(f"{overlay} names a datalist: say by --dataset_dir where the files of its records lie.")
    return overlay.relative_to(ROOT) if overlay.is_relative_to(ROOT) else overlay


def configs_of(overlay: Path | None, stage: int) -> list[Path]:
    """The configs of an overlay, whose path may start at the repository root, for a stage; none without an overlay."""
    if overlay is None:
        return []
    try:
        found = stage_overlays.configs_of(ROOT / overlay, stage)
    except ValueError as error:
        raise LaunchError(str(error)) from error
    return [path.relative_to(ROOT) if path.is_relative_to(ROOT) else path for path in found]


def content_of(overlay: Path, stage: int) -> dict[str, Any]:
    """What an overlay holds for a stage, by id."""
    return merged([overlay], stage)


def merged(overlays: Sequence[Path], stage: int) -> dict[str, Any]:
    """What overlays hold for a stage, by id; of two values the later one counts."""
    content: dict[str, Any] = {}
    found_in: dict[str, Path] = {}
    for path in (path for overlay in overlays for path in configs_of(overlay, stage)):
        own = _content_of_file(ROOT / path)
        twice = [name for name in own if name.startswith("+") and name in content]
        if twice:
            earlier = found_in[twice[0]].name
            raise LaunchError(f"{path}: '{twice[0]}' is in {earlier} too; join them in one of the files.")
        content |= own
        found_in |= dict.fromkeys(own, path)
    return content


def _content_of_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaunchError(f"{path}: no such file.") from error
    except ValueError as error:
        raise LaunchError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{path}: holds a {type(content).__name__}, expected an object of config ids.")
    return content


def shared_with_inference(overlay: Path) -> dict[str, Any]:
    """What an overlay changes of network, geometry and units: all that evaluation and inference need to know of it."""
    of_stages = {stage: shared_overlay.shared_part(content_of(overlay, stage)) for stage in stage_overlays.STAGES}
    shared = of_stages[1]
    for stage, other in of_stages.items():
        differing = sorted(name for name in {**shared, **other} if shared.get(name) != other.get(name))
        if differing:
            raise LaunchError(
                f"{overlay}: stages 1 and {stage} have different values of '{differing[0]}', expected one network, one "
                f"geometry and one scale for all stages; put it into {stage_overlays.ALL}."
            )
    try:
        shared_overlay.check_shared_overlay(shared, overlay)
        return shared_overlay.with_present_ids(shared, overlay)
    except ValueError as error:
        raise LaunchError(str(error)) from error
