"""Building blocks of a stage's network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import Norm
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, instance_norm, leaky_relu, linear
from torch.utils.checkpoint import checkpoint

from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS
from ..projection.projector import lift
from ..projection.region import Region
from ..projection.resampling import high_band, region_of, upsample_region

if TYPE_CHECKING:
    from jaxtyping import Float

VIEWS = 2
ANATOMY_CHANNELS = 2
"""Of what others' bodies say: mean and spread."""
SLOPE = 0.1
ACTIVATION = ("LeakyReLU", {"negative_slope": SLOPE, "inplace": True})
PLAIN_NORM = "instance_in_any_layout"
NORM = (PLAIN_NORM, {"affine": True})


class AnyLayoutInstanceNorm(nn.Module):
    """
    Instance normalisation that leaves a tensor in its memory layout. PyTorch's copies what is channels-last, and lets
    the layers after it compute in the slower layout; on a CPU its batch normalisation of one entry does not.

    Args:
        num_features: channels.
        affine: whether each channel has a learned scale and offset.
    """

    def __init__(self, num_features: int, affine: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, features: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        if features.device.type != "cpu" or torch.compiler.is_compiling():
            return instance_norm(features, None, None, self.weight, self.bias)
        entries = [batch_norm(entry, None, None, self.weight, self.bias, True) for entry in features.split(1)]
        return entries[0] if len(entries) == 1 else torch.cat(entries)


@Norm.factory_function(PLAIN_NORM)
def _any_layout_instance_norm(dimensions: int) -> type[AnyLayoutInstanceNorm]:
    return AnyLayoutInstanceNorm


class EvidenceStem(nn.Module):
    """
    The first layer of either branch: a convolution of the volumes that it reads, plus linear maps of a coarser volume
    and of learned X-ray features, plus a convolution of others' anatomy; the last two start at zero. The maps are taken
    before upsampling and backprojection, with which they commute and after which they would cost far more.

    Args:
        seen_channels: channels of the volumes, 0 for none.
        lifted_channels: channels of the lifted features, 0 for none.
        channels: width of the layer.
        context_channels: channels of the coarser volume, 0 for none.
        reads_anatomy: whether it reads others' anatomy.
    """

    def __init__(
        self,
        seen_channels: int,
        lifted_channels: int,
        channels: int,
        context_channels: int = 0,
        reads_anatomy: bool = False,
    ) -> None:
        super().__init__()
        self.of_context = nn.Conv3d(context_channels, channels, 1) if context_channels else None
        self.of_seen = Convolution(3, seen_channels, channels, conv_only=True) if seen_channels else None
        self.of_features = None
        if lifted_channels:
            self.of_features = nn.ModuleList(
                zero_initialised(nn.Conv2d(lifted_channels, channels, 1)) for _ in range(VIEWS)
            )
        self.of_anatomy = AnatomyConvolution(channels) if reads_anatomy else None

    def forward(
        self,
        seen: Sequence[Float[Tensor, "B _ X Y Z"]],
        features: Float[Tensor, "B 2 _ P P"],
        geometry: BiplanarGeometry,
        region: Region,
        context: Float[Tensor, "B _ S S S"] | None = None,
        anatomy: Float[Tensor, "B 2 s s s"] | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B channels X Y Z"]:
        """
        Args:
            seen: volumes of the region.
            features: feature maps of the X-rays; not read where `lifted_channels` is 0.
            geometry: of both views.
            region: where in the reconstruction volume.
            context: a coarser volume of the whole.
            anatomy: others' anatomy in the whole, at any size; None for none, which adds nothing.
            given: the views whose feature maps are added.
        """
        hidden = self.of_seen(torch.cat(list(seen), dim=1)) if self.of_seen is not None else features.new_zeros(())
        if self.of_context is not None and context is not None:
            hidden = hidden + upsample_region(pointwise(self.of_context, context), region)
        if self.of_features is not None:
            maps = torch.stack([of_view(features[:, view]) for view, of_view in enumerate(self.of_features)], dim=1)
            lifted = lift(maps, geometry, region.size, region).unbind(1)
            for view in given:
                hidden = hidden + lifted[view]
        if self.of_anatomy is not None and anatomy is not None:
            hidden = hidden + self.of_anatomy(region_of(anatomy, region))
        return leaky_relu(hidden, SLOPE)


class AnatomyConvolution(nn.Conv3d):
    """
    A convolution of others' anatomy, mean and spread, without a bias, so that none is as good as zeros. It starts at
    zero, and a state dict from before it was there stands for that start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(ANATOMY_CHANNELS, channels, kernel_size=3, padding=1, bias=False)
        zero_initialised(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *further: Any) -> None:
        weight = state_dict.get(f"{prefix}weight", torch.zeros_like(self.weight))
        super()._load_from_state_dict({f"{prefix}weight": weight}, prefix, *further)


class DetailEnhancer(nn.Module):
    """
    Adds what the upsampled base cannot hold: its output is of the high band alone, which vanishes when averaged to half
    the resolution. Reads the volume and the high band of the backprojected X-rays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # TwoConv accepts None as its norm; its annotation leaves that out.
        self.convolutions = TwoConv(3, 1 + VIEWS, channels, ACTIVATION, norm=None, bias=True)  # type: ignore[arg-type]
        self.to_volume = zero_initialised(Convolution(3, channels, 1, kernel_size=1, conv_only=True))

    def forward(
        self, volume: Float[Tensor, "B 1 X Y Z"], lifted: Float[Tensor, "B 2 X Y Z"]
    ) -> Float[Tensor, "B 1 X Y Z"]:
        """The detail of a volume, from that and the backprojected X-rays; all sides even."""
        inputs = torch.cat([volume, high_band(lifted)], dim=1)
        return high_band(pointwise(self.to_volume, self.convolutions(inputs)))


def computed(checkpointing: bool, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """
    `function(*arguments)`; with `checkpointing` it is computed again in the backward pass instead of being stored.
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def pointwise(convolution: nn.Module, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B D X Y Z"]:
    """A convolution with a kernel of one voxel as the matrix product that it is: no copy of a channels-last volume."""
    weight, bias = convolution.parameters()
    return linear(volume.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def lift_xrays(
    xrays: Float[Tensor, "B 2 P P"], geometry: BiplanarGeometry, region: Region
) -> Float[Tensor, "B 2 X Y Z"]:
    """Backprojection into the region of X-rays that are averaged to two pixels a voxel."""
    averages = adaptive_avg_pool2d(xrays, 2 * region.size)
    return lift(averages[:, :, None], geometry, region.size, region)[:, :, 0]


def zero_initialised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
