"""2-D features of the two X-rays at three scales, one encoder level for each stage of the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from monai.networks.blocks import ResidualUnit
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_unshuffle
from torch.nn.utils import convert_conv2d_weight_memory_format

from .blocks import PLAIN_NORM

if TYPE_CHECKING:
    from jaxtyping import Float


class MultiScaleXrayEncoder(nn.Module):
    """
    Features at a quarter, a half and the whole of the X-rays' resolution.

    Level `k` belongs to stage `k`: it reads the X-rays and the level below it, never a level above, so that training a
    later stage cannot move an earlier one. The two views share the weights.

    Args:
        channels: feature channels of each level, coarsest first.
        unet_channels: widths of the coarsest level's U-Net, by which every level sees the whole X-ray.
    """

    def __init__(self, channels: Sequence[int], unet_channels: Sequence[int]) -> None:
        super().__init__()
        self.shrinks = tuple(2**power for power in reversed(range(len(channels))))
        coarsest = UNet(
            spatial_dims=2,
            in_channels=self.shrinks[0] ** 2,
            out_channels=channels[0],
            channels=unet_channels,
            strides=[2] * (len(unet_channels) - 1),
            num_res_units=1,
            norm=PLAIN_NORM,
        )
        finer = [
            ResidualUnit(2, shrink**2 + below, width, subunits=2, norm=PLAIN_NORM)
            for shrink, below, width in zip(self.shrinks[1:], channels, channels[1:])
        ]
        self.levels = convert_conv2d_weight_memory_format(nn.ModuleList([coarsest, *finer]), torch.channels_last)

    def forward(self, xrays: Float[Tensor, "B V H W"], levels: int) -> list[Float[Tensor, "B V C h w"]]:
        """
        Args:
            xrays: scaled line integrals.
            levels: how many levels to compute, coarsest first.

        Returns:
            Each level's features, coarsest first.
        """
        images = rearrange(xrays, "b v h w -> (b v) 1 h w")
        features: list[Tensor] = []
        for shrink, level in zip(self.shrinks[:levels], self.levels):
            inputs = [pixel_unshuffle(images, shrink)]
            if features:
                inputs.append(interpolate(features[-1], scale_factor=2, mode="bilinear"))
            features.append(level(torch.cat(inputs, dim=1)))
        return [rearrange(f, "(b v) c h w -> b v c h w", v=xrays.shape[1]) for f in features]
