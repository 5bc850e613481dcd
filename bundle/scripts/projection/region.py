"""A region of interest: the box of voxels of a crop in training, or of a slab in tiled inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import sub
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

Value = TypeVar("Value")


@dataclass(frozen=True)
class Region:
    """
    Voxels `start` to `stop`, less the last, along X, Y and Z of a volume of `size` voxels a side.

    Args:
        size: voxels along a side of the volume.
        start: first voxel along each axis.
        stop: voxel after the last along each axis.

    Raises:
        ValueError: when the region is empty or leaves the volume.
    """

    size: int
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not all(0 <= first < last <= self.size for first, last in zip(self.start, self.stop)):
            raise ValueError(f"Region: {self.start} to {self.stop} is not in a volume of {self.size} voxels a side.")

    @staticmethod
    def whole(size: int) -> Region:
        """The whole volume."""
        return Region(size, (0, 0, 0), (size, size, size))

    @property
    def shape(self) -> tuple[int, int, int]:
        return per_axis(sub, self.stop, self.start)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return per_axis(slice, self.start, self.stop)

    def of(self, volume: Float[Tensor, "*B _ _ _"]) -> Float[Tensor, "*B X Y Z"]:
        """The region's voxels of a volume, as a view."""
        x, y, z = self.slices
        return volume[..., x, y, z]

    def centres(self, axis: int, extent: float, device: torch.device) -> Float64[Tensor, " N"]:
        """Where the centres of the voxels are along an axis, from the middle of a volume `extent` wide."""
        index = torch.arange(self.start[axis], self.stop[axis], dtype=torch.float64, device=device)
        return (index - (self.size - 1) / 2) * (extent / self.size)

    def ends(self, axis: int, extent: float) -> tuple[float, float]:
        """The first and the last of :meth:`centres`, as plain numbers."""
        outermost = self.start[axis], self.stop[axis] - 1
        first, last = ((index - (self.size - 1) / 2) * (extent / self.size) for index in outermost)
        return first, last

    def widened(self, margin: int, multiple: int = 1) -> Region:
        """The region with `margin` voxels more on each side and edges at multiples of `multiple`, in the volume."""
        start = per_axis(lambda first: max(0, (first - margin) // multiple * multiple), self.start)
        stop = per_axis(lambda last: min(self.size, -(-(last + margin) // multiple) * multiple), self.stop)
        return Region(self.size, start, stop)

    def within(self, other: Region) -> Region:
        """This region, which lies in `other`, counted from its corner: cuts it out of what holds `other` only."""
        start, stop = per_axis(sub, self.start, other.start), per_axis(sub, self.stop, other.start)
        return Region(max(other.shape), start, stop)

    def mirrored(self) -> Region:
        """The same region of the mirror image, right and left exchanged."""
        first, last = self.size - self.stop[0], self.size - self.start[0]
        return Region(self.size, (first, *self.start[1:]), (last, *self.stop[1:]))

    def slabs(self, count: int) -> Iterator[Region]:
        """`count` slabs of equal thickness, to a voxel, along X."""
        edges = [self.start[0] + self.shape[0] * i // count for i in range(count + 1)]
        for first, last in zip(edges, edges[1:]):
            if first < last:
                yield Region(self.size, (first, *self.start[1:]), (last, *self.stop[1:]))


def per_axis(function: Callable[..., Value], *numbers: Sequence[int]) -> tuple[Value, Value, Value]:
    """The function's values along X, Y and Z, of one number or several for each axis."""
    x, y, z = map(function, *numbers)
    return x, y, z
