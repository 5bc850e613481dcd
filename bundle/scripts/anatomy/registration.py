"""Free-form registration of CTs to a volume, coarse to fine, by deformations that cannot fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, grid_sample

from ..projection.attenuation import hu_to_attenuation
from ..projection.imaging import PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region
from ..projection.resampling import resized
from .splines import cubic_spline

if TYPE_CHECKING:
    from jaxtyping import Float

WINDOWS = ((-1000.0, 200.0), (100.0, 900.0))
"""HU from lung to soft tissue, and of bone: what is compared, each scaled to [0, 1]."""
LARGEST_SHIFT = 0.35
"""Of the spacing of the control points, along each axis; see :class:`Level`."""
LARGEST_LOG_STRETCH = 0.4
"""Of each entry of the logarithm of the affine map's matrix."""
LARGEST_TRANSLATION = 0.5
"""Of half the field of view."""
MOMENTUM = 0.9
SMALLEST_GRADIENT = 1e-3
"""Root mean square, per control point, below which steps get shorter with the gradient."""
FINER = 2
"""
Voxels of the CTs for one of the volume: its centres lie between theirs, where what is read has a slope to either side
alike. Centre upon centre the slope would be that of one side.
"""
NEAR = 0.02
"""Root mean square of the difference below which steps get shorter with it: where nothing differs nothing moves."""


@dataclass(frozen=True)
class Level:
    """
    One step of a registration: a free-form deformation (Rueckert et al. 1999, doi:10.1109/42.796284), cubic B-splines
    through a lattice of control points.

    Each control point moves by at most :data:`LARGEST_SHIFT` of their spacing along each axis. Below 1 / 2.48 nothing
    folds (Choi and Lee 2000, doi:10.1006/gmod.1999.0519), and neither does a deformation that is composed of such ones
    (Rueckert et al. 2006, doi:10.1007/11866763_86).

    Args:
        cells: intervals of the control points along a side of the field of view; 0 for the affine map, which comes
            first.
        size: voxels along a side at which the volumes are compared.
        steps: of gradient descent with momentum.
        rate: root mean square of a step at the start, as a fraction of the largest shift; it falls to zero along a
            cosine.
        stiffness: weight of the bending, the mean square of the lattice's second differences over the spacing.
        reprojection: weight of the mean absolute difference between the projections and the X-rays.
    """

    cells: int
    size: int
    steps: int
    rate: float
    stiffness: float = 0.0
    reprojection: float = 0.0


LEVELS = (
    Level(cells=0, size=16, steps=60, rate=0.1),
    Level(cells=2, size=16, steps=50, rate=0.1, stiffness=0.004),
    Level(cells=4, size=24, steps=50, rate=0.1, stiffness=0.004),
    Level(cells=8, size=32, steps=40, rate=0.1, stiffness=0.004),
    Level(cells=14, size=48, steps=40, rate=0.1, stiffness=0.004),
)
"""From the affine map to a lattice of 2.6 cm in a field of view of 360 mm."""


class Deformation:
    """
    Where the voxels of a volume are read in each of N others: an affine map after free-form deformations, of which the
    last is applied first.

    Args:
        affine: `(N, 3, 4)`, in halves of the field of view.
        lattices: displacements of the control points of each level, `(N, 3, c, c, c)`, along X, Y, Z, in halves of the
            field of view.
    """

    def __init__(self, affine: Float[Tensor, "N 3 4"], lattices: Sequence[Float[Tensor, "N 3 _ _ _"]]) -> None:
        self.affine, self.lattices = affine, list(lattices)

    @classmethod
    def identity(cls, volumes: Float[Tensor, "N C S S S"]) -> Deformation:
        """That by which each volume is read where it is."""
        return cls(torch.eye(3, 4).to(volumes).repeat(len(volumes), 1, 1), [])

    def places(self, region: Region) -> Float[Tensor, "N 3 X Y Z"]:
        """Where the voxels of a region are read: X, Y, Z from -1 to 1 over the field of view."""
        middles = centres_of(region, self.affine)
        places = grid_of(middles).expand(len(self.affine), *[-1] * 4)
        for number, lattice in enumerate(reversed(self.lattices)):
            displaced = on_grid(lattice, middles) if number == 0 else at_places(lattice, places)
            places = places + displaced
        return mapped(self.affine, places)

    def warp(
        self, volumes: Float[Tensor, "N C S S S"], size: int, region: Region | None = None
    ) -> Float[Tensor, "N C X Y Z"]:
        """
        The volumes, deformed; what is needed from beyond their faces continues them.

        Args:
            volumes: cubes with the field of view of the deformation, at any number of voxels.
            size: voxels along a side of the result.
            region: which part of the result, the whole by default.
        """
        places = self.places(region or Region.whole(size))
        return read_at(volumes, places)

    def determinants(self, size: int) -> Float[Tensor, "N size-1 size-1 size-1"]:
        """Of the Jacobian, by differences between neighbouring voxels: 1 where nothing moves, negative in folds."""
        places = self.places(Region.whole(size)) * size / 2
        inner = slice(0, size - 1)
        steps = [places.diff(dim=axis)[:, :, inner, inner, inner] for axis in (2, 3, 4)]
        return torch.linalg.det(torch.stack(steps, -1).movedim(1, -2))

    def then(self, lattice: Float[Tensor, "N 3 _ _ _"]) -> Deformation:
        """This deformation with a finer level."""
        return Deformation(self.affine, [*self.lattices, lattice])

    def select(self, numbers: Sequence[int]) -> Deformation:
        """That of some of the volumes."""
        return Deformation(self.affine[list(numbers)], [lattice[list(numbers)] for lattice in self.lattices])


class Registration:
    """
    Deforms CTs until they look like a volume, coarse to fine.

    The objective of each CT is the mean square of the difference in two windows of HU, :data:`WINDOWS`, and the bending
    of the lattice. A level with a weight of `reprojection` compares the projections of the deformed CT with the X-rays
    as well: a refinement, since projections alone do not lead (the last levels are the place for it).

    MONAI's `Warp` reads a dense displacement field and its `BendingEnergyLoss` differentiates one; either costs more
    for a step than all that is done here, where the field of a level is three small matrix products, and the bending is
    that of the lattice. Its `DVF2DDF` cannot fold either, at the cost of seven readings of a dense field a step.

    Args:
        levels: arguments of :class:`Level`, coarse to fine; None for :data:`LEVELS`.
    """

    def __init__(self, levels: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.levels = list(LEVELS) if levels is None else [Level(**level) for level in levels]

    def parts(self, count: int) -> tuple[Registration, Registration]:
        """Its first levels, and those that go on from there."""
        first, second = Registration([]), Registration([])
        first.levels, second.levels = self.levels[:count], self.levels[count:]
        return first, second

    def __call__(
        self,
        moving: Float[Tensor, "N 1 S S S"],
        fixed: Float[Tensor, "1 1 T T T"],
        xrays: Float[Tensor, "1 2 P P"] | None = None,
        imaging: ImagingModel | None = None,
        start: Deformation | None = None,
        counted: Float[Tensor, "1 1 T T T"] | None = None,
    ) -> tuple[Deformation, Float[Tensor, " N"]]:
        """
        Args:
            moving: CTs in HU, N at a time, each registered as if it were alone.
            fixed: a volume in HU, of the same field of view.
            xrays: scaled line integrals, which levels with a weight of reprojection need.
            imaging: how they were taken.
            start: what coarser levels have found; None where the affine map comes first.
            counted: 1 where the volume is known, else 0; a voxel of a level counts where all of it is known. None for
                all.

        Returns:
            The deformation of the CTs, and the mean square of the difference of each at the end.

        Raises:
            ValueError: when a level needs X-rays, and there are none.
        """
        has_reprojection = any(level.reprojection for level in self.levels)
        if has_reprojection and (xrays is None or imaging is None):
            raise ValueError(
                "Registration: a level has a weight of reprojection, expected X-rays and an imaging model."
            )
        seen, fixed = windowed(moving), windowed(fixed)
        if has_reprojection:
            seen = torch.cat([seen, hu_to_attenuation(moving)], dim=1)
        deformation = start or Deformation.identity(moving)
        difference = moving.new_zeros(len(moving))
        for level in self.levels:
            # Read at twice the voxels that the level keeps: at all of them, coarse levels would cost as fine ones do.
            size = min(2 * FINER * level.size, seen.shape[-1])
            with torch.no_grad():
                so_far = finer(deformation.warp(resized(seen, size), size), level.size)
            weights = None if counted is None else (resized(counted, level.size) == 1).float()
            fit = _LevelFit(level, so_far, finer(fixed, level.size), xrays, imaging, weights)
            deformation, difference = fit.run(deformation)
        return deformation, difference


class _LevelFit:
    """Fits one level to what the levels before it have made of the CTs."""

    def __init__(
        self,
        level: Level,
        seen: Tensor,
        fixed: Tensor,
        xrays: Tensor | None,
        imaging: ImagingModel | None,
        weights: Tensor | None,
    ) -> None:
        self.level, self.seen = level, seen
        self.xrays, self.imaging = xrays, imaging
        self.weights = None if weights is None else weights / weights.mean()
        self.middles = centres_of(Region.whole(level.size), seen)
        self.grid = grid_of(self.middles)
        self.fixed = read_at(fixed, self.grid[None])

    @torch.enable_grad()
    def run(self, deformation: Deformation) -> tuple[Deformation, Tensor]:
        """The deformation with this level, and the difference of each CT."""
        shape = (3, 4) if self.level.cells == 0 else (3, *[self.level.cells + 3] * 3)
        parameters = self.seen.new_zeros(len(self.seen), *shape).requires_grad_()
        velocity = torch.zeros_like(parameters)
        difference = self.seen.new_zeros(len(self.seen))
        for step in range(self.level.steps):
            places, bending = self._places(parameters)
            read = read_at(self.seen, places)
            squared = (read[:, : len(WINDOWS)] - self.fixed).square()
            difference = (squared if self.weights is None else squared * self.weights).mean((1, 2, 3, 4))
            objective = difference + self.level.stiffness * bending + self._reprojection(read)
            (gradient,) = torch.autograd.grad((parameters[0, 0].numel() * objective).sum(), parameters)
            with torch.no_grad():
                velocity = MOMENTUM * velocity + (1 - MOMENTUM) * gradient
                length = velocity.square().mean(tuple(range(1, velocity.ndim)), keepdim=True).sqrt()
                rate = self.level.rate * (1 + math.cos(math.pi * step / self.level.steps)) / 2
                near = (difference.sqrt() / NEAR).clamp(max=1).view(-1, *[1] * (parameters.ndim - 1))
                parameters -= rate * near * velocity / length.clamp(min=SMALLEST_GRADIENT)
        with torch.no_grad():
            if self.level.cells == 0:
                return Deformation(affine_of(parameters), []), difference.detach()
            return deformation.then(self._lattice(parameters)), difference.detach()

    def _places(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if self.level.cells == 0:
            return mapped(affine_of(parameters), self.grid.expand(len(parameters), *[-1] * 4)), parameters.new_zeros(())
        lattice, spacing = self._lattice(parameters), 2.0 / self.level.cells
        second = [lattice.diff(n=2, dim=axis).square().mean((1, 2, 3, 4)) for axis in (2, 3, 4)]
        return self.grid + on_grid(lattice, self.middles), torch.stack(second).sum(0) / spacing**2

    def _lattice(self, parameters: Tensor) -> Tensor:
        return LARGEST_SHIFT * 2.0 / self.level.cells * parameters.tanh()

    def _reprojection(self, read: Tensor) -> Tensor:
        if not self.level.reprojection or self.imaging is None or self.xrays is None:
            return read.new_zeros(())
        pixels = PIXELS_PER_VOXEL * self.level.size
        projections = self.imaging.project_region(read[:, len(WINDOWS) :], Region.whole(self.level.size), pixels)
        seen = adaptive_avg_pool2d(self.xrays, pixels)
        return self.level.reprojection * (projections - seen).abs().mean((1, 2, 3))


def affine_of(parameters: Float[Tensor, "N 3 4"]) -> Float[Tensor, "N 3 4"]:
    """Affine maps of any parameters, the identity of zeros; the exponential of a matrix never turns inside out."""
    stretch = torch.linalg.matrix_exp(LARGEST_LOG_STRETCH * parameters[..., :3].tanh())
    return torch.cat([stretch, LARGEST_TRANSLATION * parameters[..., 3:].tanh()], dim=2)


def mapped(affine: Float[Tensor, "N 3 4"], places: Float[Tensor, "N 3 X Y Z"]) -> Float[Tensor, "N 3 X Y Z"]:
    """The places that affine maps bring these to."""
    return torch.einsum("nij,njxyz->nixyz", affine[..., :3], places) + affine[..., 3, None, None, None]


def windowed(hu: Float[Tensor, "N 1 S S S"]) -> Float[Tensor, "N 2 S S S"]:
    """HU in each of :data:`WINDOWS`, scaled to [0, 1]."""
    return torch.cat([((hu - lowest) / (highest - lowest)).clamp(0, 1) for lowest, highest in WINDOWS], dim=1)


def finer(volumes: Float[Tensor, "N C S S S"], size: int) -> Float[Tensor, "N C _ _ _"]:
    """Volumes as they are read at the voxels of `size` a side: see :data:`FINER`."""
    return resized(volumes, FINER * size)


def centres_of(region: Region, like: Tensor) -> list[Float[Tensor, " _"]]:
    """Where the voxels of a region are along X, Y and Z, from -1 to 1, in the dtype and on the device of `like`."""
    return [region.centres(axis, 2.0, like.device).to(like.dtype) for axis in range(3)]


def grid_of(middles: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "3 X Y Z"]:
    """The points of a grid, given by its places along each axis."""
    return torch.stack(torch.meshgrid(*middles, indexing="ij"))


def read_at(volumes: Float[Tensor, "N C S S S"], places: Float[Tensor, "N 3 X Y Z"]) -> Float[Tensor, "N C X Y Z"]:
    """Volumes at places from -1 to 1 along X, Y, Z, linearly; beyond their faces they continue."""
    return grid_sample(volumes, places.flip(1).movedim(1, -1), padding_mode="border", align_corners=False)


def on_grid(lattice: Float[Tensor, "N 3 c c c"], middles: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "N 3 X Y Z"]:
    """The displacement at the points of a grid, given by its places along each axis."""
    weights = [spline_weights(places, lattice.shape[-1]) for places in middles]
    return torch.einsum("naijk,xi,yj,zk->naxyz", lattice, *weights)


def at_places(lattice: Float[Tensor, "N 3 c c c"], places: Float[Tensor, "N 3 X Y Z"]) -> Float[Tensor, "N 3 X Y Z"]:
    """The displacement at any places, by linear interpolation of a field of four points a cell."""
    points = 4 * (lattice.shape[-1] - 3)
    return read_at(on_grid(lattice, centres_of(Region.whole(points), lattice)), places)


def spline_weights(places: Float[Tensor, " P"], points: int) -> Float[Tensor, "P points"]:
    """
    The cubic B-spline's weight of each control point at each place from -1 to 1. The second and the last but one of the
    points lie on the faces.
    """
    cells = points - 3
    return cubic_spline(((places[:, None] + 1) / 2 * cells + 1 - torch.arange(points, device=places.device)).abs())
