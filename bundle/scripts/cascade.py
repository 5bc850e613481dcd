"""The whole cascade: encoder, three stages, each refining the upsampled volume of the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from .encoder import MultiScaleXrayEncoder
from .errors import InputError
from .geometry import BiplanarGeometry
from .stages import Stage1Base64, Stage2Refiner128, Stage3Refiner256

STAGES = (Stage1Base64, Stage2Refiner128, Stage3Refiner256)


class ProgressiveCascadeModel(nn.Module):
    """
    Reconstructs a CT volume from a frontal and a lateral X-ray in three chained stages, each twice as fine.

    A stage owns its level of the encoder; :meth:`up_to` is the part of the network that a stage's checkpoint holds.

    Args:
        geometry: the set-up of both views; `detector_pixels` is the side of the X-rays, twice that of the last volume.
        tokens: volume tokens along a side, in every stage.
        num_layers: transformer layers of each stage.
        num_heads: attention heads of each stage.
        hidden_size: width of a token.
        mlp_dim: width of the transformer layers' MLP.
        feature_channels: X-ray feature channels of each stage.
        context_channels: widths of the encoder's U-Net, see :class:`~scripts.encoder.MultiScaleXrayEncoder`.
        channels: widths of each stage's pyramid, finest first; their number sets the stage's size,
            `tokens * 2 ** (len(channels) - 1)`.
        detail_channels: width of the last stage's detail enhancer.
        attention: "ray" or "dense".
        checkpointing: gradient checkpointing of each stage.
        trained_stage: the one stage (1, 2 or 3) to train; all else is frozen. None leaves everything trainable.

    Raises:
        ValueError: when the sizes of the stages do not double, or do not fit the X-rays.
    """

    def __init__(
        self,
        geometry: BiplanarGeometry,
        tokens: int = 16,
        num_layers: Sequence[int] = (4, 6, 8),
        num_heads: Sequence[int] = (4, 8, 8),
        hidden_size: int = 192,
        mlp_dim: int = 768,
        feature_channels: Sequence[int] = (32, 16, 8),
        context_channels: Sequence[int] = (32, 64, 128),
        channels: Sequence[Sequence[int]] = ((16, 32, 64), (16, 32, 64, 128), (8, 16, 32, 64, 128)),
        detail_channels: int = 8,
        attention: str = "ray",
        checkpointing: Sequence[bool] = (False, False, True),
        trained_stage: int | None = None,
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.sizes = tuple(tokens * 2 ** (len(widths) - 1) for widths in channels)
        expected = tuple(geometry.detector_pixels // divisor for divisor in (8, 4, 2))
        if self.sizes != expected:
            raise ValueError(
                f"ProgressiveCascadeModel: {tokens} tokens and channels {channels} give volumes of {self.sizes} voxels "
                f"a side, but X-rays of {geometry.detector_pixels} pixels go with {expected}."
            )
        self.encoder = MultiScaleXrayEncoder(feature_channels, context_channels)
        self.stages = nn.ModuleList(
            stage(
                size=self.sizes[k],
                tokens=tokens,
                num_layers=num_layers[k],
                num_heads=num_heads[k],
                hidden_size=hidden_size,
                mlp_dim=mlp_dim,
                channels=channels[k],
                feature_channels=feature_channels[k],
                feature_pixels=2 * self.sizes[k],
                attention=attention,
                checkpointing=checkpointing[k],
                **({"detail_channels": detail_channels} if stage is Stage3Refiner256 else {}),
            )
            for k, stage in enumerate(STAGES)
        )
        self.trained_stage = trained_stage
        if trained_stage is not None:
            self._check_stage(trained_stage)
            self.requires_grad_(False)
            for part in self._parts(trained_stage - 1):
                part.requires_grad_(True)

    def forward(
        self, xrays: torch.Tensor, geometry: BiplanarGeometry | None = None, stages: int = 3
    ) -> list[torch.Tensor]:
        """
        Args:
            xrays: scaled line integrals, `(B, 2, P, P)`, frontal then lateral.
            geometry: the set-up of these X-rays, the model's own by default.
            stages: the stage to stop after.

        Returns:
            Each stage's volume, `(B, 1, S, S, S)`, RAS+, scaled to about [0, 1], coarsest first.

        Raises:
            InputError: when the X-rays have another shape.
        """
        self._check_stage(stages)
        geometry = self.geometry if geometry is None else geometry
        pixels = self.geometry.detector_pixels
        if xrays.ndim != 4 or tuple(xrays.shape[1:]) != (2, pixels, pixels):
            raise InputError(
                f"ProgressiveCascadeModel: the X-rays have shape {tuple(xrays.shape)}, expected (B, 2, {pixels}, "
                f"{pixels}): frontal and lateral, each {pixels} pixels a side."
            )
        volumes: list[torch.Tensor] = []
        for stage, features in zip(self.stages, self.encoder(xrays, stages)):
            films = avg_pool2d(xrays, pixels // features.shape[-1])[:, :, None]
            base = [upsample(volumes[-1])] if volumes else []
            volumes.append(stage(features, films, geometry, *base))
        return volumes

    def up_to(self, stage: int) -> nn.ModuleDict:
        """What the checkpoint of `stage` holds: this network cut after it. Parameters and their names are shared."""
        self._check_stage(stage)
        encoder = nn.ModuleDict({"levels": self.encoder.levels[:stage]})
        return nn.ModuleDict({"encoder": encoder, "stages": self.stages[:stage]})

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of `trained_stage`."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def train(self, mode: bool = True) -> ProgressiveCascadeModel:
        """As in every module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.trained_stage is not None:
            for stage in set(range(len(self.stages))) - {self.trained_stage - 1}:
                for part in self._parts(stage):
                    part.eval()
        return self

    def _parts(self, index: int) -> tuple[nn.Module, nn.Module]:
        return self.encoder.levels[index], self.stages[index]

    def _check_stage(self, stage: int) -> None:
        if stage not in range(1, len(self.stages) + 1):
            raise ValueError(f"ProgressiveCascadeModel: stage is {stage!r}, expected 1, 2 or 3.")


def upsample(volume: torch.Tensor) -> torch.Tensor:
    """Trilinear upsampling to twice the size: what a stage starts from."""
    return interpolate(volume, scale_factor=2, mode="trilinear")
