"""New bodies between those of the training: a patient who is deformed part of the way to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_TARGETS = 2


class RandShapeBetween(Randomizable):
    """
    Draws one or two of the others that a patient has been registered to, and how far to go to each: the argument
    `between` of :class:`~scripts.RandDeformd`, which deforms the patient so far and then at random, in one resampling.

    The displacement is a convex combination of none and those to the others: a new body whose tissue is the patient's,
    as a sample of deformations that occur (Zhao et al. 2019, doi:10.1109/CVPR.2019.00874; Shen et al. 2020,
    arXiv:2007.03882).

    Args:
        most: largest weight of each of the others, above 0, at most 1; where two add up to more than 1, both shrink.

    Raises:
        ValueError: when it is not.
    """

    def __init__(self, most: float) -> None:
        if not 0 < most <= 1:
            raise ValueError(f"RandShapeBetween: most is {most}, expected above 0 and at most 1.")
        self.most = most
        self.weights = np.zeros(0, np.float32)

    def randomize(self, data: Any) -> None:
        """Draws the weight of each of `data` others, most of them 0."""
        self.weights = np.zeros(data, np.float32)
        chosen = self.R.permutation(data)[: self.R.randint(MAX_TARGETS) + 1]
        drawn = self.R.uniform(0, self.most, len(chosen))
        self.weights[chosen] = drawn / max(drawn.sum(), 1)

    def displacement_mm(self, shapes: Float[Tensor, "N 3 G G G"]) -> Float[Tensor, "3 G G G"]:
        """That of the weights as last drawn, of the displacements to all others."""
        return torch.einsum("n,naxyz->axyz", torch.from_numpy(self.weights).to(shapes), shapes)
