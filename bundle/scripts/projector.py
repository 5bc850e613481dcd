"""
Projection of a volume onto two films, and its mirror, the lift of two films into the volume.

The views look along the cube's axes. A cone beam then meets each slice of the cube at one magnification, so that a
view is a stack of 2-D resamplings, summed, and the lift is the same stack read backwards.
"""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample

from .errors import InputError
from .geometry import BiplanarGeometry

VIEW_AXES = (1, 0)
"""The volume axis that each view looks along: Y (antero-posterior) for the frontal, X (left-right) for the lateral."""

SLICES_PER_CALL = 32


def project(mu: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
    """
    Line integrals of attenuation along the rays from the source to the centre of each detector pixel.

    Each ray is sampled once per slice, by bilinear interpolation in the slice; the samples are weighted with the length
    of the ray in a slice, slice thickness / cosine of the ray's angle.

    Args:
        mu: linear attenuation in 1/mm, `(B, 1, X, Y, Z)`, a cube in RAS+.
        geometry: the set-up; its `fov_mm` is the cube's side.

    Returns:
        `(B, 2, H, W)`, dimensionless: the frontal and the lateral film, each `detector_pixels` a side.

    Raises:
        InputError: when `mu` is not a single-channel cube.
    """
    if mu.ndim != 5 or mu.shape[1] != 1 or len(set(mu.shape[2:])) != 1:
        raise InputError(f"project: the volume has shape {tuple(mu.shape)}, expected (B, 1, S, S, S).")
    return torch.stack([_project_view(mu[:, 0], geometry, view) for view in range(len(VIEW_AXES))], dim=1)


def lift(features: torch.Tensor, geometry: BiplanarGeometry, size: int) -> torch.Tensor:
    """
    Lays films into the volume: each voxel reads, by bilinear interpolation, the detector point that its ray hits.

    Args:
        features: `(B, 2, C, H, W)`, the frontal and the lateral film; any number of pixels, spread over the detector.
        geometry: the set-up.
        size: voxels along a side of the cube.

    Returns:
        `(B, 2, C, size, size, size)` in RAS+, constant along each ray.

    Raises:
        InputError: when `features` do not hold two square films.
    """
    if features.ndim != 5 or features.shape[1] != len(VIEW_AXES) or features.shape[3] != features.shape[4]:
        raise InputError(f"lift: the films have shape {tuple(features.shape)}, expected (B, 2, C, P, P).")
    return torch.stack([_lift_view(features[:, view], geometry, view, size) for view in range(len(VIEW_AXES))], dim=1)


def _project_view(volume: torch.Tensor, geometry: BiplanarGeometry, view: int) -> torch.Tensor:
    size = volume.shape[-1]
    slices = volume.movedim(VIEW_AXES[view] + 1, 0)
    magnification = _slice_magnifications(geometry, view, size, volume)
    film_mm = -_centres(geometry.detector_pixels, geometry.detector_size_mm, volume)
    image = volume.new_zeros(volume.shape[0], geometry.detector_pixels, geometry.detector_pixels)
    for block, scale in zip(slices.split(SLICES_PER_CALL), magnification.split(SLICES_PER_CALL)):
        position = film_mm / (scale[:, None] * geometry.fov_mm / 2)
        image = image + _resample(block.flatten(0, 1), position.repeat_interleave(volume.shape[0], 0)).unflatten(
            0, block.shape[:2]
        ).sum(0)
    return (image * _ray_length(geometry, film_mm, size)).transpose(1, 2)


def _resample(slices: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """`(N, A, Z)` slices at the product of `(N, P)` positions in [-1, 1] along both axes: `(N, P, P)`."""
    pixels = position.shape[1]
    grid = torch.stack([position[:, None, :].expand(-1, pixels, -1), position[:, :, None].expand(-1, -1, pixels)], -1)
    return grid_sample(slices[:, None], grid, align_corners=False)[:, 0]


def _ray_length(geometry: BiplanarGeometry, film_mm: torch.Tensor, size: int) -> torch.Tensor:
    thickness = geometry.fov_mm / size
    if geometry.is_parallel:
        return torch.full_like(film_mm[:, None] * film_mm, thickness)
    slope_squared = (film_mm[:, None] ** 2 + film_mm**2) / geometry.source_to_detector_mm**2
    return thickness * torch.sqrt(1 + slope_squared)


def _lift_view(film: torch.Tensor, geometry: BiplanarGeometry, view: int, size: int) -> torch.Tensor:
    centres = _centres(size, geometry.fov_mm, film)
    magnification = _slice_magnifications(geometry, view, size, film)
    position = -centres[:, None] * magnification / (geometry.detector_size_mm / 2)
    shape = (size, size, size)
    column, row = (
        (position[:, :, None], position.T[None, :, :]) if view == 0 else (position.T[:, :, None], position.T[:, None, :])
    )
    grid = torch.stack([column.expand(shape), row.expand(shape)], -1).reshape(1, size * size, size, 2)
    return grid_sample(film, grid.expand(len(film), -1, -1, -1), align_corners=False).unflatten(2, (size, size))


def _slice_magnifications(geometry: BiplanarGeometry, view: int, size: int, like: torch.Tensor) -> torch.Tensor:
    depth = _centres(size, geometry.fov_mm, like) * geometry.depth_sign(view)
    return geometry.magnification(depth)


def _centres(count: int, extent: float, like: torch.Tensor) -> torch.Tensor:
    """Centres of `count` equal cells over `extent`, about zero, in the dtype and on the device of `like`."""
    index = torch.arange(count, dtype=like.dtype, device=like.device)
    return (index + 0.5) * (extent / count) - extent / 2
