"""What the cascade is compared with: MONAI's networks on the raw X-rays, laid into the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from monai.networks.nets import AttentionUnet, SwinUNETR, UNet
from torch import nn

from scripts import BiplanarGeometry, Region
from scripts.networks.blocks import VIEWS, lift_xrays

CHANNELS = (16, 32, 64, 128, 256)


class LiftedNetwork(nn.Module):
    """
    A 3-D network that reads the lifted X-rays, the way of every baseline.

    Args:
        network: from `(B, 2, S, S, S)` to `(B, 1, S, S, S)`.
        geometry: the acquisition geometry of both views.
        size: voxels along a side of the volume, S.
    """

    def __init__(self, network: nn.Module, geometry: BiplanarGeometry, size: int) -> None:
        super().__init__()
        self.network, self.geometry, self.size = network, geometry, size

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer updates: all, as of a cascade what is not frozen."""
        return self.parameters()

    def forward(
        self, xrays: torch.Tensor, geometry: BiplanarGeometry | None = None, stages: int = 1
    ) -> list[torch.Tensor]:
        """X-rays `(B, 2, P, P)` to one volume `(B, 1, S, S, S)`, in a list as a cascade's first stage returns it."""
        if stages != 1:
            raise ValueError(f"LiftedNetwork: stages is {stages}, expected 1, its only one.")
        return [self.network(lift_xrays(xrays, geometry or self.geometry, Region.whole(self.size)))]


def unet(size: int) -> nn.Module:
    """MONAI's residual U-Net with instance normalisation."""
    channels = _channels(size)
    return UNet(3, VIEWS, 1, channels, strides=[2] * (len(channels) - 1), num_res_units=2, norm="instance")


def attention_unet(size: int) -> nn.Module:
    """Attention U-Net (Oktay et al., 2018, arXiv:1804.03999), whose batch normalisation MONAI fixes."""
    channels = _channels(size)
    return AttentionUnet(3, VIEWS, 1, channels, strides=[2] * (len(channels) - 1))


def swin_unetr(size: int) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al., 2022, arXiv:2201.01266); `size` is a multiple of 32."""
    return SwinUNETR(in_channels=VIEWS, out_channels=1, feature_size=24, spatial_dims=3)


BASELINES: dict[str, Callable[[int], nn.Module]] = {
    "unet": unet,
    "attention_unet": attention_unet,
    "swin_unetr": swin_unetr,
}
"""Each baseline's network for a volume of so many voxels a side."""


def _channels(size: int) -> tuple[int, ...]:
    """As many resolutions as leave two voxels a side at the coarsest."""
    return CHANNELS[: size.bit_length() - 1]
