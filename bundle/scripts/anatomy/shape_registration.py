"""The registrations of a training section among itself, once: what :mod:`scripts.anatomy.shapes` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..io.atomic_write import remove_unfinished
from ..io.folder_lock import hold_folder, leave_folder
from ..projection.region import Region
from .registration import Registration, centres_of, grid_of
from .shapes import read_content, shapes_path, write_shapes

if TYPE_CHECKING:
    from jaxtyping import Float


def register_section(
    records: Sequence[Mapping[str, Any]],
    registration: Registration,
    folder: str,
    fov_mm: float,
    grid: int,
    max_targets: int,
    device: torch.device,
) -> None:
    """
    Registers each CT to those that follow it, the first following the last, and writes a file of displacements for
    each. A file that was made of the same CTs by the same levels is passed over, so that a run that was ended goes on.

    Args:
        records: loaded ones, with `name` and `ct` in HU, cubes `(1, S, S, S)`.
        registration: how a CT is brought to another.
        folder: gets `NAME.nii.gz` of each record.
        fov_mm: side of the cubes.
        grid: points along a side at which the displacements are kept.
        max_targets: to so many others each CT is registered at most.
        device: where to compute.

    Raises:
        InputError: when there is one CT alone.
        OutputError: when a file cannot be written, or another process writes into the folder.
    """
    count = min(max_targets, len(records) - 1)
    if count < 1:
        raise InputError(f"{len(records)} CT in the training section and max_targets {max_targets}, expected more.")
    hold_folder(folder)
    remove_unfinished(folder, "*.nii.gz")
    targets = [[(number + step) % len(records) for step in range(1, count + 1)] for number in range(len(records))]
    settings = {"levels": [asdict(level) for level in registration.levels], "grid": grid, "fov_mm": fov_mm}
    sums = [_sum_of(record) for record in records]
    made_of = [_made_of(settings, [sums[each] for each in (number, *others)]) for number, others in enumerate(targets)]
    paths = [shapes_path(folder, record["name"]) for record in records]
    todo = [number for number, path in enumerate(paths) if not _is_made_of(path, made_of[number])]
    with tqdm(total=len(records) * count, initial=(len(records) - len(todo)) * count, desc="Registering") as bar:
        for number in todo:
            moving, shapes, differences = _ct(records[number], device), [], []
            for target in targets[number]:
                shape, difference = displacement_mm(registration, moving, _ct(records[target], device), fov_mm, grid)
                shapes.append(shape.cpu())
                differences.append(difference)
                bar.update()
            names = [records[target]["name"] for target in targets[number]]
            content = {"moving": records[number]["name"], "targets": names, "mean_squares": differences}
            write_shapes(paths[number], torch.stack(shapes), fov_mm, {**content, "made_of": made_of[number]})
    leave_folder(folder)
    left = [difference for path in paths for difference in read_content(path)["mean_squares"]]
    print(f"{folder}: {len(left)} registrations of {len(paths)} CTs, mean square of the difference {fmean(left):.4f}.")


def displacement_mm(
    registration: Registration,
    moving: Float[Tensor, "1 1 S S S"],
    fixed: Float[Tensor, "1 1 T T T"],
    fov_mm: float,
    grid: int,
) -> tuple[Float[Tensor, "3 grid grid grid"], float]:
    """
    Where a CT is read so that it looks like another, less the place itself, in mm along X, Y, Z at the points of a grid
    over the other; and the mean square of the difference that is left.
    """
    deformation, difference = registration(moving, fixed)
    region = Region.whole(grid)
    displaced = deformation.places(region)[0] - grid_of(centres_of(region, moving))
    return displaced * fov_mm / 2, float(difference)


def _ct(record: Mapping[str, Any], device: torch.device) -> Tensor:
    return torch.as_tensor(record["ct"]).as_subclass(Tensor)[None].to(device)


def _sum_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(torch.as_tensor(record["ct"]).numpy().tobytes()).hexdigest()


def _made_of(settings: Mapping[str, Any], sums: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([settings, sums]).encode()).hexdigest()


def _is_made_of(path: str, made_of: str) -> bool:
    try:
        return read_content(path).get("made_of") == made_of
    except InputError:
        return False
