"""Gradient magnitudes as a loss: edges where the ground truth has them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import l1_loss


class GradientMagnitudeLoss(nn.Module):
    """Mean absolute difference of the gradients' magnitudes, by forward differences in scaled units per voxel."""

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Volumes `(B, 1, S, S, S)`, to a scalar."""
        return l1_loss(_gradient_magnitude(prediction), _gradient_magnitude(truth))


def _gradient_magnitude(volume: torch.Tensor) -> torch.Tensor:
    core = volume[..., :-1, :-1, :-1]
    steps = [volume[..., 1:, :-1, :-1] - core, volume[..., :-1, 1:, :-1] - core, volume[..., :-1, :-1, 1:] - core]
    return torch.stack(steps).square().sum(0).add(1e-8).sqrt()
