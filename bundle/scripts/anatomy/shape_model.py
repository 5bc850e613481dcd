"""The textbook model of few bodies: a mean appearance, a pose, and the principal components of their deformations."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..projection.region import Region
from .registration import Registration, affine_of, centres_of, finer, grid_of, mapped, read_at, windowed

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_DEVIATIONS = 3.0
"""Of a coefficient, in standard deviations."""
FIT_SIZE = 32
"""Voxels along a side at which a volume is fitted."""
POSE_STEPS, FIT_STEPS = 15, 30


class ShapeModel:
    """
    The mean appearance of some bodies, read at the mean of their places plus a linear combination of their principal
    components, in any pose: an active appearance model without modes of appearance (Cootes, Edwards and Taylor 2001,
    doi:10.1109/34.927467), of displacement fields (Rueckert, Frangi and Schnabel 2003, doi:10.1109/TMI.2003.815865).

    A body's voxel x is read in the appearance at S(M x): the pose M is an affine map, and the shape S has none.

    Args:
        appearance: the mean of the CTs in the frame of one of them, in HU.
        mean: where the points of the mean body are read in it, X, Y, Z from -1 to 1.
        components: places of unit length over the field, the largest variance first.
        deviations: standard deviation of each coefficient.
    """

    def __init__(
        self,
        appearance: Float[Tensor, "1 1 S S S"],
        mean: Float[Tensor, "3 G G G"],
        components: Float[Tensor, "K 3 G G G"],
        deviations: Float[Tensor, " K"],
    ) -> None:
        self.appearance, self.mean, self.components, self.deviations = appearance, mean, components, deviations

    @classmethod
    def of(
        cls,
        reference: Float[Tensor, "1 1 S S S"],
        cts: Collection[Float[Tensor, "1 S S S"]],
        registration: Registration,
        grid: int,
    ) -> ShapeModel:
        """
        The model of a reference and other CTs, in HU, by the registration of the reference to each.

        Args:
            reference: the CT in whose frame the appearance is.
            cts: the others.
            registration: how the reference is brought to each.
            grid: points along a side at which the places are kept.
        """
        region = Region.whole(grid)
        shapes, summed, weight = [grid_of(centres_of(region, reference))], reference, torch.ones_like(reference)
        for ct in cts:
            deformation, _ = registration(reference, ct[None])
            shapes.append(without_pose(deformation.places(region)[0])[0])
            values, weights = _brought_back(ct[None], deformation.places(Region.whole(ct.shape[-1])))
            summed, weight = summed + values, weight + weights
        places = torch.stack(shapes)
        mean = places.mean(0)
        _, singular, components = torch.linalg.svd((places - mean).flatten(1), full_matrices=False)
        count = len(cts)  # bodies less one: the mean takes one dimension
        deviations = singular[:count] / count**0.5
        return cls(summed / weight, mean, components[:count].unflatten(1, mean.shape), deviations)

    def places(
        self, coefficients: Float[Tensor, "N K"], size: int, pose: Float[Tensor, "N 3 4"] | None = None
    ) -> Float[Tensor, "N 3 size size size"]:
        """Where the voxels are read in the appearance, for coefficients in standard deviations, in a pose or none."""
        weighted = coefficients * self.deviations
        shapes = self.mean + torch.einsum("nk,kaxyz->naxyz", weighted, self.components)
        if pose is None:
            return _at_size(shapes, size)
        moved = shapes - grid_of(centres_of(Region.whole(shapes.shape[-1]), shapes))
        posed = mapped(pose, grid_of(centres_of(Region.whole(size), shapes)).expand(len(pose), *[-1] * 4))
        return posed + read_at(moved, posed)

    def warp(
        self, coefficients: Float[Tensor, "N K"], size: int, pose: Float[Tensor, "N 3 4"] | None = None
    ) -> Float[Tensor, "N 1 size size size"]:
        """The appearance as these bodies, in HU."""
        return read_at(self.appearance.expand(len(coefficients), *[-1] * 4), self.places(coefficients, size, pose))

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count K"]:
        """Coefficients of random bodies, as often as the training's, none beyond :data:`MAX_DEVIATIONS`."""
        drawn = torch.randn(count, len(self.deviations), generator=generator).to(self.deviations)
        return drawn.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)

    def fit(self, volume: Float[Tensor, "1 1 T T T"]) -> tuple[Float[Tensor, "1 K"], Float[Tensor, "1 3 4"], float]:
        """
        The body that looks most like a volume: first its pose alone, then all.

        Args:
            volume: in HU.

        Returns:
            The coefficients, within :data:`MAX_DEVIATIONS`, the pose, and the mean square of the difference in the
            windows of the registration.
        """
        seen = finer(windowed(self.appearance), FIT_SIZE)
        fixed = read_at(finer(windowed(volume), FIT_SIZE), grid_of(centres_of(Region.whole(FIT_SIZE), seen))[None])
        shape = seen.new_zeros(1, len(self.deviations)).requires_grad_()
        pose = seen.new_zeros(1, 3, 4).requires_grad_()

        def difference() -> Tensor:
            places = self.places(_bounded(shape), FIT_SIZE, affine_of(pose))
            return (read_at(seen, places) - fixed).square().mean()

        for parameters, steps in (([pose], POSE_STEPS), ([pose, shape], FIT_STEPS)):
            optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

            def closure(optimizer: torch.optim.Optimizer = optimizer) -> float:
                optimizer.zero_grad()
                # L-BFGS ends by the size of the gradient, which is that of a sum and not of a mean.
                objective = difference() * fixed.numel()
                objective.backward()
                return objective.item()

            with torch.enable_grad():
                optimizer.step(closure)
        with torch.no_grad():
            return _bounded(shape), affine_of(pose), difference().item()


def without_pose(places: Float[Tensor, "3 G G G"]) -> tuple[Float[Tensor, "3 G G G"], Float[Tensor, "3 4"]]:
    """
    A map S(M x) of the points of a grid as its shape S and its pose M, the affine map that comes closest to it.
    """
    grid = grid_of(centres_of(Region.whole(places.shape[-1]), places))
    points = torch.cat([grid.flatten(1), torch.ones_like(grid[:1]).flatten(1)])
    pose = torch.linalg.lstsq(points.T, places.flatten(1).T).solution.T
    inverse = torch.linalg.inv(pose[:, :3])
    posed_back = mapped(torch.cat([inverse, -inverse @ pose[:, 3:]], dim=1)[None], grid[None])
    return grid + read_at(places[None] - mapped(pose[None], grid[None]), posed_back)[0], pose


def _brought_back(ct: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """
    A CT in the frame of the volume that its voxels are read in: the adjoint of the reading, of its values and of ones.
    Voxels that are read beyond the faces do not count.
    """
    inside = (places.abs() <= 1).all(dim=1, keepdim=True).to(ct)
    with torch.enable_grad():
        volume = torch.zeros_like(ct).requires_grad_()
        read = read_at(volume, places.detach())
        (values,) = torch.autograd.grad(read, volume, ct * inside, retain_graph=True)
        (weights,) = torch.autograd.grad(read, volume, inside)
    return values, weights


def _at_size(places: Tensor, size: int) -> Tensor:
    return places if size == places.shape[-1] else interpolate(places, size=(size,) * 3, mode="trilinear")


def _bounded(parameters: Tensor) -> Tensor:
    return MAX_DEVIATIONS * (parameters / MAX_DEVIATIONS).tanh()
