"""Gradient magnitudes as a loss: edges where the ground truth has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

if TYPE_CHECKING:
    from jaxtyping import Float


class GradientMagnitudeLoss(nn.Module):
    """Mean absolute difference of the gradients' magnitudes, by forward differences in scaled units per voxel."""

    def forward(self, prediction: Float[Tensor, "B 1 X Y Z"], truth: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, ""]:
        return l1_loss(_gradient_magnitude(prediction), _gradient_magnitude(truth))


def _gradient_magnitude(volume: Tensor) -> Tensor:
    core = volume[..., :-1, :-1, :-1]
    steps = [volume[..., 1:, :-1, :-1] - core, volume[..., :-1, 1:, :-1] - core, volume[..., :-1, :-1, 1:] - core]
    return torch.stack(steps).square().sum(0).add(1e-8).sqrt()
