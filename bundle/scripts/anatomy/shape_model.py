"""The textbook model of few bodies: the principal components of their deformations from one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..projection.region import Region
from .registration import Registration, centres_of, finer, grid_of, read_at, windowed

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_DEVIATIONS = 3.0
"""Of a coefficient, in standard deviations."""
FIT_SIZE = 32
"""Voxels along a side at which a volume is fitted."""
FIT_STEPS = 30


class ShapeModel:
    """
    A reference CT that is read at the mean of the places of some bodies, plus a linear combination of their principal
    components: the point distribution model (Cootes et al. 1995, doi:10.1006/cviu.1995.1004) of displacement fields
    (Rueckert, Frangi and Schnabel 2003, doi:10.1109/TMI.2003.815865).

    Args:
        reference: a CT in HU.
        mean: where the voxels of the mean body are read in the reference, X, Y, Z from -1 to 1.
        components: places of unit length over the field, the largest variance first.
        deviations: standard deviation of each coefficient.
    """

    def __init__(
        self,
        reference: Float[Tensor, "1 1 S S S"],
        mean: Float[Tensor, "3 G G G"],
        components: Float[Tensor, "K 3 G G G"],
        deviations: Float[Tensor, " K"],
    ) -> None:
        self.reference, self.mean, self.components, self.deviations = reference, mean, components, deviations

    @classmethod
    def of(
        cls,
        reference: Float[Tensor, "1 1 S S S"],
        cts: Float[Tensor, "N 1 S S S"],
        registration: Registration,
        grid: int,
    ) -> ShapeModel:
        """
        The model of a reference and other CTs, in HU, by the registration of the reference to each.

        Args:
            reference: the CT whose values the model has.
            cts: the others.
            registration: how the reference is brought to each.
            grid: points along a side at which the places are kept.
        """
        region = Region.whole(grid)
        found = [registration(reference, ct[None])[0].places(region)[0] for ct in cts]
        places = torch.stack([grid_of(centres_of(region, reference)), *found])
        mean = places.mean(0)
        _, singular, components = torch.linalg.svd((places - mean).flatten(1), full_matrices=False)
        count = len(cts)  # bodies less one: the mean takes one dimension
        deviations = singular[:count] / count**0.5
        return cls(reference, mean, components[:count].unflatten(1, mean.shape), deviations)

    def places(self, coefficients: Float[Tensor, "N K"], size: int) -> Float[Tensor, "N 3 size size size"]:
        """Where the voxels are read in the reference, for coefficients in standard deviations."""
        weighted = coefficients * self.deviations
        places = self.mean + torch.einsum("nk,kaxyz->naxyz", weighted, self.components)
        if size == places.shape[-1]:
            return places
        return interpolate(places, size=(size,) * 3, mode="trilinear")

    def warp(self, coefficients: Float[Tensor, "N K"], size: int) -> Float[Tensor, "N 1 size size size"]:
        """The reference as these bodies, in HU."""
        return read_at(self.reference.expand(len(coefficients), *[-1] * 4), self.places(coefficients, size))

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count K"]:
        """Coefficients of random bodies, as often as the training's, none beyond :data:`MAX_DEVIATIONS`."""
        drawn = torch.randn(count, len(self.deviations), generator=generator).to(self.deviations)
        return drawn.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)

    def fit(self, volume: Float[Tensor, "1 1 T T T"]) -> tuple[Float[Tensor, "1 K"], float]:
        """
        The coefficients, within :data:`MAX_DEVIATIONS`, of the body that looks most like a volume.

        Args:
            volume: in HU.

        Returns:
            The coefficients, and the mean square of the difference in the windows of the registration.
        """
        seen = finer(windowed(self.reference), FIT_SIZE)
        fixed = read_at(finer(windowed(volume), FIT_SIZE), grid_of(centres_of(Region.whole(FIT_SIZE), seen))[None])
        parameters = seen.new_zeros(1, len(self.deviations)).requires_grad_()
        optimizer = torch.optim.LBFGS([parameters], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

        def difference() -> Tensor:
            return (read_at(seen, self.places(_bounded(parameters), FIT_SIZE)) - fixed).square().mean()

        def closure() -> float:
            optimizer.zero_grad()
            # L-BFGS ends by the size of the gradient, which is that of a sum and not of a mean.
            objective = difference() * fixed.numel()
            objective.backward()
            return objective.item()

        optimizer.step(closure)
        with torch.no_grad():
            return _bounded(parameters), difference().item()


def _bounded(parameters: Tensor) -> Tensor:
    return MAX_DEVIATIONS * (parameters / MAX_DEVIATIONS).tanh()
