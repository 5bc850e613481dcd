"""Parts of which a stage's network is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.basic_unet import TwoConv
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, leaky_relu
from torch.utils.checkpoint import checkpoint

from ..projection.geometry import BiplanarGeometry
from ..projection.projector import lift
from ..projection.region import Region
from ..projection.resampling import high_band, upsample_region

VIEWS = 2
SLOPE = 0.1
ACTIVATION = ("LeakyReLU", {"negative_slope": SLOPE, "inplace": True})
NORM = ("instance", {"affine": True})


class EvidenceStem(nn.Module):
    """
    The first layer of either path: a convolution of the volumes that are seen, plus linear maps of a coarser volume and
    of learned X-ray features, the latter starting at zero. The maps are taken before upsampling and lift, with which
    they commute and after which they would cost far more.

    Args:
        seen_channels: channels of the volumes, 0 for none.
        lifted_channels: channels of the features, 0 for none.
        channels: width of the layer.
        context_channels: channels of the coarser volume, 0 for none.
    """

    def __init__(self, seen_channels: int, lifted_channels: int, channels: int, context_channels: int = 0) -> None:
        super().__init__()
        self.of_context = nn.Conv3d(context_channels, channels, 1) if context_channels else None
        self.of_seen = Convolution(3, seen_channels, channels, conv_only=True) if seen_channels else None
        self.of_features = None
        if lifted_channels:
            self.of_features = nn.ModuleList(
                zero_initialised(nn.Conv2d(lifted_channels, channels, 1)) for _ in range(VIEWS)
            )

    def forward(
        self,
        seen: Sequence[torch.Tensor],
        features: torch.Tensor | None,
        geometry: BiplanarGeometry,
        region: Region,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Volumes of the region, features `(B, 2, C, P, P)`, a whole coarser volume: `(B, channels, X, Y, Z)`."""
        hidden = self.of_seen(torch.cat(list(seen), dim=1)) if self.of_seen is not None else 0
        if self.of_context is not None:
            hidden = hidden + upsample_region(self.of_context(context), region)
        if self.of_features is not None:
            films = torch.stack([of_view(features[:, view]) for view, of_view in enumerate(self.of_features)], dim=1)
            hidden = hidden + lift(films, geometry, region.size, region).sum(1)
        return leaky_relu(hidden, SLOPE)


class DetailEnhancer(nn.Module):
    """
    Adds what the upsampled base cannot carry: its output holds only the high band, the part of a volume that vanishes
    when it is averaged to half the resolution. Reads the volume and the high band of the lifted X-rays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = TwoConv(3, 1 + VIEWS, channels, ACTIVATION, norm=None, bias=True)
        self.to_volume = zero_initialised(Convolution(3, channels, 1, kernel_size=1, conv_only=True))

    def forward(self, volume: torch.Tensor, lifted: torch.Tensor) -> torch.Tensor:
        """`(B, 1, X, Y, Z)` and `(B, 2, X, Y, Z)`, all sides even, to the detail, `(B, 1, X, Y, Z)`."""
        evidence = torch.cat([volume, high_band(lifted)], dim=1)
        return high_band(self.to_volume(self.convolutions(evidence)))


def computed(checkpointing: bool, function: Callable[..., torch.Tensor], *arguments) -> torch.Tensor:
    """
    `function(*arguments)`; with `checkpointing` it is computed again in the backward pass instead of being stored.
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def lift_xrays(xrays: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """X-rays `(B, 2, H, H)`, averaged to two pixels a voxel, laid into the region: `(B, 2, X, Y, Z)`."""
    films = adaptive_avg_pool2d(xrays, 2 * region.size)
    return lift(films[:, :, None], geometry, region.size, region)[:, :, 0]


def zero_initialised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
