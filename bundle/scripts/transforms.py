"""Dictionary transforms of this bundle's records: `ct`, `frontal` and `lateral`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, MapTransform, RandomizableTrait, SpatialResample, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from scipy import ndimage
from torch.nn.functional import interpolate

from .attenuation import hu_to_attenuation
from .ct_volume import check_ct, read_ct
from .errors import InputError
from .geometry import BiplanarGeometry
from .projector import project

AIR_HU = -1024.0
XRAY_KEYS = ("frontal", "lateral")
HAS_SCALE = "has_absolute_scale"
"""Metadata of a loaded image: whether its file holds physical values (floating point) or display values (integer)."""


class LoadRecordd(MapTransform):
    """
    Loads the images of a record by MONAI's readers, as channel-first float32, and refuses what cannot be used.

    Args:
        keys: fields to load. A field that the record lacks is left out when `allow_missing_keys` is set.
        spatial_dims: 3 for CTs, 2 for X-rays. Further axes must have length 1. A CT is a file or the folder of a DICOM
            series, see :func:`read_ct`.
        allow_missing_keys: see `keys`.

    Raises:
        InputError: when the file is missing or no image, has another number of dimensions or several channels, holds
            NaN or infinite values, or is empty or constant; for CTs also as :func:`read_ct` and :func:`check_ct` do.
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.loader = LoadImage(image_only=True, dtype=None)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        for key in self.key_iterator(record):
            record[key] = self._load(str(key), record[key])
        return record

    def _load(self, field: str, path: str) -> MetaTensor:
        if not os.path.exists(path):
            raise InputError(f"{path}: field '{field}' names a file that does not exist; correct the path.")
        try:
            image = read_ct(self.loader, path, field) if self.spatial_dims == 3 else self.loader(path)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: field '{field}' cannot be read as an image ({_last_line(error)}).") from error
        where = f"{path}: field '{field}'"
        found = tuple(image.shape)
        image.meta[HAS_SCALE] = image.is_floating_point()
        image = image.float()
        while image.ndim > self.spatial_dims and image.shape[-1] == 1:
            image = image[..., 0]
        if image.ndim != self.spatial_dims:
            raise InputError(
                f"{where} has shape {found}, expected a single-channel image of {self.spatial_dims} dimensions."
            )
        if not torch.isfinite(image).all():
            count = int((~torch.isfinite(image)).sum())
            raise InputError(f"{where} holds {count} NaN or infinite values, expected none.")
        if image.numel() == 0 or image.min() == image.max():
            raise InputError(f"{where} is empty or constant (shape {found}), expected an image with contrast.")
        if self.spatial_dims == 3:
            check_ct(image, where)
        return image[None]


class ResampleToCubed(MapTransform):
    """
    Brings CTs to the model's cube: RAS+, centred on the middle of the CT, with air where the CT does not reach.

    An axis that gets coarser is smoothed first, see :func:`smooth_for_coarser`, then the cube is read by linear
    interpolation.

    Args:
        keys: fields with a CT in HU, channel first, with an affine.
        size: voxels along a side.
        fov_mm: side of the cube.

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
        self._warn_when_small(field, ct, spacing)
        centre = affine[:3, :3] @ ((torch.tensor(ct.shape[1:], dtype=torch.float64) - 1) / 2) + affine[:3, 3]
        target = torch.diag(torch.tensor([voxel_mm] * 3 + [1.0], dtype=torch.float64))
        target[:3, 3] = centre - voxel_mm * (self.size - 1) / 2
        above_air = smooth_for_coarser(ct.clamp(min=AIR_HU) - AIR_HU, (voxel_mm / spacing).tolist())
        cube = self.resample(above_air, dst_affine=target, spatial_size=[self.size] * 3)
        return (cube + AIR_HU).float()

    def _warn_when_small(self, field: str, ct: MetaTensor, spacing: torch.Tensor) -> None:
        extent = torch.tensor(ct.shape[1:]) * spacing
        covered = float((extent.clamp(max=self.fov_mm) / self.fov_mm).prod())
        if covered < 0.5:
            path = ct.meta.get("filename_or_obj", "a record")
            warnings.warn(
                f"{path}: field '{field}' covers {covered:.0%} of the cube of {self.fov_mm:g} mm "
                f"({' x '.join(f'{side:.0f}' for side in extent)} mm found); the rest is filled with air.",
                stacklevel=2,
            )


class AugmentUnpaired(Compose, RandomizableTrait):
    """Random 3-D transforms for records whose X-rays are still to be projected; real X-rays keep the CT they belong to."""

    def __call__(self, record: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> Any:
        return record if any(key in record for key in XRAY_KEYS) else super().__call__(record, *args, **kwargs)


class ProjectXraysd(Transform):
    """
    Gives a record without X-rays those of its CT, as scaled line integrals: `frontal` and `lateral`, `(1, P, P)`.

    Args:
        geometry: the set-up; its field of view is the CT's cube.
        xray_scale: line integral that is called 1.
        ct_key: field with the CT in HU, `(1, S, S, S)`, not clipped.
    """

    def __init__(self, geometry: BiplanarGeometry, xray_scale: float, ct_key: str = "ct") -> None:
        self.geometry, self.xray_scale, self.ct_key = geometry, xray_scale, ct_key

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if all(key in record for key in XRAY_KEYS):
            return dict(record)
        hu = convert_to_tensor(record[self.ct_key])[None]
        films = project(hu_to_attenuation(hu), self.geometry)[0] / self.xray_scale
        return {**record, "frontal": films[:1], "lateral": films[1:]}


class PrepareXraysd(MapTransform):
    """
    Brings loaded X-rays to the detector's pixels and the model's scale, rows from superior to inferior.

    Images of a floating-point file are line integrals and are divided by `xray_scale`. Images of an integer file have no
    absolute scale: their `percentiles` are brought to `standard_range`, brighter meaning more attenuation.

    Args:
        keys: fields with an X-ray, `(1, W, H)` as MONAI's readers give it.
        pixels: pixels along a side of the detector.
        xray_scale: line integral that is called 1.
        percentiles: see above.
        standard_range: see above.
        allow_missing_keys: as in every MONAI transform.
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixels: int,
        xray_scale: float,
        percentiles: Sequence[float],
        standard_range: Sequence[float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pixels, self.xray_scale = pixels, xray_scale
        self.percentiles, self.standard_range = tuple(percentiles), tuple(standard_range)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        for key in self.key_iterator(record):
            record[key] = self._prepare(record[key])
        return record

    def _prepare(self, image: MetaTensor) -> torch.Tensor:
        film = image.as_tensor().transpose(1, 2)
        film = film / self.xray_scale if image.meta[HAS_SCALE] else self._standardise(film)
        film = smooth_for_coarser(film, [side / self.pixels for side in film.shape[1:]])
        return interpolate(film[None], size=(self.pixels, self.pixels), mode="bilinear", align_corners=False)[0]

    def _standardise(self, film: torch.Tensor) -> torch.Tensor:
        low, high = np.percentile(film.numpy(), self.percentiles)
        bottom, top = self.standard_range
        return (film - low) / max(high - low, 1e-6) * (top - bottom) + bottom


def smooth_for_coarser(image: torch.Tensor, ratios: Sequence[float]) -> torch.Tensor:
    """
    Anti-aliasing before an image is sampled more coarsely: Gaussian smoothing with sigma half the excess ratio, as in
    scikit-image's `resize`; borders keep their level. SciPy's filter takes 1 s where MONAI's takes 20 s for a chest CT.

    Args:
        image: channel first.
        ratios: coarse spacing / fine spacing of each spatial axis; at 1 and below an axis is left as it is.
    """
    sigma = [0.0, *(max(ratio - 1, 0) / 2 for ratio in ratios)]
    smoothed = ndimage.gaussian_filter(image.cpu().numpy(), sigma, mode="nearest")
    return convert_to_dst_type(smoothed, image)[0]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
