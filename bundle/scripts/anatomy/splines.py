"""The cubic B-spline, through which lattices of control points bend a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def cubic_spline(away: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The weight of a control point, by its distance in spacings, 0 or more: 2/3 at 0, none from 2 on."""
    return torch.where(away < 1, 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp(min=0) ** 3 / 6)
