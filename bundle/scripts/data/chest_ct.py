"""Whether a CT can be the truth for a pair of radiographs: it can be read, is axial, and holds a chest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import InputError
from ..io.dicom_ct_series import check_ct_series
from ..io.slice_places import UNEVEN_MM
from .transforms import LoadCTd

if TYPE_CHECKING:
    from monai.data import MetaTensor

LARGEST_STEP_MM = 5.0
"""From slice to slice: that of the coarsest CT that this project has trained on, of Lung-PET-CT-Dx."""
LEAST_SIDE_MM = 200.0
"""
Of a CT that holds a chest, along each axis: in the training CTs of `configs/split.json` lungs are 191 to 304 mm high
and 228 to 318 mm wide, by :mod:`scripts.evaluation.measurements`.
"""


def check_chest_ct(path: str) -> None:
    """
    Reads a CT, pixels included. Warnings of the reader are left to whoever uses it.

    Args:
        path: folder of a DICOM series.

    Raises:
        InputError: in plain words, when it cannot be read, see :class:`~scripts.LoadCTd`, its slices do not lie across
            the body or more than :data:`LARGEST_STEP_MM` apart, or a side is shorter than :data:`LEAST_SIDE_MM`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            ct: MetaTensor = LoadCTd("ct")({"ct": path})["ct"]
        except InputError as error:
            raise InputError(f"CT cannot be read: {error}") from error
    _check_geometry(ct.affine.double(), list(ct.shape[1:]))


def check_chest_series(folder: str) -> None:
    """
    :func:`check_chest_ct` by the headers of a DICOM series alone, in a fraction of its time: that its slices make up
    one CT without a gap, and that it is axial and holds a chest. What its pixels are is not looked at.

    Raises:
        InputError: in plain words, see :func:`~scripts.io.dicom_ct_series.check_ct_series`.
    """
    try:
        series = check_ct_series(folder, "ct")
    except InputError as error:
        raise InputError(f"CT cannot be read: {error}") from error
    _check_geometry(torch.from_numpy(series.affine), series.shape)


def _check_geometry(affine: torch.Tensor, shape: Sequence[int]) -> None:
    """`affine`: `(4, 4)`, to RAS+ in mm; `shape`: voxels along each axis, the third from slice to slice."""
    axes = affine[:3, :3]
    spacing = axes.norm(dim=0)
    _check_axial(axes[:, 2] / spacing[2])
    step = float(spacing[2])
    if step > LARGEST_STEP_MM + UNEVEN_MM:
        raise InputError(f"CT too coarse: its slices are {step:.1f} mm apart, expected at most {LARGEST_STEP_MM:g} mm.")
    sides = (torch.tensor(shape) * spacing).tolist()
    if min(sides) < LEAST_SIDE_MM:
        found = " x ".join(f"{side:.0f}" for side in sides)
        raise InputError(
            f"CT too small for a chest: {shape[2]} slices, {found} mm, expected at least {LEAST_SIDE_MM:g} mm a side."
        )


def _check_axial(normal: torch.Tensor) -> None:
    """`normal`: `(3,)`, of the slices, to right, anterior and superior."""
    across = int(normal.abs().argmax())
    if across != 2:
        raise InputError(f"CT not axial: its slices are {('sagittal', 'coronal')[across]}, expected axial ones.")
