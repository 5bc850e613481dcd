"""The three stages of the cascade: one volume network, at three sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from monai.networks.blocks import Convolution
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, avg_pool3d, interpolate, leaky_relu
from torch.nn.utils import convert_conv3d_weight_memory_format
from torch.utils.checkpoint import checkpoint

from .attention import BiplanarTransformerLayer, ray_windows
from .geometry import BiplanarGeometry
from .projector import lift
from .region import Region
from .reprojection import Reprojection

VIEWS = 2
SLOPE = 0.1
ACTIVATION = ("LeakyReLU", {"negative_slope": SLOPE, "inplace": True})
NORM = ("instance", {"affine": True})
EVIDENCE = ("xrays", "features", "positions", "reprojection")
CORRECTION_SCALE = 50.0
"""Brings the correction by reprojection, a few per cent of a tissue's value, to the size of the other evidence."""


class VolumeStage(nn.Module):
    """
    Predicts a volume from X-rays and their features, as a correction of the volume so far.

    Two paths. The context path sees the whole cube at a coarse size and ends in features of that size. The local path
    works at the stage's own size by a few convolutions without normalisation over the volume, so that any region of the
    volume can be computed by itself.

    Args:
        size: voxels along a side of the cube.
        reprojection: how volumes are compared with the X-rays.
        context: arguments of :class:`ContextNetwork` that the stage itself does not give.
        local_channels: width of the local path.
        feature_channels: channels of the X-ray features.
        feature_dropout: share of the X-ray features' channels that are dropped in training.
        checkpointing: recompute each transformer layer and the local path in the backward pass instead of storing them.
        evidence: what the stage reads, of "xrays" (lifted), "features" (learned, lifted), "positions" (a learned map of
            the tokens' positions) and "reprojection" (the correction that the X-rays call for, by the projections of
            the volume so far).
        is_first: whether there is no volume so far.

    Raises:
        ValueError: when `evidence` names something else, or neither X-rays nor features.
    """

    margin = 2
    """How many voxels around a region the local path reads."""

    def __init__(
        self,
        size: int,
        reprojection: Reprojection,
        context: dict,
        local_channels: int,
        feature_channels: int,
        feature_dropout: float = 0.0,
        checkpointing: bool = False,
        evidence: Sequence[str] = EVIDENCE,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        if not set(evidence) <= set(EVIDENCE) or not set(evidence) & {"xrays", "features"}:
            raise ValueError(f"{type(self).__name__}: evidence is {evidence}, expected some of {EVIDENCE}.")
        self.size, self.reprojection, self.checkpointing = size, reprojection, checkpointing
        self.reads_xrays, self.reads_features = "xrays" in evidence, "features" in evidence
        self.reads_reprojection = "reprojection" in evidence
        self.dropout = nn.Dropout3d(feature_dropout)
        volume_and_xrays = (0 if is_first else 1) + VIEWS * self.reads_xrays
        lifted = feature_channels if self.reads_features else 0
        self.context = ContextNetwork(
            input_channels=volume_and_xrays,
            lifted_channels=lifted,
            feature_channels=feature_channels,
            has_positions="positions" in evidence,
            checkpointing=checkpointing,
            **context,
        )
        correction = 0 if is_first else int(self.reads_reprojection)
        self.correction_weight = nn.Parameter(torch.zeros(1)) if correction else None
        self.stem = EvidenceStem(volume_and_xrays + correction, lifted, local_channels, self.context.channels)
        self.convolution = Convolution(3, local_channels, local_channels, act=ACTIVATION, norm=None)
        self.to_volume = zero_initialised(Convolution(3, local_channels, 1, kernel_size=1, conv_only=True))
        for part in (self.stem, self.convolution, self.to_volume):
            convert_conv3d_weight_memory_format(part, torch.channels_last_3d)

    def forward(
        self,
        features: torch.Tensor,
        xrays: torch.Tensor,
        geometry: BiplanarGeometry,
        previous: torch.Tensor | None = None,
        region: Region | None = None,
        slabs: int = 1,
    ) -> torch.Tensor:
        """
        Args:
            features: `(B, 2, C, P, P)`, this stage's level of the X-ray encoder.
            xrays: `(B, 2, H, H)`.
            geometry: the set-up of both views.
            previous: the volume of the stage before, `(B, 1, size / 2, size / 2, size / 2)`; None in the first stage.
            region: the part of the volume that is wanted; by default the whole.
            slabs: in how many parts to compute it, one after the other, to save memory.

        Returns:
            `(B, 1, X, Y, Z)`, scaled to about [0, 1].
        """
        lifted = self.dropout(features.transpose(1, 2)).transpose(1, 2) if self.reads_features else None
        context = self._context(features, lifted, xrays, geometry, previous)
        log_ratio = None
        if previous is not None and self.reads_reprojection:
            log_ratio = self.reprojection.log_ratio(previous, xrays, geometry, self.size)
        parts = [
            computed(self.checkpointing, self._decode, part, context, lifted, xrays, geometry, previous, log_ratio)
            for part in (region or Region.whole(self.size)).slabs(slabs)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _context(self, features, lifted, xrays, geometry, previous) -> torch.Tensor:
        size = self.context.size
        seen = [] if previous is None else [adaptive_avg_pool3d(previous, size)]
        if self.reads_xrays:
            seen.append(lift_xrays(xrays, geometry, Region.whole(size)))
        return self.context(seen, lifted, features, geometry)

    def _decode(self, part: Region, context, lifted, xrays, geometry, previous, log_ratio) -> torch.Tensor:
        wide = part.widened(self.margin, multiple=2)
        base = None if previous is None else upsample_region(previous, wide)
        films = lift_xrays(xrays, geometry, wide)
        seen = [*([] if base is None else [base]), *([films] if self.reads_xrays else [])]
        if log_ratio is not None:
            correction = CORRECTION_SCALE * self.reprojection.correction(base, log_ratio, geometry, wide)
            seen.append(correction)
        volume = self.to_volume(self.convolution(self.stem(seen, lifted, geometry, wide, context)))
        if base is not None:
            volume = volume + base
        if log_ratio is not None:
            volume = volume + self.correction_weight * correction
        return part.within(wide).of(self._finish(volume, films))

    def _finish(self, volume: torch.Tensor, films: torch.Tensor) -> torch.Tensor:
        return volume


class Stage1Base64(VolumeStage):
    """
    The base: a volume from the X-rays alone, which then takes some steps towards agreement with them.

    Args:
        size: voxels along a side of the cube.
        consistency_steps: how many corrections by reprojection follow, each with a learned relaxation that starts at 1;
            none without "reprojection" in the evidence.
        network: as in :class:`VolumeStage`, less `is_first`.
    """

    def __init__(self, size: int = 64, consistency_steps: int = 2, **network) -> None:
        super().__init__(size=size, is_first=True, **network)
        self.relaxation = nn.Parameter(torch.ones(consistency_steps if self.reads_reprojection else 0))

    def forward(
        self,
        features: torch.Tensor,
        xrays: torch.Tensor,
        geometry: BiplanarGeometry,
        previous: torch.Tensor | None = None,
        region: Region | None = None,
        slabs: int = 1,
    ) -> torch.Tensor:
        """As in :meth:`VolumeStage.forward`. The whole is computed for any region, since a ray crosses all of it."""
        volume, whole = super().forward(features, xrays, geometry, slabs=slabs), Region.whole(self.size)
        for relaxation in self.relaxation:
            log_ratio = self.reprojection.log_ratio(volume, xrays, geometry, self.size)
            volume = volume + relaxation * self.reprojection.correction(volume, log_ratio, geometry, whole)
        return volume if region is None else region.of(volume)


class Stage2Refiner128(VolumeStage):
    """The texture: base + residual; starts as the trilinear upsampling. Arguments as in :class:`VolumeStage`."""

    def __init__(self, size: int = 128, **network) -> None:
        super().__init__(size=size, **network)


class Stage3Refiner256(VolumeStage):
    """
    The detail: base + residual + a high-frequency branch at full resolution, the detail enhancer.

    Args:
        size: voxels along a side of the cube.
        detail_channels: width of the detail enhancer.
        network: as in :class:`VolumeStage`.
    """

    margin = 6

    def __init__(self, size: int = 256, detail_channels: int = 8, **network) -> None:
        super().__init__(size=size, **network)
        self.detail_enhancer = convert_conv3d_weight_memory_format(DetailEnhancer(detail_channels), torch.channels_last_3d)

    def _finish(self, volume: torch.Tensor, films: torch.Tensor) -> torch.Tensor:
        return volume + self.detail_enhancer(volume, films)


class ContextNetwork(nn.Module):
    """
    Features of the whole cube: a convolutional pyramid (MONAI's U-Net blocks) over lifted evidence, and beside it, at the
    resolution of the tokens, a ViT with cross-attention to the X-ray features. What the ViT adds starts at zero.

    Args:
        size: voxels along a side of the cube.
        tokens: tokens along a side; `size / tokens` is a power of two.
        channels: width of the pyramid at each resolution, finest first.
        attention: "ray" or "dense", see :class:`~scripts.attention.BiplanarCrossAttention`; "none" leaves the ViT out.
        input_channels: channels of the volumes that are seen.
        lifted_channels: channels of the features that are lifted, 0 for none.
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
        **transformer,
    ) -> None:
        super().__init__()
        sides = [size / 2**level for level in range(len(channels))]
        if tokens not in sides or sides[-1] != int(sides[-1]):
            raise ValueError(
                f"ContextNetwork: {len(channels)} channels make a pyramid of {[f'{side:g}' for side in sides]} voxels a "
                f"side, expected whole numbers and {tokens}, the number of tokens, among them."
            )
        self.size, self.channels, self.token_level = size, channels[0], sides.index(tokens)
        self.stem = EvidenceStem(input_channels, lifted_channels, channels[0])
        self.entry = Convolution(3, channels[0], channels[0], act=ACTIVATION, norm=NORM, adn_ordering="NA")
        self.down = nn.ModuleList(Down(3, a, b, ACTIVATION, NORM, bias=True) for a, b in zip(channels, channels[1:]))
        self.up = nn.ModuleList(
            UpCat(3, coarse, fine, fine, ACTIVATION, NORM, bias=True, upsample="nontrainable", halves=False)
            for fine, coarse in zip(channels, channels[1:])
        )
        self.vit = None
        if attention != "none":
            width = channels[self.token_level]
            self.vit = BiplanarTransformer(tokens=tokens, channels=width, attention=attention, **transformer)

    def forward(
        self,
        seen: Sequence[torch.Tensor],
        lifted: torch.Tensor | None,
        features: torch.Tensor,
        geometry: BiplanarGeometry,
    ) -> torch.Tensor:
        """Volumes of this size, and the features `(B, 2, C, P, P)` to lift and to attend to: `(B, channels, S, S, S)`."""
        pyramid = [self.entry(self.stem(seen, lifted, geometry, Region.whole(self.size)))]
        for down in self.down:
            pyramid.append(down(pyramid[-1]))
        if self.vit is not None:
            pyramid[self.token_level] = self.vit(pyramid[self.token_level], features, geometry)
        volume = pyramid.pop()
        for up in reversed(self.up):
            volume = up(volume, pyramid.pop())
        return volume


class BiplanarTransformer(nn.Module):
    """
    Adds to a volume what a ViT over its voxels, the tokens, learns from them and from both X-rays' features; zero at the
    start.

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
        self.checkpointing, self.tokens, self.feature_pixels = checkpointing, tokens, feature_pixels
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

    def forward(self, volume: torch.Tensor, features: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
        """A volume `(B, C, N, N, N)` and features `(B, 2, F, P, P)` to a volume of the first's shape."""
        context = self.context_norm(rearrange(features, "b v c h w -> b v h w c"))
        context = context + self.view_embedding + self.film_position
        windows = ray_windows(geometry, self.tokens, self.feature_pixels, features.device)
        tokens = self.to_tokens(rearrange(volume, "b c x y z -> b x y z c"))
        if self.token_position is not None:
            tokens = tokens + self.token_position
        for layer in self.layers:
            tokens = computed(self.checkpointing, layer, tokens, context, windows)
        return volume + rearrange(self.from_tokens(self.token_norm(tokens)), "b x y z c -> b c x y z")


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
    """`function(*arguments)`; with `checkpointing` it is computed again in the backward pass instead of being stored."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def lift_xrays(xrays: torch.Tensor, geometry: BiplanarGeometry, region: Region) -> torch.Tensor:
    """X-rays `(B, 2, H, H)`, averaged to two pixels a voxel, laid into the region: `(B, 2, X, Y, Z)`."""
    films = adaptive_avg_pool2d(xrays, 2 * region.size)
    return lift(films[:, :, None], geometry, region.size, region)[:, :, 0]


def upsample(volume: torch.Tensor) -> torch.Tensor:
    """Trilinear upsampling to twice the size: what a refining stage starts from."""
    return interpolate(volume, scale_factor=2, mode="trilinear")


def upsample_region(volume: torch.Tensor, region: Region) -> torch.Tensor:
    """The region's voxels of a coarser volume `(B, C, s, s, s)`, trilinearly upsampled: `(B, C, X, Y, Z)`."""
    size = int(volume.shape[-1])
    factor = region.size // size
    if factor == 1:
        return region.of(volume)
    coarse = Region(
        size,
        tuple(max(0, first // factor - 1) for first in region.start),
        tuple(min(size, -(-last // factor) + 1) for last in region.stop),
    )
    fine = Region(region.size, *(tuple(factor * edge for edge in edges) for edges in (coarse.start, coarse.stop)))
    upsampled = interpolate(coarse.of(volume), scale_factor=factor, mode="trilinear")
    return region.within(fine).of(upsampled)


def high_band(volume: torch.Tensor) -> torch.Tensor:
    """`volume` less its average over 2 x 2 x 2 voxels: what half the resolution cannot hold."""
    return volume - interpolate(avg_pool3d(volume, 2), scale_factor=2, mode="nearest")


def zero_initialised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
