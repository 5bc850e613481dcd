"""The three stages of the cascade: one volume network, at three sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from monai.networks.blocks import Convolution
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn
from torch.nn.functional import avg_pool3d, interpolate
from torch.utils.checkpoint import checkpoint

from .attention import BiplanarTransformerLayer, ray_windows
from .geometry import BiplanarGeometry
from .projector import lift

VIEWS = 2
ACTIVATION = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})
NORM = ("instance", {"affine": True})


class VolumeStage(nn.Module):
    """
    Predicts a volume from X-rays and their features, as a correction of the volume so far.

    Known geometry first: the raw X-rays and their learned features are lifted into the cube, beside the volume so far,
    and a convolutional pyramid takes them down to the tokens' grid and up again. A ViT works on the tokens there, with
    cross-attention to the X-ray features. What the ViT adds to the pyramid starts at zero.

    Args:
        size: voxels along a side of the cube.
        tokens: volume tokens along a side; `size / tokens` is the patch, a power of two.
        num_layers: transformer layers.
        num_heads: attention heads of a layer.
        hidden_size: width of a token.
        mlp_dim: width of a layer's MLP.
        channels: width of the pyramid at each resolution, finest first, as many as halvings in a patch, plus one.
        feature_channels: channels of the X-ray features.
        feature_pixels: side of the X-ray feature maps.
        attention: "ray" or "dense", see :class:`~scripts.attention.BiplanarCrossAttention`.
        checkpointing: recompute each transformer layer in the backward pass instead of storing it.
        input_channels: channels of the volume so far, 0 in the first stage.

    Raises:
        ValueError: when `channels` do not fit the patch.
    """

    def __init__(
        self,
        size: int,
        tokens: int,
        num_layers: int,
        num_heads: int,
        hidden_size: int,
        mlp_dim: int,
        channels: Sequence[int],
        feature_channels: int,
        feature_pixels: int,
        attention: str = "ray",
        checkpointing: bool = False,
        input_channels: int = 1,
    ) -> None:
        super().__init__()
        if size != tokens * 2 ** (len(channels) - 1):
            raise ValueError(
                f"{type(self).__name__}: {len(channels)} channels make a patch of {2 ** (len(channels) - 1)} voxels, "
                f"expected size / tokens = {size} / {tokens}."
            )
        self.size, self.tokens, self.checkpointing = size, tokens, checkpointing
        evidence = input_channels + VIEWS * (1 + feature_channels)
        self.stem = TwoConv(3, evidence, channels[0], ACTIVATION, NORM, bias=True)
        self.down = nn.ModuleList(
            Down(3, fine, coarse, ACTIVATION, NORM, bias=True) for fine, coarse in zip(channels, channels[1:])
        )
        self.up = nn.ModuleList(
            UpCat(3, coarse, fine, fine, ACTIVATION, NORM, bias=True, upsample="nontrainable", halves=False)
            for fine, coarse in zip(channels, channels[1:])
        )
        self.to_volume = zero_initialised(Convolution(3, channels[0], 1, kernel_size=1, conv_only=True))

        self.to_tokens = nn.Linear(channels[-1], hidden_size)
        self.token_position = nn.Parameter(torch.zeros(tokens, tokens, tokens, hidden_size))
        self.context_norm = nn.LayerNorm(feature_channels)
        self.view_embedding = nn.Parameter(torch.zeros(VIEWS, 1, 1, feature_channels))
        position = build_sincos_position_embedding([feature_pixels] * 2, feature_channels, spatial_dims=2)
        self.register_buffer(
            "film_position", position.detach().view(feature_pixels, feature_pixels, -1), persistent=False
        )
        self.layers = nn.ModuleList(
            BiplanarTransformerLayer(hidden_size, num_heads, mlp_dim, feature_channels, attention)
            for _ in range(num_layers)
        )
        self.token_norm = nn.LayerNorm(hidden_size)
        self.from_tokens = zero_initialised(nn.Linear(hidden_size, channels[-1]))

    def residual(
        self, base: torch.Tensor | None, features: torch.Tensor, films: torch.Tensor, geometry: BiplanarGeometry
    ) -> torch.Tensor:
        """
        Args:
            base: the volume so far, `(B, 1, size, size, size)`, or None in the first stage.
            features: `(B, 2, C, P, P)`, this stage's level of the X-ray encoder.
            films: `(B, 2, 1, P, P)`, the X-rays at the features' resolution.
            geometry: the set-up of both views.

        Returns:
            The correction, `(B, 1, size, size, size)`.
        """
        evidence = lift(torch.cat([films, features], dim=2), geometry, self.size).flatten(1, 2)
        if base is not None:
            evidence = torch.cat([base, evidence], dim=1)
        pyramid = [self.stem(evidence)]
        for down in self.down:
            pyramid.append(down(pyramid[-1]))
        volume = pyramid.pop()
        volume = volume + self._global_context(volume, features, geometry)
        for up in reversed(self.up):
            volume = up(volume, pyramid.pop())
        return self.to_volume(volume)

    def _global_context(self, volume: torch.Tensor, features: torch.Tensor, geometry: BiplanarGeometry):
        context = self.context_norm(rearrange(features, "b v c h w -> b v h w c"))
        context = context + self.view_embedding + self.film_position
        windows = ray_windows(geometry, self.tokens, features.shape[-1], features.device)
        tokens = self.to_tokens(rearrange(volume, "b c x y z -> b x y z c")) + self.token_position
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, context, windows, use_reentrant=False)
            else:
                tokens = layer(tokens, context, windows)
        return rearrange(self.from_tokens(self.token_norm(tokens)), "b x y z c -> b c x y z")


class Stage1Base64(VolumeStage):
    """The base: a volume from the X-rays alone. Arguments as in :class:`VolumeStage`, less `input_channels`."""

    def __init__(self, size: int = 64, **network) -> None:
        super().__init__(size=size, input_channels=0, **network)

    def forward(self, features: torch.Tensor, films: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
        """Shapes as in :meth:`VolumeStage.residual`; the volume is scaled to about [0, 1]."""
        return self.residual(None, features, films, geometry)


class Stage2Refiner128(VolumeStage):
    """The texture: base + residual. Arguments as in :class:`VolumeStage`."""

    def __init__(self, size: int = 128, **network) -> None:
        super().__init__(size=size, **network)

    def forward(
        self, features: torch.Tensor, films: torch.Tensor, geometry: BiplanarGeometry, base: torch.Tensor
    ) -> torch.Tensor:
        """Shapes as in :meth:`VolumeStage.residual`. Starts as the identity on `base`."""
        return base + self.residual(base, features, films, geometry)


class Stage3Refiner256(VolumeStage):
    """
    The detail: base + residual + a high-frequency branch at full resolution, the detail enhancer.

    Args:
        size: voxels along a side of the cube.
        detail_channels: width of the detail enhancer.
        network: as in :class:`VolumeStage`.
    """

    def __init__(self, size: int = 256, detail_channels: int = 8, **network) -> None:
        super().__init__(size=size, **network)
        self.detail_enhancer = DetailEnhancer(detail_channels)

    def forward(
        self, features: torch.Tensor, films: torch.Tensor, geometry: BiplanarGeometry, base: torch.Tensor
    ) -> torch.Tensor:
        """Shapes as in :meth:`VolumeStage.residual`. Starts as the identity on `base`."""
        volume = base + self.residual(base, features, films, geometry)
        return volume + self.detail_enhancer(volume, lift(films, geometry, self.size).flatten(1, 2))


class DetailEnhancer(nn.Module):
    """
    Adds what the upsampled base cannot carry: its output holds only the high band, the part of a volume that vanishes
    when it is averaged to half the resolution. Reads the volume and the high band of the lifted X-rays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = TwoConv(3, 1 + VIEWS, channels, ACTIVATION, NORM, bias=True)
        self.to_volume = zero_initialised(Convolution(3, channels, 1, kernel_size=1, conv_only=True))

    def forward(self, volume: torch.Tensor, lifted: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S, S)` and `(B, 2, S, S, S)` to the detail, `(B, 1, S, S, S)`."""
        evidence = torch.cat([volume, high_band(lifted)], dim=1)
        return high_band(self.to_volume(self.convolutions(evidence)))


def high_band(volume: torch.Tensor) -> torch.Tensor:
    """`volume` less its average over 2 x 2 x 2 voxels: what half the resolution cannot hold."""
    return volume - interpolate(avg_pool3d(volume, 2), scale_factor=2, mode="nearest")


def zero_initialised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
