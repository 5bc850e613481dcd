"""The global branch of a stage: a U-Net on the coarse volume, with a ViT whose tokens attend to the X-rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from monai.networks.blocks import Convolution
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from monai.networks.nets.basic_unet import Down, UpCat
from torch import Tensor, nn

from ..projection.entries import by_kind
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS
from ..projection.region import Region
from .attention import BiplanarTransformerLayer, key_sequences, ray_windows
from .blocks import ACTIVATION, NORM, VIEWS, EvidenceStem, computed, zero_initialised

if TYPE_CHECKING:
    from jaxtyping import Float


class ContextNetwork(nn.Module):
    """
    Features of the whole volume: a convolutional pyramid (MONAI's U-Net blocks) over the input features, and, at the
    resolution of the tokens, a ViT with cross-attention to the X-ray features. What the ViT adds starts at zero.

    Args:
        size: voxels along a side of the volume.
        tokens: tokens along a side; `size / tokens` is a power of two.
        channels: width of the pyramid at each resolution, finest first.
        attention: "ray" or "dense", see :class:`~scripts.networks.attention.BiplanarCrossAttention`; "none" omits
            the ViT.
        input_channels: channels of the volumes that it reads.
        lifted_channels: channels of the lifted features, 0 for none.
        reads_anatomy: whether it reads others' anatomy.
        transformer: further arguments of :class:`BiplanarTransformer`.

    Raises:
        ValueError: when the pyramid does not reach the tokens' resolution.
    """

    def __init__(
        self,
        size: int,
        tokens: int,
        channels: Sequence[int],
        attention: str,
        input_channels: int,
        lifted_channels: int,
        reads_anatomy: bool = False,
        **transformer: Any,
    ) -> None:
        super().__init__()
        sides = [size / 2**level for level in range(len(channels))]
        if tokens not in sides or sides[-1] != int(sides[-1]):
            raise ValueError(
                f"ContextNetwork: {len(channels)} channels make a pyramid of {[f'{side:g}' for side in sides]} voxels "
                f"a side, expected whole numbers and {tokens}, the number of tokens, among them."
            )
        self.size, self.channels, self.token_level = size, channels[0], sides.index(tokens)
        self.stem = EvidenceStem(input_channels, lifted_channels, channels[0], reads_anatomy=reads_anatomy)
        self.entry = Convolution(3, channels[0], channels[0], act=ACTIVATION, norm=NORM, adn_ordering="NA")
        self.down = nn.ModuleList(Down(3, a, b, ACTIVATION, NORM, bias=True) for a, b in zip(channels, channels[1:]))
        self.up = nn.ModuleList(
            UpCat(3, coarse, fine, fine, ACTIVATION, NORM, True, upsample="nontrainable", halves=False, is_pad=False)
            for fine, coarse in zip(channels, channels[1:])
        )
        self.vit = None
        if attention != "none":
            width = channels[self.token_level]
            self.vit = BiplanarTransformer(tokens=tokens, channels=width, attention=attention, **transformer)

    def forward(
        self,
        seen: Sequence[Float[Tensor, "B _ S S S"]],
        lifted: Float[Tensor, "B 2 C P P"],
        features: Float[Tensor, "B 2 C P P"],
        geometry: BiplanarGeometry,
        anatomy: Float[Tensor, "B 2 s s s"] | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B channels S S S"]:
        """
        Args:
            seen: volumes of this size.
            lifted: the features to lift; not read where `lifted_channels` is 0.
            features: the features to attend to.
            geometry: of both views.
            anatomy: others' anatomy, at any size; None for none.
            given: the views whose features are read.
        """
        stem = self.stem(seen, lifted, geometry, Region.whole(self.size), anatomy=anatomy, given=given)
        pyramid = [self.entry(stem)]
        for down in self.down:
            pyramid.append(down(pyramid[-1]))
        if self.vit is not None:
            pyramid[self.token_level] = self.vit(pyramid[self.token_level], features, geometry, given)
        volume = pyramid.pop()
        for up in reversed(self.up):
            volume = up(volume, pyramid.pop())
        return volume


class BiplanarTransformer(nn.Module):
    """
    Adds to a volume the output of a ViT over its voxels, the tokens, and both X-rays' feature maps; zero at the start.

    Args:
        tokens: tokens along a side.
        channels: width of the volume.
        num_layers: transformer layers.
        num_heads: attention heads of a layer.
        hidden_size: width of a token.
        mlp_dim: width of a layer's MLP.
        feature_channels: channels of the X-ray features.
        feature_pixels: side of the X-ray feature maps.
        attention: "ray" or "dense".
        checkpointing: recompute each layer in the backward pass instead of storing it.
        has_positions: whether the tokens have a learned map of their positions, which starts at zero.
    """

    def __init__(
        self,
        tokens: int,
        channels: int,
        num_layers: int,
        num_heads: int,
        hidden_size: int,
        mlp_dim: int,
        feature_channels: int,
        feature_pixels: int,
        attention: str,
        checkpointing: bool,
        has_positions: bool,
    ) -> None:
        super().__init__()
        self.checkpointing, self.attention = checkpointing, attention
        self.tokens, self.feature_pixels = tokens, feature_pixels
        self.to_tokens = nn.Linear(channels, hidden_size)
        self.token_position = nn.Parameter(torch.zeros(tokens, tokens, tokens, hidden_size)) if has_positions else None
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
        self.from_tokens = zero_initialised(nn.Linear(hidden_size, channels))

    def forward(
        self,
        volume: Float[Tensor, "B C N N N"],
        features: Float[Tensor, "B 2 F P P"],
        geometry: BiplanarGeometry,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B C N N N"]:
        """
        The volume, with the ViT's output added; the tokens attend to the features of the `given` views alone. Batch
        entries with the same ray windows go together.
        """
        if self.attention != "ray":
            return self._of_same_windows(None, volume, features, given)
        if geometry.cases is None:
            return self._of_same_windows(self._windows(geometry, features.device), volume, features, given)
        cases = [geometry.select([case]) for case in range(geometry.cases)]
        windows = [self._windows(case, torch.device("cpu")) for case in cases]

        def of_kind(_: BiplanarGeometry, volume: Tensor, features: Tensor, entries: Tensor) -> list[Tensor]:
            return [self._of_same_windows(windows[int(entries[0])].to(features.device), volume, features, given)]

        kinds = [table.numpy().tobytes() for table in windows]
        return by_kind(kinds, of_kind, geometry, volume, features, torch.arange(len(cases)))[0]

    def _windows(self, geometry: BiplanarGeometry, device: torch.device) -> Tensor:
        return ray_windows(geometry, self.tokens, self.feature_pixels, device)

    def _of_same_windows(
        self, windows: Tensor | None, volume: Tensor, features: Tensor, given: Sequence[int]
    ) -> Tensor:
        context = self.context_norm(rearrange(features, "b v c h w -> b v h w c"))
        context = context + self.view_embedding + self.film_position
        keys = [keys if view in given else None for view, keys in enumerate(key_sequences(context, windows))]
        tokens = self.to_tokens(rearrange(volume, "b c x y z -> b x y z c"))
        if self.token_position is not None:
            tokens = tokens + self.token_position
        for layer in self.layers:
            tokens = computed(self.checkpointing, layer, tokens, keys)
        return volume + rearrange(self.from_tokens(self.token_norm(tokens)), "b x y z c -> b c x y z")
