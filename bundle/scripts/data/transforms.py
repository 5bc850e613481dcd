"""Dictionary transforms of this bundle's records: `ct`, `frontal` and `lateral`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, SpatialResample, Transform

from ..errors import InputError, shown
from ..io.ct_reader import CUBE_FOV_MM, EXTENT_MM, check_ct, read_ct
from ..io.radiograph import XRAY_KEYS
from ..projection.attenuation import AIR_HU
from ..projection.resampling import smooth_for_coarser
from ..radiographs.one_view import ONLY_KEY
from .datalist import PAIR_FIELDS, RADIOGRAPH_FIELDS, SOURCE_FIELDS
from .known_views import read_view_dropout

LARGEST_HU = 1e5
"""Of either sign: more than 16 bits hold, in which scanners store."""
VOXEL_SIDES_MM = (0.01, 100.0)
"""Lengths that a side of a voxel can have, from a microtomograph's to those of a very coarse cube."""
FARTHEST_MM = 1e5
"""How far from the origin of its space a CT may lie."""
OMITTED = (*XRAY_KEYS, *RADIOGRAPH_FIELDS, *SOURCE_FIELDS, *PAIR_FIELDS)
"""Fields that a record has no more once it is part of a batch."""


class LoadCTd(MapTransform):
    """
    Loads CTs by MONAI's readers, as channel-first float32, and refuses what cannot be used.

    Args:
        keys: fields to load, each a file or the folder of a DICOM series, see :func:`~scripts.io.ct_reader.read_ct`.
            Further axes than three must have length 1.

    Raises:
        InputError: when the file is missing or no image, has more than :data:`~scripts.io.limits.MAX_VOXELS`
            voxels, another number of dimensions or several channels, holds complex, NaN, infinite or immense values, is
            empty or constant, or has voxels or a place that no CT has; also what :func:`~scripts.io.ct_reader.read_ct`
            and :func:`~scripts.io.ct_reader.check_ct` refuse.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self.loader = LoadImage(image_only=True, dtype=None)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        for key in self.key_iterator(record):
            record[key] = self._load(str(key), record[key])
        return record

    def _load(self, field: str, path: str) -> MetaTensor:
        where = f"{shown(path)}: field '{field}'"
        if not os.path.exists(path):
            raise InputError(f"{where} names a file that does not exist; correct the path.")
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise InputError(f"{where} names a pipe, a socket or a device, expected a file or the folder of a series.")
        try:
            image = read_ct(self.loader, path, field)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{where} cannot be read as an image ({shown(_last_line(error))}).") from error
        image = _checked_voxels(image, where)
        _check_place(image.affine.double(), where)
        check_ct(image, where)
        return image[None]


class ResampleToCubed(MapTransform):
    """
    Brings CTs to the model's cube: RAS+, centred on the middle of the CT, with air where the CT does not reach.

    Nothing is less dense than air, -1000 HU. A scanner pads what lies outside of its circle, often with -1024, and no
    X-ray shows where that circle was; as a truth it would charge air for being air.

    An axis that gets coarser is smoothed first, see :func:`smooth_for_coarser`, then the cube is read by linear
    interpolation. What was read from the file of such a cube stays as it is.

    Args:
        keys: fields with a CT in HU, channel first, with an affine.
        size: voxels along a side.
        fov_mm: side of the cube.

    Raises:
        InputError: when a cube is read that was made of another side, or of fewer voxels.

    Warns:
        UserWarning: when the CT covers less than half of the cube.
    """

    def __init__(self, keys: KeysCollection, size: int, fov_mm: float) -> None:
        super().__init__(keys)
        self.size, self.fov_mm = size, fov_mm
        self.resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=False, dtype=torch.float64)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        for key in self.key_iterator(record):
            record[key] = self._to_cube(str(key), record[key])
        return record

    def _to_cube(self, field: str, ct: MetaTensor) -> MetaTensor:
        voxel_mm = self.fov_mm / self.size
        affine = ct.affine.double()
        spacing = affine[:3, :3].norm(dim=0)
        own_extent = (torch.tensor(ct.shape[1:]) * spacing).tolist()
        extent = torch.tensor(ct.meta.get(EXTENT_MM, own_extent), dtype=torch.float64)
        self._warn_when_small(field, ct, extent)
        if (fov_mm := ct.meta.pop(CUBE_FOV_MM, None)) is not None:
            self._check_cube(field, ct, fov_mm)
            if ct.shape[-1] == self.size:
                return ct.clamp(min=AIR_HU)
        centre = affine[:3, :3] @ ((torch.tensor(ct.shape[1:], dtype=torch.float64) - 1) / 2) + affine[:3, 3]
        target = torch.diag(torch.tensor([voxel_mm] * 3 + [1.0], dtype=torch.float64))
        target[:3, 3] = centre - voxel_mm * (self.size - 1) / 2
        above_air = smooth_for_coarser(ct.clamp(min=AIR_HU) - AIR_HU, (voxel_mm / spacing).tolist())
        cube = self.resample(above_air, dst_affine=target, spatial_size=[self.size] * 3)
        cube.meta[EXTENT_MM] = extent.tolist()
        return (cube + AIR_HU).float()

    def _check_cube(self, field: str, ct: MetaTensor, fov_mm: float) -> None:
        if fov_mm != self.fov_mm or ct.shape[-1] < self.size:
            path = shown(ct.meta.get("filename_or_obj", "a record"))
            raise InputError(
                f"{path}: field '{field}' is a cube of {fov_mm:g} mm and {ct.shape[-1]}³ voxels, expected one of "
                f"{self.fov_mm:g} mm and at least {self.size}³; make it anew by `launch.py preprocess`, with the "
                f"--overlay of the training where it has one."
            )

    def _warn_when_small(self, field: str, ct: MetaTensor, extent: torch.Tensor) -> None:
        covered = float((extent.clamp(max=self.fov_mm) / self.fov_mm).prod())
        if covered < 0.5:
            path = shown(ct.meta.get("filename_or_obj", "a record"))
            warnings.warn(
                f"{path}: field '{field}' covers {covered:.0%} of the cube of {self.fov_mm:g} mm "
                f"({' x '.join(f'{side:.0f}' for side in extent)} mm found); the rest is filled with air.",
                stacklevel=2,
            )


class StackXraysd(Transform):
    """
    Puts a record's prepared radiographs, `(1, P, P)` each, into one field, so that records with and without them make
    one batch: `xrays`, `(2, P, P)`, zeros where there are none, and `has_radiographs`. `frontal` and `lateral` are
    gone, and so is what the record said of them and of its source; `geometry`, see
    :class:`~scripts.GeometryFromRadiographsd`, stays.

    Args:
        pixels: along a side of the detector.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        radiographs = [record[key] for key in XRAY_KEYS if key in record]
        others = {key: value for key, value in record.items() if key not in OMITTED}
        xrays = torch.cat(radiographs) if radiographs else torch.zeros(len(XRAY_KEYS), self.pixels, self.pixels)
        return {**others, "xrays": xrays, "has_radiographs": bool(radiographs)}


class MaskMissingViewd(Transform):
    """
    Puts zeros, `(1, P, P)`, in the place of a prepared radiograph that a record lacks, and `only` into the record: the
    field of the one that it has, which is empty where it has both.

    Args:
        pixels: along a side of the detector.
        weights: that are in use, see :func:`~scripts.data.known_views.read_view_dropout`.

    Raises:
        InputError: when the record has no radiograph, or one, and the weights were not trained on one.
    """

    def __init__(self, pixels: int, weights: str) -> None:
        self.pixels, self.weights = pixels, weights

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        given = [key for key in XRAY_KEYS if key in record]
        missing = [key for key in XRAY_KEYS if key not in record]
        if not given:
            raise InputError("A record has neither field 'frontal' nor field 'lateral', expected a radiograph in one.")
        if missing and not self.trained_on_one:
            raise InputError(
                f"field '{missing[0]}': there is no such radiograph, expected both: {shown(self.weights)} were not "
                f"trained on one alone. Name the {missing[0]} one too, or train weights with view_dropout "
                f"(bundle/docs/training.md, One view)."
            )
        masked = {key: torch.zeros(1, self.pixels, self.pixels) for key in missing}
        return {**record, **masked, ONLY_KEY: given[0] if missing else ""}

    @cached_property
    def trained_on_one(self) -> bool:
        """Whether the weights were, for which their file is read; a pair needs no answer."""
        return read_view_dropout(self.weights) > 0


def _checked_voxels(image: MetaTensor, where: str) -> MetaTensor:
    """The image as float32, of three dimensions; raises :class:`InputError` when its values are none of a CT."""
    found = tuple(image.shape)
    if image.is_complex():
        raise InputError(f"{where} holds complex values, expected real numbers; export the magnitude or the CT itself.")
    while image.ndim > 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 3:
        raise InputError(f"{where} has shape {found}, expected a single-channel image of 3 dimensions.")
    image = image if image.dtype == torch.int16 else image.float()  # of which the checks take half the time
    if image.is_floating_point() and not torch.isfinite(image).all():
        count = int((~torch.isfinite(image)).sum())
        raise InputError(f"{where} holds {count} NaN or infinite values, expected none.")
    if image.numel() == 0 or (low := float(image.min())) == (high := float(image.max())):
        raise InputError(f"{where} is empty or constant (shape {found}), expected an image with contrast.")
    largest = max(-low, high)
    if largest > LARGEST_HU:
        raise InputError(
            f"{where} holds values of up to {largest:g} in size, expected HU, at most {LARGEST_HU:g}; correct the "
            f"rescale, such as a NIfTI's scl_slope, or clip what is no tissue."
        )
    return image.float()


def _check_place(affine: torch.Tensor, where: str) -> None:
    """Raises :class:`InputError` when an affine, voxel index to mm, gives voxels or a place that no CT has."""
    sides = affine[:3, :3].norm(dim=0)
    least, most = VOXEL_SIDES_MM
    if not ((sides >= least) & (sides <= most)).all():  # NaN is in no range
        found = " x ".join(f"{side:.3g}" for side in sides.tolist())
        raise InputError(
            f"{where} has voxel sides of {found} mm, expected finite lengths above 0, of {least:g} to {most:g} mm; "
            f"correct the header."
        )
    if not (affine[:3, 3].abs() <= FARTHEST_MM).all():
        found = ", ".join(f"{place:.3g}" for place in affine[:3, 3].tolist())
        raise InputError(
            f"{where} has its first voxel at ({found}) mm, expected finite numbers of at most {FARTHEST_MM:g}; correct "
            f"the header, such as the last column of a NIfTI's sform."
        )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
