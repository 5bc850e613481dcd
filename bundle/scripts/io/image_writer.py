"""What the bundle writes as images: CTs as NIfTI with their affine, X-rays as NIfTI and PNG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
import torch
from PIL import Image

from .atomic_write import write_atomically
from .nifti import add_json


def write_ct(path: str, hu: torch.Tensor, affine: torch.Tensor) -> None:
    """
    Args:
        path: where to, `.nii` or `.nii.gz`.
        hu: `(X, Y, Z)` in HU, written as 16-bit integers.
        affine: `(4, 4)`, voxel index to RAS+ in mm.
    """
    write_nifti(path, hu.round().cpu().numpy().astype(np.int16), affine.cpu().numpy())


def write_projection(path: str, projection: torch.Tensor, pixel_mm: float) -> None:
    """
    A projection `(H, W)`, line integrals, as float NIfTI, which keeps its absolute scale. Stored column by row, as
    MONAI's readers return images.
    """
    write_nifti(path, projection.T[..., None].float().cpu().numpy(), np.diag([pixel_mm, pixel_mm, 1.0, 1.0]))


def as_greyscale(xray: torch.Tensor) -> Image.Image:
    """An X-ray `(H, W)` as 8-bit image to look at: its own range to black and white, bone white."""
    xray = xray.float().cpu()
    grey = (xray - xray.min()) / (xray.max() - xray.min()).clamp(min=1e-6)
    return Image.fromarray((grey * 255).round().byte().numpy())


def write_greyscale(path: str, xray: torch.Tensor) -> None:
    """:func:`as_greyscale` as a file."""
    write_atomically(path, as_greyscale(xray).save)


def cube_affine(size: int, fov_mm: float, centre_mm: torch.Tensor | None = None) -> torch.Tensor:
    """`(4, 4)` RAS+ affine of a cube of `size` voxels a side, centred on the isocentre or on `centre_mm`."""
    voxel_mm = fov_mm / size
    affine = torch.diag(torch.tensor([voxel_mm] * 3 + [1.0], dtype=torch.float64))
    affine[:3, 3] = -voxel_mm * (size - 1) / 2
    if centre_mm is not None:
        affine[:3, 3] += centre_mm
    return affine


def is_cube_of(image: nibabel.Nifti1Image, fov_mm: float) -> bool:
    """Whether an image's affine is that of a cube of this side about the isocentre, see :func:`cube_affine`."""
    return np.allclose(image.affine, cube_affine(image.shape[0], fov_mm).numpy(), atol=1e-3)


def write_nifti(
    path: str,
    array: np.ndarray,
    affine: np.ndarray,
    content: Mapping[str, Any] | None = None,
    intent: str | None = None,
) -> None:
    """
    Args:
        path: where to, `.nii` or `.nii.gz`.
        array: `(X, Y, Z, ...)`, written as it is.
        affine: `(4, 4)`, voxel index to RAS+ in mm.
        content: an object for the header, see :func:`~scripts.io.nifti.add_json`; None for none.
        intent: NIfTI's name of what the values are; None for nothing.

    Raises:
        OutputError: when it cannot be written.
    """
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    if intent is not None:
        image.header.set_intent(intent)
    if content is not None:
        add_json(image, content)
    write_atomically(path, lambda temporary: nibabel.save(image, temporary))
