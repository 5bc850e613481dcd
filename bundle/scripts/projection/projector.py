"""
Projection of a volume onto two detectors, and the unfiltered backprojection from them into the volume.

Each ray is sampled once per slice of the volume, by bilinear interpolation in the slice. Views along the volume's axes
take the fast path of :mod:`scripts.projection.axis_aligned`; others, and gradients of the geometry, the general one of
:mod:`scripts.projection.ray_tracing`: each batch entry its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .axis_aligned import lift_along_axes, project_along_axes
from .entries import by_kind
from .geometry import BiplanarGeometry
from .ray_tracing import centres, lift_rays, project_rays
from .region import Region

if TYPE_CHECKING:
    from jaxtyping import Float

VIEWS = 2


def project(
    mu: Float[Tensor, "B 1 X Y Z"], geometry: BiplanarGeometry, region: Region | None = None
) -> Float[Tensor, "B 2 P P"]:
    """
    Line integrals of attenuation along the rays from the source to the centre of each detector pixel.

    Rays are followed through the whole volume, also where a corner of it reaches behind a rotated detector.

    Args:
        mu: linear attenuation in 1/mm, the reconstruction volume in RAS+, or a `region` of it.
        geometry: of the acquisition; its `fov_mm` is the volume's side.
        region: where in the volume `mu` lies, the rest being zero; by default the whole.

    Returns:
        The frontal and the lateral projection in display orientation, dimensionless; float32 for a volume in half
        precision, else in the volume's.

    Raises:
        InputError: when `mu` is not a single-channel cube, or not the region's shape, or the geometry describes another
            number of batch entries.
    """
    if mu.ndim != 5 or mu.shape[1] != 1 or (region is None and len(set(mu.shape[2:])) != 1):
        raise InputError(f"project: the volume has shape {tuple(mu.shape)}, expected (B, 1, S, S, S).")
    place = region or Region.whole(mu.shape[-1])
    if tuple(mu.shape[2:]) != place.shape:
        raise InputError(f"project: the volume has shape {tuple(mu.shape)}, expected the region's {place.shape}.")
    _check_cases(geometry, len(mu), "project")
    volume = mu[:, 0].to(torch.promote_types(mu.dtype, torch.float32))

    def projected(geometry: BiplanarGeometry, volume: Tensor) -> list[Tensor]:
        if _is_fast(geometry):
            return [project_along_axes(volume, geometry, place) * _ray_length(geometry, place.size, volume)]
        return [torch.stack([project_rays(volume, geometry, view, place) for view in range(VIEWS)], dim=1)]

    with torch.autocast(mu.device.type, enabled=False):
        return by_kind(geometry.cases_along_axes, projected, geometry, volume)[0]


def lift(
    features: Float[Tensor, "B 2 C P P"], geometry: BiplanarGeometry, size: int, region: Region | None = None
) -> Float[Tensor, "B 2 C X Y Z"]:
    """
    Backprojection, unfiltered: each voxel reads, by bilinear interpolation, the detector point that its ray hits. It is
    constant along each ray, and no adjoint of :func:`project`. Of feature maps it is known as feature lifting.

    Args:
        features: frontal and lateral projection, or feature maps; any number of pixels, spread over the detector.
        geometry: of the acquisition.
        size: voxels along a side of the volume.
        region: the voxels that are wanted; by default all.

    Returns:
        Each view's volume in RAS+, in the features' precision.

    Raises:
        InputError: when `features` do not hold two square images, there is no voxel, or the geometry describes another
            number of batch entries.
    """
    if features.ndim != 5 or features.shape[1] != VIEWS or features.shape[3] != features.shape[4]:
        raise InputError(f"lift: the features have shape {tuple(features.shape)}, expected (B, 2, C, P, P).")
    if size < 1:
        raise InputError(f"lift: the volume has {size} voxels a side, expected at least 1.")
    _check_cases(geometry, len(features), "lift")
    wanted = region or Region.whole(size)

    def lifted(geometry: BiplanarGeometry, features: Tensor) -> list[Tensor]:
        if _is_fast(geometry):
            return [lift_along_axes(features, geometry, wanted)]
        return [torch.stack([lift_rays(features[:, view], geometry, view, wanted) for view in range(VIEWS)], dim=1)]

    with torch.autocast(features.device.type, enabled=False):
        return by_kind(geometry.cases_along_axes, lifted, geometry, features)[0]


def _ray_length(geometry: BiplanarGeometry, size: int, like: Tensor) -> Tensor:
    """Length of each ray in a slice, `(P, P)` or `(B, 1, P, P)`: thickness / cosine of the ray's angle."""
    detector_mm = centres(geometry.detector_pixels, geometry.detector_size_mm, like)
    distance = geometry.broadcast(3, detector_mm).source_to_detector_mm
    slope_squared = (detector_mm[:, None] / distance) ** 2 + (detector_mm / distance) ** 2
    return geometry.fov_mm / size * torch.sqrt(1 + slope_squared)


def _is_fast(geometry: BiplanarGeometry) -> bool:
    return geometry.is_along_axes and not geometry.requires_grad


def _check_cases(geometry: BiplanarGeometry, batch: int, caller: str) -> None:
    if geometry.cases not in (None, batch):
        raise InputError(f"{caller}: the geometry describes {geometry.cases} batch entries, expected {batch}.")
