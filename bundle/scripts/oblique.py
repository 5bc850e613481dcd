"""
Views off the cube's axes, the general path: rays that meet each slice of the cube anywhere.

Joseph's method (1982, doi:10.1109/TMI.1982.4307572): a ray is sampled once in each slice across its main axis, by
bilinear interpolation in the slice. For a view along the axis this is the sum that :mod:`scripts.slice_stack` takes.
Differentiable in the geometry too. Blocks of slices are computed again in the backward pass rather than stored.
"""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

from .geometry import BiplanarGeometry

SLICES_PER_BLOCK = 8


def project_rays(volume: torch.Tensor, geometry: BiplanarGeometry, view: int) -> torch.Tensor:
    """
    Line integrals along the rays to the film's pixels.

    Args:
        volume: `(B, S, S, S)`, RAS+.
        geometry: the set-up.
        view: 0 for the frontal view, 1 for the lateral.

    Returns:
        `(B, P, P)`, in units of the volume times mm.
    """
    film_mm = centres(geometry.detector_pixels, geometry.detector_size_mm, volume)
    origin, step = geometry.broadcast(2, film_mm).ray(film_mm[None, :], film_mm[:, None], view)
    main, across = (1, 0) if view == 0 else (0, 1)
    half, size = geometry.fov_mm / 2, volume.shape[-1]
    slices = volume.movedim(main + 1, 0)
    depth = centres(size, geometry.fov_mm, volume)

    def summed(block: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        distance = (depth[:, None, None, None] - origin[main]) / step[main]
        grid = torch.stack([origin[2] + distance * step[2], origin[across] + distance * step[across]], -1) / half
        return _sample(block, grid).sum(0)

    film = 0
    for block, block_depth in zip(slices.split(SLICES_PER_BLOCK), depth.split(SLICES_PER_BLOCK)):
        film = film + checkpoint(summed, block, block_depth, use_reentrant=False)
    length = sum(component**2 for component in step) ** 0.5 / abs(step[main])
    return film * length * (geometry.fov_mm / size)


def lift_rays(films: torch.Tensor, geometry: BiplanarGeometry, view: int, size: int) -> torch.Tensor:
    """
    The volume whose voxels read the film, by bilinear interpolation, where their rays hit it.

    Args:
        films: `(B, C, P, P)`.
        geometry: the set-up.
        view: 0 for the frontal view, 1 for the lateral.
        size: voxels along a side of the cube.

    Returns:
        `(B, C, S, S, S)`, RAS+.
    """
    centre = centres(size, geometry.fov_mm, films.new_empty(0, dtype=torch.promote_types(films.dtype, torch.float32)))
    geometry = geometry.broadcast(3, centre)

    def lifted(films: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        point = (x[:, None, None], centre[:, None], centre)
        grid = torch.stack(torch.broadcast_tensors(*geometry.shadow(point, view)), -1) / (geometry.detector_size_mm / 2)
        grid = grid.reshape(-1, len(x), size, size, 2).expand(len(films), -1, -1, -1, -1).flatten(1, 2)
        return grid_sample(films.to(grid.dtype), grid, align_corners=False).to(films.dtype).unflatten(2, (len(x), size))

    blocks = [checkpoint(lifted, films, x, use_reentrant=False) for x in centre.split(SLICES_PER_BLOCK)]
    return torch.cat(blocks, dim=2)


def _sample(slices: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """`(T, B, A, Z)` slices at `(T, B or 1, P, P, 2)` positions in [-1, 1]: `(T, B, P, P)`."""
    grid = grid.expand(-1, slices.shape[1], -1, -1, -1).flatten(0, 1)
    return grid_sample(slices.flatten(0, 1)[:, None], grid, align_corners=False)[:, 0].unflatten(0, slices.shape[:2])


def centres(count: int, extent: float, like: torch.Tensor) -> torch.Tensor:
    """Centres of `count` equal cells over `extent`, about zero, in the dtype and on the device of `like`."""
    index = torch.arange(count, dtype=like.dtype, device=like.device)
    return (index + 0.5) * (extent / count) - extent / 2
