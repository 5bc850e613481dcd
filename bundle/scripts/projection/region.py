"""A box of voxels in the cube: what a crop of the volume, or a slab of it, covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Region:
    """
    Voxels `start` to `stop`, less the last, along X, Y and Z of a cube of `size` voxels a side.

    Args:
        size: voxels along a side of the cube.
        start: first voxel along each axis.
        stop: voxel after the last along each axis.

    Raises:
        ValueError: when the region is empty or leaves the cube.
    """

    size: int
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not all(0 <= first < last <= self.size for first, last in zip(self.start, self.stop)):
            raise ValueError(f"Region: {self.start} to {self.stop} is no part of a cube of {self.size} voxels a side.")

    @staticmethod
    def whole(size: int) -> Region:
        """The cube itself."""
        return Region(size, (0, 0, 0), (size, size, size))

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(last - first for first, last in zip(self.start, self.stop))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(first, last) for first, last in zip(self.start, self.stop))

    def of(self, volume: torch.Tensor) -> torch.Tensor:
        """The region's voxels of a volume `(..., size, size, size)`, as a view."""
        return volume[(..., *self.slices)]

    def centres(self, axis: int, extent: float, device: torch.device) -> torch.Tensor:
        """Where the centres of the voxels are along an axis, from the middle of a cube `extent` wide; float64."""
        index = torch.arange(self.start[axis], self.stop[axis], dtype=torch.float64, device=device)
        return (index - (self.size - 1) / 2) * (extent / self.size)

    def ends(self, axis: int, extent: float) -> tuple[float, float]:
        """The first and the last of :meth:`centres`, as plain numbers."""
        first, last = self.start[axis], self.stop[axis] - 1
        return tuple((index - (self.size - 1) / 2) * (extent / self.size) for index in (first, last))

    def widened(self, margin: int, multiple: int = 1) -> Region:
        """The region with `margin` voxels more on each side and edges at multiples of `multiple`, inside the cube."""
        start = tuple(max(0, (first - margin) // multiple * multiple) for first in self.start)
        stop = tuple(min(self.size, -(-(last + margin) // multiple) * multiple) for last in self.stop)
        return Region(self.size, start, stop)

    def within(self, other: Region) -> Region:
        """This region, a part of `other`, as seen from its corner: cuts it out of a volume that holds `other` only."""
        start, stop = (tuple(a - b for a, b in zip(edge, other.start)) for edge in (self.start, self.stop))
        return Region(max(other.shape), start, stop)

    def mirrored(self) -> Region:
        """The same part of the mirror image, right and left exchanged."""
        first, last = self.size - self.stop[0], self.size - self.start[0]
        return Region(self.size, (first, *self.start[1:]), (last, *self.stop[1:]))

    def slabs(self, count: int) -> Iterator[Region]:
        """`count` parts of equal thickness, to a voxel, along X."""
        edges = [self.start[0] + self.shape[0] * i // count for i in range(count + 1)]
        for first, last in zip(edges, edges[1:]):
            if first < last:
                yield Region(self.size, (first, *self.start[1:]), (last, *self.stop[1:]))
