"""
Projection and backprojection of views along the volume's axes: a volume is a stack of slices, resampled separably.

The slices lie across the axis of a view, the frontal view's along Y, the lateral view's along X, and parallel to the
detector. A cone beam therefore scales each slice as a whole, by similar triangles, and neither shears nor bends it:

    m = source_to_detector / (source_to_isocentre - depth)      the magnification of the slice at this depth

so the rays to the grid of detector pixels meet the slice in a grid too, m times finer and aligned with its voxels. This
is the perspective shear-warp factorisation (Lacroute and Levoy 1994, doi:10.1145/192161.192283) without the shear.
Bilinear interpolation between aligned grids is separable, one sparse matrix for each direction. With the slices `S_k`,
Z by across, and the detector image `F`, rows by columns, this module computes

    projection          F    =  sum over k of  R_k S_k C_kᵀ
    backprojection      S_k  =  R'_k F C'_kᵀ  for each k

The projection samples each ray once in each slice, which is Joseph's method (1982, doi:10.1109/TMI.1982.4307572).
The entries of the vertical `R_k` and the horizontal `C_k` are interpolation weights, values of the linear (hat) kernel.
The gradient of either expression is the other one with its own matrices transposed, `R_kᵀ` and `C_kᵀ`. Transposed
matrices are tabulated by rows as well, so gradients too are gathered, and nothing is scattered. What is resampled alike
lies last in memory, so that one row of a matrix serves all of it.

Shapes: B batch entries; N volumes or images that are resampled alike, which are batch entries, or channels of one;
X, Y, Z voxels; T slices, and A voxels across each, which are Y and X for the frontal view, X and Y for the lateral;
P detector pixels along a side; K inputs that an output sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, embedding_bag

from .geometry import BiplanarGeometry
from .precision import precise_device
from .region import Region

WORKING_SET = {"cpu": 2**18, "gpu": 2**25}
"""Values of an intermediate result that are held at a time; on a CPU few enough for its caches."""
KEPT_TABLES, KEPT_VALUES = 32, 2**15
"""How many views' matrices are kept for the next call, and the most rows of one; larger ones cost little beside their
use."""


class InterpolationWeights(NamedTuple):
    """
    For each slice a sparse matrix, outputs by inputs, by its rows.

    Args:
        inputs: `(T, outputs, K)`, int32, which inputs each output sums.
        weights: `(T, outputs, K)`, their weights; zero where an output has fewer than K inputs.
    """

    inputs: torch.Tensor
    weights: torch.Tensor


class Resampling(NamedTuple):
    """
    A separable resampling of each slice.

    Args:
        horizontal: along the detector's rows, and across the slices.
        vertical: along the detector's columns, and Z.
    """

    horizontal: InterpolationWeights
    vertical: InterpolationWeights


class ViewWeights(NamedTuple):
    """
    The matrices of one view, and the same transposed.

    Args:
        to_detector: from voxels to detector pixels, horizontal `(T, P, K)` and vertical `(T, P, K)`.
        to_slices: from detector pixels to voxels, horizontal `(T, A, K)` and vertical `(T, Z, K)`.
    """

    to_detector: Resampling
    to_slices: Resampling


def project_along_axes(volume: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """
    Projection: the sum over the slices, each read by linear interpolation where the rays to the pixels meet it.

    Args:
        volume: `(B, X, Y, Z)`, RAS+, the voxels of a region of the reconstruction volume; the rest of it is zero.
        geometry: an acquisition geometry along the axes.
        region: where these voxels are.

    Returns:
        `(B, 2, P, P)`, in the volume's units; the caller multiplies with the length of each ray in a slice.
    """
    pixels = geometry.detector_pixels
    return _computed(_Project, volume, _weights(geometry, region, pixels, volume, interpolate_voxels=True))


def lift_along_axes(features: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """
    Backprojection: each voxel reads a detector image by linear interpolation where its ray hits it.

    Args:
        features: `(B, 2, C, P, P)`, a projection or feature maps, of any number of pixels.
        geometry: an acquisition geometry along the axes.
        region: the voxels that are wanted.

    Returns:
        `(B, 2, C, X, Y, Z)`, RAS+, the channels last in memory.
    """
    weights = _weights(geometry, region, features.shape[-1], features, interpolate_voxels=False)
    return _computed(_Lift, features, region.shape, weights)


def _computed(function: type[torch.autograd.Function], tensor: torch.Tensor, *further: Any) -> torch.Tensor:
    """`function` of a tensor; without a gradient the forward alone, which can be traced and exported."""
    needs_gradient = torch.is_grad_enabled() and tensor.requires_grad
    return (function.apply if needs_gradient else function.forward)(tensor, *further)


class _Project(torch.autograd.Function):
    """Batch entries are projected together when they share a geometry, else one by one."""

    @staticmethod
    def forward(volume: torch.Tensor, weights: list[list[ViewWeights]]) -> torch.Tensor:
        images = []
        for entries, views in zip(volume.tensor_split(len(weights)), weights):
            of_views = [_slices_to_detector(entries, view, each.to_detector) for view, each in enumerate(views)]
            images.append(torch.stack(of_views, dim=1))
        return torch.cat(images)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        volume, ctx.weights = inputs
        ctx.shape = volume.shape

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        volume = gradient.new_empty(ctx.shape)
        by_geometry = (tensor.tensor_split(len(ctx.weights)) for tensor in (gradient, volume))
        for images, entries, (frontal, lateral) in zip(*by_geometry, ctx.weights):
            entries = entries.movedim(0, -1)
            for place, voxels in _detector_to_slices(images[:, 0], 0, frontal.to_slices):
                entries[place] = voxels
            for place, voxels in _detector_to_slices(images[:, 1], 1, lateral.to_slices):
                entries[place] += voxels
        return volume, None


class _Lift(torch.autograd.Function):
    """Batch entries are backprojected one by one, the channels of each together; shared weights are repeated."""

    @staticmethod
    def forward(features: torch.Tensor, shape: tuple[int, int, int], weights: list[list[ViewWeights]]) -> torch.Tensor:
        volumes = features.new_empty(*features.shape[:2], *shape, features.shape[2])
        for entry, lifted, views in zip(features, volumes, weights * (len(features) // len(weights))):
            for view, each in enumerate(views):
                for place, voxels in _detector_to_slices(entry[view], view, each.to_slices):
                    lifted[view][place] = voxels
        return volumes.movedim(-1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        *_, ctx.weights = inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        images = []
        for entry, views in zip(gradient, ctx.weights * (len(gradient) // len(ctx.weights))):
            of_views = [_slices_to_detector(entry[view], view, each.to_detector) for view, each in enumerate(views)]
            images.append(torch.stack(of_views))
        return torch.stack(images), None, None


def _slices_to_detector(volumes: torch.Tensor, view: int, resampling: Resampling) -> torch.Tensor:
    """
    The sum over k of R_k S_k C_kᵀ, the horizontal resampling first.

    Args:
        volumes: `(N, X, Y, Z)`.
        view: 0 for the frontal view, 1 for the lateral.
        resampling: from voxels to detector pixels.

    Returns:
        `(N, P, P)`.
    """
    horizontal, vertical = resampling
    (count, size_x, size_y, size_z), pixels = volumes.shape, horizontal.inputs.shape[1]
    voxel_columns = volumes.to(horizontal.weights.dtype).movedim(0, -1).reshape(size_x * size_y, -1)  # (X·Y, Z·N)
    images = voxel_columns.new_zeros(pixels, pixels * count)
    for block in _blocks(len(horizontal.inputs), count * pixels * size_z, volumes.device):
        slices = _range(block.start, block.stop, volumes.device)[:, None, None]
        across = horizontal.inputs[block]
        x, y = (across, slices) if view == 0 else (slices, across)
        detector_columns = _weighted_sums(
            voxel_columns, (x * size_y + y).flatten(0, 1), horizontal.weights[block].flatten(0, 1)
        )  # (T·P, Z·N)
        # Exchanged, what the vertical sums take is whole lines again; they add up the slices of the block, too.
        lines = _exchanged(detector_columns, count).view(-1, pixels * count)  # (Z·T, P·N)
        summed = vertical.inputs[block] * len(slices) + (slices - block.start)  # (T, P, K)
        weights = vertical.weights[block]
        images += _weighted_sums(lines, summed.transpose(0, 1).flatten(1), weights.transpose(0, 1).flatten(1))
    return images.view(pixels, pixels, count).movedim(-1, 0).to(volumes.dtype)


def _detector_to_slices(
    images: torch.Tensor, view: int, resampling: Resampling
) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
    """
    R_k F C_kᵀ for each slice k, the vertical resampling first.

    Args:
        images: `(N, P, P)`.
        view: 0 for the frontal view, 1 for the lateral.
        resampling: from detector pixels to voxels.

    Yields:
        For each block of slices, its place in `(X, Y, Z, N)`, and its voxels.
    """
    horizontal, vertical = resampling
    count, pixels, size_z = len(images), images.shape[-1], vertical.inputs.shape[1]
    detector_rows = images.to(horizontal.weights.dtype).movedim(0, -1).reshape(pixels, -1)  # (P, P·N)
    for block in _blocks(len(horizontal.inputs), count * pixels * size_z, images.device):
        inputs, weights = vertical.inputs[block].transpose(0, 1), vertical.weights[block].transpose(0, 1)
        rows_at_z = _weighted_sums(detector_rows, inputs.flatten(0, 1), weights.flatten(0, 1))  # (Z·T, P·N)
        # Exchanged, what the horizontal sums take is whole lines again.
        detector_columns = _exchanged(rows_at_z.view(size_z, -1), count)  # (T·P, Z·N)
        inputs, weights = horizontal.inputs[block], horizontal.weights[block]
        summed = inputs + _range(0, len(inputs), images.device)[:, None, None] * pixels  # (T, A, K)
        place: tuple[slice, ...] = (block,)
        if view == 0:  # X, which lies across the slices, comes before Y
            summed, weights, place = summed.transpose(0, 1), weights.transpose(0, 1), (slice(None), block)
        voxels = _weighted_sums(detector_columns, summed.flatten(0, 1), weights.flatten(0, 1))
        yield place, voxels.view(*summed.shape[:2], size_z, count)


def _exchanged(lines: torch.Tensor, count: int) -> torch.Tensor:
    """`(M, L·N)` as `(L, M·N)`, where N is `count`."""
    lines = lines.view(len(lines), -1, count).transpose(0, 1)
    return lines.reshape(len(lines), -1).contiguous()


def _weighted_sums(lines: torch.Tensor, summed: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Weighted sums of whole lines, which are contiguous in memory.

    Args:
        lines: `(M, L)`.
        summed: `(R, K)`, the lines that each result sums.
        weights: `(R, K)`.

    Returns:
        `(R, L)`.
    """
    if torch.compiler.is_exporting():  # ONNX has a loop over bags, but no operator
        return torch.einsum("rk,rkl->rl", weights, embedding(summed, lines))
    return embedding_bag(summed, lines, mode="sum", per_sample_weights=weights)


def _blocks(slices: int, values_per_slice: int, device: torch.device) -> Iterator[slice]:
    """
    Consecutive slices, as many at a time as the working set has room for, at least one.

    Between its two resamplings a slice holds N·P·Z values, Z for each column of each detector image. All slices at once
    would hold P / A times as many values as the volumes.
    """
    count = max(1, WORKING_SET["cpu" if device.type == "cpu" else "gpu"] // values_per_slice)
    return (slice(start, min(start + count, slices)) for start in range(0, slices, count))


def _weights(
    geometry: BiplanarGeometry, region: Region, pixels: int, like: torch.Tensor, interpolate_voxels: bool
) -> list[list[ViewWeights]]:
    """For each view, once when all batch entries share a geometry, else for each entry."""
    is_kept = region.size * pixels <= KEPT_VALUES and type(like) is torch.Tensor and not torch.compiler.is_compiling()
    build = _kept_view_weights if is_kept else _view_weights
    dtype = torch.promote_types(like.dtype, torch.float32)
    return [
        [build(case, view, region, pixels, dtype, like.device, interpolate_voxels) for view in range(2)]
        for case in geometry.cases_apart()
    ]


def _view_weights(
    geometry: BiplanarGeometry,
    view: int,
    region: Region,
    pixels: int,
    dtype: torch.dtype,
    on: torch.device,
    interpolate_voxels: bool,
) -> ViewWeights:
    """
    The matrices of a view, which interpolate between voxels, for projection, or between pixels, for backprojection.

    In each direction the weight of a voxel and a pixel is the hat kernel max(0, 1 - d / w): d is the distance, in the
    slice, between the voxel and the ray to the pixel, and w the spacing there of what is interpolated. So a matrix and
    its transpose hold the same weights: the one lists for each pixel the voxels within w, the other for each voxel the
    pixels within w.
    """
    slice_axis, across_axis = (1, 0) if view == 0 else (0, 1)
    device = precise_device(on)
    depth_mm, *in_slice_mm = (region.centres(axis, geometry.fov_mm, device) for axis in (slice_axis, across_axis, 2))
    voxel_mm, pixel_mm = geometry.fov_mm / region.size, geometry.detector_size_mm / pixels
    depth_sign = float(geometry.depth_sign(view))
    magnification = geometry.magnification(depth_mm * depth_sign)[:, None]  # (T, 1)
    voxels_per_pixel = pixel_mm / (voxel_mm * magnification)
    half_width = torch.ones_like(magnification) if interpolate_voxels else voxels_per_pixel  # in voxels
    # Its maximum in plain numbers, from the outermost slices: an exporter knows no tensor's values.
    ends_mm = region.ends(slice_axis, geometry.fov_mm)
    extremes = [float(pixel_mm / (voxel_mm * geometry.magnification(end_mm * depth_sign))) for end_mm in ends_mm]
    max_voxels, max_pixels = (1.0, 1 / min(extremes)) if interpolate_voxels else (max(extremes), 1.0)
    middle = (pixels - 1) / 2
    detector_mm = (torch.arange(pixels, dtype=torch.float64, device=device) - middle) * pixel_mm
    to_detector, to_slices = [], []
    for voxels_mm in in_slice_mm:  # detector coordinates run against these, hence the minus signs
        voxel_of_pixel = (-detector_mm / magnification - voxels_mm[0]) / voxel_mm  # (T, P)
        pixel_of_voxel = middle - voxels_mm * magnification / pixel_mm  # (T, A) or (T, Z)
        to_detector.append(_hat_weights(voxel_of_pixel, half_width, max_voxels, len(voxels_mm)))
        to_slices.append(_hat_weights(pixel_of_voxel, half_width / voxels_per_pixel, max_pixels, pixels))
    return ViewWeights(
        *(
            Resampling(*(InterpolationWeights(inputs.to(on), weights.to(dtype).to(on)) for inputs, weights in both))
            for both in (to_detector, to_slices)
        )
    )


_kept_view_weights = lru_cache(KEPT_TABLES)(_view_weights)


def _hat_weights(
    position: torch.Tensor, half_width: torch.Tensor, max_half_width: float, count: int
) -> InterpolationWeights:
    """
    The grid points within a half-width of each position, weighted by a hat kernel of height 1 about it.

    Args:
        position: `(T, outputs)`, in grid points from the first.
        half_width: `(T, 1)`, in grid points.
        max_half_width: a bound of it.
        count: the grid points, 0 to `count - 1`; beyond them everything is zero.

    Returns:
        `(T, outputs, K)`.
    """
    # An open interval of length 2w holds ⌈2w⌉ whole numbers at most, and not one more for a rounding error of w.
    reached = max(1, ceil(2 * max_half_width - 1e-9))
    inputs = (position - half_width).floor().long()[..., None] + torch.arange(1, reached + 1, device=position.device)
    weights = (1 - (inputs - position[..., None]).abs() / half_width[..., None]).clamp(min=0)
    weights = weights * ((inputs >= 0) & (inputs < count))
    return InterpolationWeights(inputs.clamp(0, count - 1).int(), weights)


def _range(start: int, stop: int, device: torch.device) -> torch.Tensor:
    return torch.arange(start, stop, dtype=torch.int32, device=device)
