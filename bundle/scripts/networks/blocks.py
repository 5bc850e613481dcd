"""Parts of which a stage's network is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, leaky_relu
from torch.utils.checkpoint import checkpoint

from ..projection.geometry import BiplanarGeometry
from ..projection.projector import lift
from ..projection.region import Region
from ..projection.resampling import high_band, upsample_region

if TYPE_CHECKING:
    from jaxtyping import Float

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
        seen: Sequence[Float[Tensor, "B _ X Y Z"]],
        features: Float[Tensor, "B 2 _ P P"],
        geometry: BiplanarGeometry,
        region: Region,
        context: Float[Tensor, "B _ S S S"] | None = None,
    ) -> Float[Tensor, "B channels X Y Z"]:
        """
        Args:
            seen: volumes of the region.
            features: of the X-rays; not read where `lifted_channels` is 0.
            geometry: the set-up of both views.
            region: which part of the cube.
            context: a coarser volume of the whole cube.
        """
        hidden = self.of_seen(torch.cat(list(seen), dim=1)) if self.of_seen is not None else features.new_zeros(())
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
        # TwoConv accepts None as its norm; its annotation leaves that out.
        self.convolutions = TwoConv(3, 1 + VIEWS, channels, ACTIVATION, norm=None, bias=True)  # type: ignore[arg-type]
        self.to_volume = zero_initialised(Convolution(3, channels, 1, kernel_size=1, conv_only=True))

    def forward(
        self, volume: Float[Tensor, "B 1 X Y Z"], lifted: Float[Tensor, "B 2 X Y Z"]
    ) -> Float[Tensor, "B 1 X Y Z"]:
        """The detail of a volume, with the lifted X-rays; all sides even."""
        evidence = torch.cat([volume, high_band(lifted)], dim=1)
        return high_band(self.to_volume(self.convolutions(evidence)))


def computed(checkpointing: bool, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """
    `function(*arguments)`; with `checkpointing` it is computed again in the backward pass instead of being stored.
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def lift_xrays(
    xrays: Float[Tensor, "B 2 P P"], geometry: BiplanarGeometry, region: Region
) -> Float[Tensor, "B 2 X Y Z"]:
    """X-rays, averaged to two pixels a voxel, laid into the region."""
    films = adaptive_avg_pool2d(xrays, 2 * region.size)
    return lift(films[:, :, None], geometry, region.size, region)[:, :, 0]


def zero_initialised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
