"""The whole cascade: encoder, three stages, each refining the upsampled volume of the one before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from ..errors import InputError
from ..io.radiograph import XRAY_KEYS
from ..projection.entries import by_kind
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS, NUMBER_OF_STAGES, PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region
from .encoder import MultiScaleXrayEncoder
from .stages import EVIDENCE, Stage1Base64, Stage2Refiner128, Stage3Refiner256

if TYPE_CHECKING:
    from jaxtyping import Float

STAGES = (Stage1Base64, Stage2Refiner128, Stage3Refiner256)
Anatomy = Tensor | Callable[[Tensor], Tensor]
"""
Mean and spread of other people's bodies, `(B, 2, S, S, S)`, scaled, at any size; or what makes them of the first
stage's volume, `(B, 1, s, s, s)`.
"""

GIVEN: dict[str | None, tuple[int, ...]] = {None: BOTH_VIEWS, **{key: (view,) for view, key in enumerate(XRAY_KEYS)}}
"""The views of which there is an X-ray, by the one that is given alone."""


class ProgressiveCascadeModel(nn.Module):
    """
    Reconstructs a CT volume from a frontal and a lateral X-ray in three chained stages, each twice as fine.

    A stage owns its level of the encoder; :meth:`up_to` is the sub-network that a stage's checkpoint holds.

    The stages receive lateral X-rays of view LL alone. A pair with RL is that of the mirror image of the patient with
    LL, whose volume is mirrored back: exact, and nothing that has to be learned.

    Args:
        imaging: acquisition geometry of both views and the scales of volumes and X-rays. Its `detector_pixels` are the
            side of the X-rays, eight times that of the first stage's volume.
        tokens: volume tokens along a side, one number for all stages or one for each.
        num_layers: transformer layers of each stage.
        num_heads: attention heads of each stage.
        hidden_size: width of a token, one for all stages or one for each.
        mlp_dim: width of the transformer layers' MLP, one for all stages or one for each.
        feature_channels: X-ray feature channels of each stage.
        encoder_channels: widths of the encoder's U-Net, see :class:`~scripts.networks.encoder.MultiScaleXrayEncoder`.
        context_size: voxels along a side of the global branch's volume, in every stage.
        context_channels: widths of the global branch's pyramid, finest first, in every stage.
        local_channels: width of each stage's local branch.
        detail_channels: width of the last stage's detail enhancer.
        consistency_steps: MART updates at the end of the first stage.
        feature_dropout: fraction of the lifted feature channels that is dropped in training.
        checkpointing: gradient checkpointing of each stage.
        attention: "ray", "dense" or "none", which omits the ViT.
        evidence: the stages' input features, see :class:`~scripts.networks.stages.VolumeStage`.
        trained_stage: the one stage (1, 2 or 3) to train; all else is frozen. None leaves everything trainable.
        mirror_averaging: whether the first stage's volume, unless that is being trained, is the mean of the pair's and
            of the mirror image of what the mirrored pair becomes, with one MART update after it.

    Raises:
        ValueError: when the X-rays' pixels are no multiple of eight, or the sizes do not fit the tokens or
            `context_size`.
    """

    def __init__(
        self,
        imaging: ImagingModel,
        tokens: int | Sequence[int],
        num_layers: Sequence[int],
        num_heads: Sequence[int],
        hidden_size: int | Sequence[int],
        mlp_dim: int | Sequence[int],
        feature_channels: Sequence[int],
        encoder_channels: Sequence[int],
        context_size: int,
        context_channels: Sequence[int],
        local_channels: Sequence[int],
        detail_channels: int,
        consistency_steps: int,
        feature_dropout: float,
        checkpointing: Sequence[bool],
        attention: str = "ray",
        evidence: Sequence[str] = EVIDENCE,
        trained_stage: int | None = None,
        mirror_averaging: bool = False,
    ) -> None:
        super().__init__()
        self.geometry = imaging.geometry
        self.sizes = tuple(imaging.volume_size(stage) for stage in range(1, NUMBER_OF_STAGES + 1))
        if self.geometry.detector_pixels % 8:
            raise ValueError(
                f"ProgressiveCascadeModel: the X-rays have {self.geometry.detector_pixels} pixels a side, expected a "
                f"multiple of 8, since the volumes have an eighth, a quarter and a half of them."
            )
        if self.sizes[0] % context_size:
            raise ValueError(
                f"ProgressiveCascadeModel: the first volume has {self.sizes[0]} voxels a side, an eighth of the "
                f"X-rays' {self.geometry.detector_pixels} pixels, expected a multiple of context_size, {context_size}."
            )
        tokens, hidden_size, mlp_dim = (ensure_tuple_rep(each, len(STAGES)) for each in (tokens, hidden_size, mlp_dim))
        own_arguments: tuple[dict[str, Any], ...] = (
            {"consistency_steps": consistency_steps},
            {},
            {"detail_channels": detail_channels},
        )
        self.encoder = MultiScaleXrayEncoder(feature_channels, encoder_channels)
        self.stages = nn.ModuleList(
            stage(
                size=self.sizes[k],
                imaging=imaging,
                context={
                    "size": context_size,
                    "tokens": tokens[k],
                    "channels": context_channels,
                    "num_layers": num_layers[k],
                    "num_heads": num_heads[k],
                    "hidden_size": hidden_size[k],
                    "mlp_dim": mlp_dim[k],
                    "feature_pixels": PIXELS_PER_VOXEL * self.sizes[k],
                    "attention": attention,
                },
                checkpointing=checkpointing[k],
                local_channels=local_channels[k],
                feature_channels=feature_channels[k],
                feature_dropout=feature_dropout,
                evidence=evidence,
                **own,
            )
            for k, (stage, own) in enumerate(zip(STAGES, own_arguments))
        )
        self.trained_stage, self.mirror_averaging = trained_stage, mirror_averaging
        if trained_stage is not None:
            self._check_stage(trained_stage)
            self.requires_grad_(False)
            for part in self._parts(trained_stage - 1):
                part.requires_grad_(True)

    def forward(
        self,
        xrays: Float[Tensor, "B 2 P P"],
        geometry: BiplanarGeometry | None = None,
        stages: int = 3,
        region: Region | None = None,
        slabs: int = 1,
        anatomy: Anatomy | None = None,
        only: Sequence[str | None] | None = None,
    ) -> list[Float[Tensor, "B 1 X Y Z"]]:
        """
        Args:
            xrays: scaled line integrals, frontal then lateral.
            geometry: of these X-rays, the model's own by default.
            stages: the stage to stop after.
            region: what is wanted of the last volume, the whole by default.
            slabs: tiled inference: in how many slabs to compute the last volume, which takes less memory.
            anatomy: what other people's bodies say, see :data:`Anatomy`; not read by a network without "anatomy" in
                `evidence`. None adds nothing.
            only: of each batch entry the one X-ray that is given, "frontal" or "lateral", or None for both, as for all
                where it is None. The other one is masked: its pixels, whatever they are, change nothing. Entries
                that have the same X-rays go together.

        Returns:
            Each stage's volume, RAS+, scaled to about [0, 1], coarsest first; cubes, but the last as large as the
            region.

        Raises:
            InputError: when the X-rays have another shape, or `only` is of other entries or names no X-ray.
        """
        self._check_stage(stages)
        geometry = self.geometry if geometry is None else geometry
        pixels = self.geometry.detector_pixels
        if xrays.ndim != 4 or tuple(xrays.shape[1:]) != (2, pixels, pixels):
            raise InputError(
                f"ProgressiveCascadeModel: the X-rays have shape {tuple(xrays.shape)}, expected (B, 2, {pixels}, "
                f"{pixels}): frontal and lateral, each {pixels} pixels a side."
            )
        anatomy = anatomy if self.reads_anatomy else None
        alone = [None] if only is None else list(only)
        if len(alone) not in (1, len(xrays)) or not set(alone) <= set(GIVEN):
            raise InputError(
                f"ProgressiveCascadeModel: only is {alone}, expected one of {', '.join(XRAY_KEYS)} or None for each of "
                f"the {len(xrays)} batch entries."
            )
        if not any(alone):
            return self._of_any_side(xrays, geometry, region, anatomy, BOTH_VIEWS, stages=stages, slabs=slabs)

        def of_kind(geometry: BiplanarGeometry, xrays: Tensor, entries: Tensor, *others: Tensor) -> list[Tensor]:
            given, found = GIVEN[alone[int(entries[0])]], others[0] if others else anatomy
            seen = masked_xrays(xrays, given)
            return self._of_any_side(seen, geometry, region, found, given, stages=stages, slabs=slabs)

        by_entry = [anatomy] if isinstance(anatomy, Tensor) else []
        return list(by_kind(alone, of_kind, geometry, xrays, torch.arange(len(xrays)), *by_entry))

    @property
    def reads_anatomy(self) -> bool:
        """Whether other people's bodies are among the input features of the later stages."""
        return any(stage.reads_anatomy for stage in self.stages)

    def _of_any_side(
        self,
        xrays: Tensor,
        geometry: BiplanarGeometry,
        region: Region | None,
        anatomy: Anatomy | None,
        given: Sequence[int],
        **how: int,
    ) -> list[Tensor]:
        """The volumes of pairs with LL as they are, and of those with RL by way of their mirror images."""

        def volumes(geometry: BiplanarGeometry, xrays: Tensor, *others: Tensor) -> list[Tensor]:
            found = others[0] if others else anatomy
            if not any(lateral_is_rl(geometry)):
                return self._of_left_side(xrays, geometry, region, found, given, **how)
            mirrored = None if region is None else region.mirrored()
            found = None if found is None else mirrored_anatomy(found)
            flipped = self._of_left_side(mirrored_xrays(xrays), geometry.mirrored(), mirrored, found, given, **how)
            return [volume.flip(2) for volume in flipped]

        by_entry = [anatomy] if isinstance(anatomy, Tensor) else []
        return list(by_kind(lateral_is_rl(geometry), volumes, geometry, xrays, *by_entry))

    def _of_left_side(
        self,
        xrays: Tensor,
        geometry: BiplanarGeometry,
        region: Region | None,
        anatomy: Anatomy | None,
        given: Sequence[int],
        stages: int,
        slabs: int,
    ) -> list[Tensor]:
        volumes: list[Tensor] = []
        features = self.encoder(xrays, stages)
        for number, (stage, level) in enumerate(zip(self.stages, features), start=1):
            previous = volumes[-1] if volumes else None
            if number == 2 and callable(anatomy):
                anatomy = anatomy(volumes[0])
            extent: dict[str, Any] = {"region": region, "slabs": slabs} if number == stages else {}
            if number == 1 and self.mirror_averaging and not stage.training:
                volumes.append(self._mirror_averaged(level, xrays, geometry, given, **extent))
            else:
                found = None if number == 1 else anatomy
                volumes.append(stage(level, xrays, geometry, previous, anatomy=found, given=given, **extent))
        return volumes

    def _mirror_averaged(
        self,
        features: Tensor,
        xrays: Tensor,
        geometry: BiplanarGeometry,
        given: Sequence[int],
        region: Region | None = None,
        slabs: int = 1,
    ) -> Tensor:
        """The first stage's volume; arguments as in :meth:`~scripts.networks.stages.VolumeStage.forward`."""
        stage: Any = self.stages[0]
        mirrored = mirrored_xrays(xrays)
        # The mirrored pair has RL. It is taken as LL, on which the stage was trained: right but for the cone beam.
        as_left = replace(geometry.mirrored(), views=geometry.views)
        volume = stage(features, xrays, geometry, slabs=slabs, given=given)
        mirror_image = stage(self.encoder(mirrored, 1)[0], mirrored, as_left, slabs=slabs, given=given).flip(2)
        mean = stage.updated((volume + mirror_image) / 2, xrays, geometry, given=given)
        return mean if region is None else region.of(mean)

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


def lateral_is_rl(geometry: BiplanarGeometry) -> list[bool]:
    """
    Whether the lateral view is RL, its source at the patient's left: of each batch entry, or once where all share it.
    """
    signs = geometry.depth_sign(1)
    return [sign < 0 for sign in (signs.tolist() if isinstance(signs, Tensor) else [signs])]


def mirrored_xrays(xrays: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
    """The X-rays of the mirror images of the patients: the frontal ones mirrored, the lateral ones alike."""
    return torch.stack([xrays[:, 0].flip(-1), xrays[:, 1]], dim=1)


def masked_xrays(xrays: Float[Tensor, "B 2 H W"], given: Sequence[int]) -> Float[Tensor, "B 2 H W"]:
    """The X-rays of the `given` views, and zeros, which are air, in the place of the other."""
    kept = torch.zeros_like(xrays)
    for view in given:
        kept[:, view] = xrays[:, view]
    return kept


def mirrored_anatomy(anatomy: Anatomy) -> Anatomy:
    """What other people's bodies say of the mirror images of the patients: their hearts lie at the right as well."""
    if isinstance(anatomy, Tensor):
        return anatomy.flip(2)
    return lambda volume: anatomy(volume.flip(2)).flip(2)


class FinalVolumeModel(ProgressiveCascadeModel):
    """
    The cascade for tools that expect one prediction: the same parameters under the same names, one volume.

    Args:
        stages: the stage to stop after.
        network: as in :class:`ProgressiveCascadeModel`.
    """

    def __init__(self, stages: int = NUMBER_OF_STAGES, **network: Any) -> None:
        super().__init__(**network)
        self._check_stage(stages)
        self.final_stage = stages

    def forward(  # type: ignore[override]  # one volume in place of a list is what the class is for
        self,
        xrays: Float[Tensor, "B 2 P P"],
        geometry: BiplanarGeometry | None = None,
        slabs: int = 1,
        anatomy: Anatomy | None = None,
        only: Sequence[str | None] | None = None,
    ) -> Float[Tensor, "B 1 S S S"]:
        """The last stage's volume; arguments as in :meth:`ProgressiveCascadeModel.forward`."""
        return super().forward(xrays, geometry, self.final_stage, slabs=slabs, anatomy=anatomy, only=only)[-1]

    def first_volume(
        self, xrays: Float[Tensor, "B 2 P P"], geometry: BiplanarGeometry | None = None
    ) -> Float[Tensor, "B 1 s s s"]:
        """The first stage's volume; arguments as in :meth:`forward`."""
        return super().forward(xrays, geometry, 1)[0]
