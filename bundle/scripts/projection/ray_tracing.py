"""
Ray tracing, for views off the volume's axes: rays that meet each slice of the volume anywhere.

Joseph's method (1982, doi:10.1109/TMI.1982.4307572): a ray is sampled once in each slice across its main axis, by
bilinear interpolation in the slice. For a view along the axis this is the sum that
:mod:`scripts.projection.axis_aligned` takes. Differentiable in the geometry too. Blocks of slices are computed again in
the backward pass rather than stored.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

from .geometry import BiplanarGeometry
from .precision import precise_device
from .region import Region

if TYPE_CHECKING:
    from jaxtyping import Float

SLICES_PER_BLOCK = 8


def project_rays(
    volume: Float[Tensor, "B X Y Z"], geometry: BiplanarGeometry, view: int, region: Region
) -> Float[Tensor, "B P P"]:
    """
    Projection: line integrals along the rays to the detector's pixels.

    Args:
        volume: in RAS+.
        geometry: of the acquisition.
        view: 0 for the frontal view, 1 for the lateral.
        region: where in the reconstruction volume these voxels are.

    Returns:
        The projection, in units of the volume times mm.
    """
    detector_mm = centres(geometry.detector_pixels, geometry.detector_size_mm, volume)
    origin, step = geometry.broadcast(2, detector_mm).ray(detector_mm[None, :], detector_mm[:, None], view)
    main, across = (1, 0) if view == 0 else (0, 1)
    x_y_z = [region.centres(axis, geometry.fov_mm, precise_device(volume.device)).to(volume) for axis in range(3)]
    depth, across_mm, z_mm = x_y_z[main], x_y_z[across], x_y_z[2]
    slices, voxel_mm = volume.movedim(main + 1, 0), geometry.fov_mm / region.size

    def summed(block: Tensor, depth: Tensor) -> Tensor:
        distance = (depth[:, None, None, None] - origin[main]) / step[main]
        ray_z, ray_across = origin[2] + distance * step[2], origin[across] + distance * step[across]
        places = [_normalised(ray_z, z_mm, voxel_mm), _normalised(ray_across, across_mm, voxel_mm)]
        return _sample(block, torch.stack(places, -1)).sum(0)

    blocks = zip(slices.split(SLICES_PER_BLOCK), depth.split(SLICES_PER_BLOCK))
    projection = reduce(torch.add, (checkpoint(summed, *block, use_reentrant=False) for block in blocks))
    length = sum(component**2 for component in step) ** 0.5 / abs(step[main])
    return projection * length * voxel_mm


def lift_rays(
    features: Float[Tensor, "B C P P"], geometry: BiplanarGeometry, view: int, region: Region
) -> Float[Tensor, "B C X Y Z"]:
    """
    Backprojection: each voxel reads the detector, by bilinear interpolation, where its ray hits it.

    Args:
        features: projection or feature maps of one view.
        geometry: of the acquisition.
        view: 0 for the frontal view, 1 for the lateral.
        region: the voxels that are wanted.

    Returns:
        The region's voxels, in RAS+.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    centres_mm = (region.centres(axis, geometry.fov_mm, precise_device(features.device)) for axis in range(3))
    all_x, y, z = (of_axis.to(features.device, dtype) for of_axis in centres_mm)
    geometry = geometry.broadcast(3, all_x)

    def lifted(features: Tensor, x: Tensor) -> Tensor:
        point = (x[:, None, None], y[:, None], z)
        on_detector = torch.broadcast_tensors(*geometry.projected_point(point, view))
        grid = torch.stack(on_detector, -1) / (geometry.detector_size_mm / 2)
        grid = grid.reshape(-1, len(x), len(y), len(z), 2).expand(len(features), -1, -1, -1, -1).flatten(1, 2)
        volume = grid_sample(features.to(grid.dtype), grid, align_corners=False).to(features.dtype)
        return volume.unflatten(2, (len(x), len(y)))

    blocks = [checkpoint(lifted, features, x, use_reentrant=False) for x in all_x.split(SLICES_PER_BLOCK)]
    return torch.cat(blocks, dim=2)


def _sample(slices: Tensor, grid: Tensor) -> Tensor:
    """`(T, B, A, Z)` slices at `(T, B or 1, P, P, 2)` positions in [-1, 1]: `(T, B, P, P)`."""
    grid = grid.expand(-1, slices.shape[1], -1, -1, -1).flatten(0, 1)
    return grid_sample(slices.flatten(0, 1)[:, None], grid, align_corners=False)[:, 0].unflatten(0, slices.shape[:2])


def _normalised(position: Tensor, centre: Tensor, voxel_mm: float) -> Tensor:
    """Positions in mm to those of `grid_sample`: -1 to 1 from edge to edge of cells with these centres."""
    return 2 * (position - (centre[0] + centre[-1]) / 2) / (len(centre) * voxel_mm)


def centres(count: int, extent: float, like: Tensor) -> Float[Tensor, " {count}"]:
    """Centres of `count` equal cells over `extent`, about zero, in the dtype and on the device of `like`."""
    index = torch.arange(count, dtype=like.dtype, device=like.device)
    return (index + 0.5) * (extent / count) - extent / 2
