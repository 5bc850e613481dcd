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
from torch.nn.functional import embedding_bag

from .geometry import BiplanarGeometry

WORKING_SET = {"cpu": 2**20, "cuda": 2**25}
"""Values of an intermediate result that are held at a time; on a CPU few enough for its caches."""


class Taps(NamedTuple):
    """For each slice and each output position, which inputs are summed, `(slices, outputs, K)`, and their weights."""

    index: torch.Tensor
    weight: torch.Tensor


class Weights(NamedTuple):
    """The weights of one view, from the voxels of each slice to the film's pixels, and the other way."""

    to_film: Taps
    to_slices: Taps


def project_along_axes(volume: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
    """
    Reads each slice by linear interpolation where the rays of a film's pixels meet it, and sums over the slices.

    Args:
        volume: `(B, S, S, S)`, RAS+.
        geometry: a set-up along the axes.

    Returns:
        `(B, 2, P, P)`; the length of each ray in a slice is the caller's to multiply with.
    """
    return _Project.apply(volume, _weights(geometry, volume, volume.shape[-1], geometry.detector_pixels, True))


def lift_along_axes(films: torch.Tensor, geometry: BiplanarGeometry, size: int) -> torch.Tensor:
    """
    Reads each film by linear interpolation where the rays of the voxels hit it.

    Args:
        films: `(B, 2, C, P, P)`.
        geometry: a set-up along the axes.
        size: voxels along a side of the cube.

    Returns:
        `(B, 2, C, size, size, size)`, RAS+.
    """
    return _Lift.apply(films, _weights(geometry, films, size, films.shape[-1], False))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume: torch.Tensor, weights: list[list[Weights]]) -> torch.Tensor:
        ctx.weights, ctx.size = weights, volume.shape[-1]
        return torch.cat([
            torch.stack([_slices_to_films(cases, view, taps.to_film) for view, taps in enumerate(views)], dim=1)
            for cases, views in zip(volume.tensor_split(len(weights)), weights)
        ])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        volume = gradient.new_zeros(len(gradient), ctx.size, ctx.size, ctx.size)
        parts = (tensor.tensor_split(len(ctx.weights)) for tensor in (gradient, volume))
        for films, cubes, views in zip(*parts, ctx.weights):
            for view, taps in enumerate(views):
                for place, voxels in _films_to_slices(films[:, view], view, taps.to_slices):
                    cubes[place] += voxels
        return volume, None


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx, films: torch.Tensor, weights: list[list[Weights]]) -> torch.Tensor:
        ctx.weights = weights
        size = weights[0][0].to_slices.index.shape[1]
        volumes = films.new_empty(*films.shape[:3], size, size, size)
        for case, cubes, views in zip(films, volumes, weights * (len(films) // len(weights))):
            for view, taps in enumerate(views):
                for place, voxels in _films_to_slices(case[view], view, taps.to_slices):
                    cubes[view][place] = voxels
        return volumes

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        return torch.stack([
            torch.stack([_slices_to_films(case[view], view, taps.to_film) for view, taps in enumerate(views)])
            for case, views in zip(gradient, ctx.weights * (len(gradient) // len(ctx.weights)))
        ]), None


def _slices_to_films(volumes: torch.Tensor, view: int, taps: Taps) -> torch.Tensor:
    """`(N, S, S, S)` to `(N, P, P)`."""
    count, size, pixels = len(volumes), volumes.shape[-1], taps.index.shape[1]
    voxel_rows = volumes.to(taps.weight.dtype).reshape(-1, size)
    films = voxel_rows.new_zeros(pixels, count * pixels)
    volume_start = _counted(count, voxel_rows.device)[:, None, None] * size**2
    for start, index, weight in _blocks(taps, count * pixels * size):
        local = _counted(len(index), index.device)[:, None, None, None]
        index, weight = index[:, None], weight[:, None].expand(-1, count, -1, -1)
        across = volume_start + (index * size + (local + start) if view == 0 else (local + start) * size + index)
        in_columns = _weighted_sums(voxel_rows, across.flatten(0, 2), weight.flatten(0, 2))
        upright_rows = in_columns.T.contiguous().view(-1, count * pixels)
        upright = (index * len(index) + local)[:, 0].transpose(0, 1)
        films += _weighted_sums(upright_rows, upright.flatten(1), weight[:, 0].transpose(0, 1).flatten(1))
    return films.view(pixels, count, pixels).transpose(0, 1).to(volumes.dtype)


def _films_to_slices(
    films: torch.Tensor, view: int, taps: Taps
) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
    """`(N, P, P)` to `(N, S, S, S)`, a few slices at a time, each with its place."""
    count, size, pixels = len(films), taps.index.shape[1], films.shape[-1]
    film_rows = films.to(taps.weight.dtype).transpose(0, 1).reshape(pixels, -1)
    film_start = _counted(count, films.device)[:, None, None] * pixels
    for start, index, weight in _blocks(taps, count * pixels * size):
        upright, upright_weight = index.transpose(0, 1), weight.transpose(0, 1)
        in_rows = _weighted_sums(film_rows, upright.flatten(0, 1), upright_weight.flatten(0, 1))
        film_columns = in_rows.view(size, -1).T.contiguous()
        across = index + _counted(len(index), index.device)[:, None, None] * (count * pixels)
        place = slice(start, start + len(index))
        if view == 0:
            across, weight, place = across.transpose(0, 1), upright_weight, (slice(None), slice(None), place)
        else:
            place = (slice(None), place)
        shape = (count, *across.shape[:2], size)
        across, weight = across + film_start[..., None], weight.expand(count, -1, -1, -1)
        yield place, _weighted_sums(film_columns, across.flatten(0, 2), weight.flatten(0, 2)).view(shape)


def _weighted_sums(rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows: `(R, L)` rows and two tables `(N, K)` to `(N, L)`."""
    return embedding_bag(index, rows, mode="sum", per_sample_weights=weight)


def _blocks(taps: Taps, values_per_slice: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """The tables of a few slices at a time, with the number of the first."""
    count = max(1, WORKING_SET[taps.index.device.type] // values_per_slice)
    return zip(range(0, len(taps.index), count), taps.index.split(count), taps.weight.split(count))


def _weights(
    geometry: BiplanarGeometry, like: torch.Tensor, size: int, pixels: int, project: bool
) -> list[list[Weights]]:
    """
    For each view, once when all cases share a set-up, else for each case. Projection interpolates between voxels, the
    lift between pixels.
    """
    set_ups = geometry.cases_apart()
    return [[_view_weights(set_up, view, like, size, pixels, project) for view in range(2)] for set_up in set_ups]


def _view_weights(
    geometry: BiplanarGeometry, view: int, like: torch.Tensor, size: int, pixels: int, project: bool
) -> Weights:
    """
    Film and slice have the same grid along rows and columns, so that one table serves both. A tent whose half width is
    the distance of two voxels interpolates between voxels; its transpose is the same tent in units of pixels.
    """
    voxel, pixel = (_centred(count, like.device) for count in (size, pixels))
    voxel_mm, pixel_mm = geometry.fov_mm / size, geometry.detector_size_mm / pixels
    magnification = geometry.magnification(voxel * voxel_mm * geometry.depth_sign(view))[:, None]
    voxels_per_pixel = pixel_mm / (voxel_mm * magnification)
    half_width = torch.ones_like(voxels_per_pixel) if project else voxels_per_pixel
    voxel_of_pixel = (size - 1) / 2 - pixel * voxels_per_pixel
    pixel_of_voxel = (pixels - 1) / 2 - voxel / voxels_per_pixel
    return Weights(
        _tents(voxel_of_pixel, half_width, size, like), _tents(pixel_of_voxel, half_width / voxels_per_pixel, pixels, like)
    )


def _tents(centre: torch.Tensor, half_width: torch.Tensor, count: int, like: torch.Tensor) -> Taps:
    """The cells of a row of `count` within `half_width` of each centre `(slices, N)`, weighted by a tent of height 1."""
    reached = max(1, ceil(2 * float(half_width.max()) - 1e-9))
    index = (centre - half_width).floor().long()[..., None] + torch.arange(1, reached + 1, device=centre.device)
    weight = (1 - (index - centre[..., None]).abs() / half_width[..., None]).clamp(min=0)
    weight = weight * ((index >= 0) & (index < count))
    return Taps(index.clamp(0, count - 1).int(), weight.to(torch.promote_types(like.dtype, torch.float32)))


def _counted(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)


def _centred(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64, device=device) - (count - 1) / 2
