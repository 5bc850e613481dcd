"""
Views along the cube's axes: a stack of slices on one side, a film on the other, and weights between them.

A cone beam meets each slice of the cube at one magnification, so that in a slice the rays form a regular grid. Linear
interpolation on it is separable: a film is the sum over slices of R S Cᵀ, with the slice S and two sparse matrices of
two weights a row. The reverse, R' F C' for every slice, lays a film F into the volume. Both are done here by weighted
sums of whole rows, which are contiguous in memory, and neither holds more than a few slices besides volume and film.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, embedding_bag

from .geometry import BiplanarGeometry
from .precision import precise_device
from .region import Region

WORKING_SET = {"cpu": 2**20, "gpu": 2**25}
"""Values of an intermediate result that are held at a time; on a CPU few enough for its caches."""


class Taps(NamedTuple):
    """For each slice and each output position, which inputs are summed, `(slices, outputs, K)`, and their weights."""

    index: torch.Tensor
    weight: torch.Tensor


class Resampling(NamedTuple):
    """A separable resampling of each slice: along the film's rows, and along its columns (the volume's Z)."""

    across: Taps
    upright: Taps


class Weights(NamedTuple):
    """The weights of one view, from the voxels of each slice to the film's pixels, and the other way."""

    to_film: Resampling
    to_slices: Resampling


def project_along_axes(volume: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """
    Reads each slice by linear interpolation where the rays of a film's pixels meet it, and sums over the slices.

    Args:
        volume: `(B, X, Y, Z)`, RAS+, the voxels of a region of the cube; the rest of the cube is zero.
        geometry: a set-up along the axes.
        region: where these voxels are.

    Returns:
        `(B, 2, P, P)`; the length of each ray in a slice is the caller's to multiply with.
    """
    pixels = geometry.detector_pixels
    return _computed(_Project, volume, _weights(geometry, region, pixels, volume, interpolate_voxels=True))


def lift_along_axes(films: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """
    Reads each film by linear interpolation where the rays of the voxels hit it.

    Args:
        films: `(B, 2, C, P, P)`.
        geometry: a set-up along the axes.
        region: the voxels that are wanted.

    Returns:
        `(B, 2, C, X, Y, Z)`, RAS+.
    """
    weights = _weights(geometry, region, films.shape[-1], films, interpolate_voxels=False)
    return _computed(_Lift, films, region.shape, weights)


def _computed(function: type[torch.autograd.Function], tensor: torch.Tensor, *further) -> torch.Tensor:
    """`function` of a tensor; without a gradient the forward alone, which can be traced and exported."""
    needs_gradient = torch.is_grad_enabled() and tensor.requires_grad
    return (function.apply if needs_gradient else function.forward)(tensor, *further)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(volume: torch.Tensor, weights: list[list[Weights]]) -> torch.Tensor:
        return torch.cat([
            torch.stack([_slices_to_films(cases, view, taps.to_film) for view, taps in enumerate(views)], dim=1)
            for cases, views in zip(volume.tensor_split(len(weights)), weights)
        ])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: torch.Tensor) -> None:
        volume, ctx.weights = inputs
        ctx.shape = volume.shape

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        volume = gradient.new_zeros(ctx.shape)
        parts = (tensor.tensor_split(len(ctx.weights)) for tensor in (gradient, volume))
        for films, cubes, views in zip(*parts, ctx.weights):
            for view, taps in enumerate(views):
                for place, voxels in _films_to_slices(films[:, view], view, taps.to_slices):
                    cubes[place] += voxels
        return volume, None


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(films: torch.Tensor, shape: tuple[int, int, int], weights: list[list[Weights]]) -> torch.Tensor:
        volumes = films.new_empty(*films.shape[:3], *shape)
        for case, cubes, views in zip(films, volumes, weights * (len(films) // len(weights))):
            for view, taps in enumerate(views):
                for place, voxels in _films_to_slices(case[view], view, taps.to_slices):
                    cubes[view][place] = voxels
        return volumes

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: torch.Tensor) -> None:
        *_, ctx.weights = inputs

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        return torch.stack([
            torch.stack([_slices_to_films(case[view], view, taps.to_film) for view, taps in enumerate(views)])
            for case, views in zip(gradient, ctx.weights * (len(gradient) // len(ctx.weights)))
        ]), None, None


def _slices_to_films(volumes: torch.Tensor, view: int, resampling: Resampling) -> torch.Tensor:
    """`(N, X, Y, Z)` to `(N, P, P)`."""
    across, upright = resampling
    count, pixels = len(volumes), across.index.shape[1]
    _, x, y, z = volumes.shape
    voxel_rows = volumes.to(across.weight.dtype).reshape(-1, z)
    films = voxel_rows.new_zeros(pixels, count * pixels)
    volume_start = _counted(count, voxel_rows.device)[:, None, None] * (x * y)
    for block in _blocks(len(across.index), count * pixels * z, voxel_rows.device):
        slices = torch.arange(block.start, block.stop, dtype=torch.int32, device=voxel_rows.device)[:, None, None, None]
        index = across.index[block][:, None]
        rows = volume_start + (index * y + slices if view == 0 else slices * y + index)
        weight = across.weight[block][:, None].expand_as(rows)
        in_columns = _weighted_sums(voxel_rows, rows.flatten(0, 2), weight.flatten(0, 2))
        upright_rows = in_columns.T.contiguous().view(-1, count * pixels)
        rows = upright.index[block] * len(slices) + (slices[:, 0] - block.start)
        weight = upright.weight[block]
        films += _weighted_sums(upright_rows, rows.transpose(0, 1).flatten(1), weight.transpose(0, 1).flatten(1))
    return films.view(pixels, count, pixels).transpose(0, 1).to(volumes.dtype)


def _films_to_slices(
    films: torch.Tensor, view: int, resampling: Resampling
) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
    """`(N, P, P)` to `(N, X, Y, Z)`, a few slices at a time, each with its place."""
    across, upright = resampling
    count, pixels, z = len(films), films.shape[-1], upright.index.shape[1]
    film_rows = films.to(across.weight.dtype).transpose(0, 1).reshape(pixels, -1)
    film_start = _counted(count, films.device)[:, None, None, None] * pixels
    for block in _blocks(len(across.index), count * pixels * z, films.device):
        index, weight = upright.index[block].transpose(0, 1), upright.weight[block].transpose(0, 1)
        in_rows = _weighted_sums(film_rows, index.flatten(0, 1), weight.flatten(0, 1))
        film_columns = in_rows.view(z, -1).T.contiguous()
        index, weight = across.index[block], across.weight[block]
        rows = index + _counted(len(index), films.device)[:, None, None] * (count * pixels)
        if view == 0:
            rows, weight, place = rows.transpose(0, 1), weight.transpose(0, 1), (slice(None), slice(None), block)
        else:
            place = (slice(None), block)
        rows = film_start + rows
        voxels = _weighted_sums(film_columns, rows.flatten(0, 2), weight.expand_as(rows).flatten(0, 2))
        yield place, voxels.view(*rows.shape[:3], z)


def _weighted_sums(rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows: `(R, L)` rows and two tables `(N, K)` to `(N, L)`."""
    if torch.compiler.is_exporting():  # ONNX has a loop over bags, but no operator
        return torch.einsum("nk,nkl->nl", weight, embedding(index, rows))
    return embedding_bag(index, rows, mode="sum", per_sample_weights=weight)


def _blocks(slices: int, values_per_slice: int, device: torch.device) -> Iterator[slice]:
    """A few slices at a time."""
    count = max(1, WORKING_SET["cpu" if device.type == "cpu" else "gpu"] // values_per_slice)
    return (slice(start, min(start + count, slices)) for start in range(0, slices, count))


def _weights(
    geometry: BiplanarGeometry, region: Region, pixels: int, like: torch.Tensor, interpolate_voxels: bool
) -> list[list[Weights]]:
    """For each view, once when all cases share a set-up, else for each case."""
    set_ups = geometry.cases_apart()
    return [[_view_weights(g, view, region, pixels, like, interpolate_voxels) for view in range(2)] for g in set_ups]


def _view_weights(
    geometry: BiplanarGeometry, view: int, region: Region, pixels: int, like: torch.Tensor, interpolate_voxels: bool
) -> Weights:
    """
    Interpolation between voxels, for projection, or between pixels, for the lift, and its transpose: a tent whose half
    width is the distance of two voxels, or of two pixels, in the cells of either side.
    """
    main, across = (1, 0) if view == 0 else (0, 1)
    device = precise_device(like.device)
    depth, *in_plane = (region.centres(axis, geometry.fov_mm, device) for axis in (main, across, 2))
    voxel_mm, pixel_mm = geometry.fov_mm / region.size, geometry.detector_size_mm / pixels
    magnification = geometry.magnification(depth * geometry.depth_sign(view))[:, None]
    voxels_per_pixel = pixel_mm / (voxel_mm * magnification)
    half_width = torch.ones_like(magnification) if interpolate_voxels else voxels_per_pixel
    # The widest in plain numbers, from the outermost slices: an exporter knows no tensor's values.
    ends = (geometry.magnification(end * geometry.depth_sign(view)) for end in region.ends(main, geometry.fov_mm))
    extremes = [pixel_mm / (voxel_mm * end) for end in ends]
    widest = (1.0, 1 / min(extremes)) if interpolate_voxels else (max(extremes), 1.0)
    middle, film_mm = (pixels - 1) / 2, _centred(pixels, device) * pixel_mm
    to_film, to_slices = [], []
    for voxels in in_plane:
        voxel_of_pixel = (-film_mm / magnification - voxels[0]) / voxel_mm
        pixel_of_voxel = middle - voxels * magnification / pixel_mm
        to_film.append(_tents(voxel_of_pixel, half_width, widest[0], len(voxels), like))
        to_slices.append(_tents(pixel_of_voxel, half_width / voxels_per_pixel, widest[1], pixels, like))
    return Weights(Resampling(*to_film), Resampling(*to_slices))


def _tents(centre: torch.Tensor, half_width: torch.Tensor, widest: float, count: int, like: torch.Tensor) -> Taps:
    """
    The cells of a row of `count` within `half_width`, at most `widest`, of each centre `(slices, N)`, weighted by a tent
    of height 1.
    """
    reached = max(1, ceil(2 * widest - 1e-9))
    index = (centre - half_width).floor().long()[..., None] + torch.arange(1, reached + 1, device=centre.device)
    weight = (1 - (index - centre[..., None]).abs() / half_width[..., None]).clamp(min=0)
    weight = weight * ((index >= 0) & (index < count))
    weight = weight.to(torch.promote_types(like.dtype, torch.float32))
    return Taps(index.clamp(0, count - 1).int().to(like.device), weight.to(like.device))


def _counted(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)


def _centred(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64, device=device) - (count - 1) / 2
