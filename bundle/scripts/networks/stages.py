"""The three stages of the cascade: one volume network, at three sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d
from torch.nn.utils import convert_conv3d_weight_memory_format

from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS, PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region
from ..projection.resampling import upsample_region
from .blocks import ACTIVATION, VIEWS, DetailEnhancer, EvidenceStem, computed, lift_xrays, pointwise, zero_initialised
from .context import ContextNetwork

if TYPE_CHECKING:
    from jaxtyping import Float

EVIDENCE = ("xrays", "features", "positions", "reprojection")
ANATOMY = "anatomy"
"""An input feature that stages 2 and 3 may have beside these: the bodies of others."""
UPDATE_SCALE = 50.0
"""Brings a MART update, a few per cent of a tissue's value, to the size of the other input features."""


class VolumeStage(nn.Module):
    """
    Predicts a volume from X-rays and their features, as a residual of the volume so far.

    Two branches. The global branch sees the whole volume at a coarse size and ends in features of that size. The local
    branch works at the stage's own size by a few convolutions without normalisation over the volume, so that any region
    of the volume can be computed by itself.

    Args:
        size: voxels along a side of the volume.
        imaging: how volumes are compared with the X-rays.
        context: arguments of :class:`ContextNetwork`, the global branch, that the stage itself does not set.
        local_channels: width of the local branch.
        feature_channels: channels of the X-ray features.
        feature_dropout: fraction of the X-ray features' channels that is dropped in training.
        checkpointing: recompute each transformer layer and the local branch in the backward pass, to store less.
        evidence: the input features, of "xrays" (backprojected), "features" (learned, lifted), "positions" (a learned
            map of the tokens' positions), "reprojection" (the MART update of the volume so far) and "anatomy" (other
            people's bodies; not read by the first stage).
        is_first: whether there is no volume so far.

    Raises:
        ValueError: when `evidence` names something else, or neither X-rays nor features.
    """

    margin = 2
    """How many voxels around a region the local branch reads."""
    computes_whole = False
    """Whether the whole volume is computed for any region."""

    def __init__(
        self,
        size: int,
        imaging: ImagingModel,
        context: dict,
        local_channels: int,
        feature_channels: int,
        feature_dropout: float = 0.0,
        checkpointing: bool = False,
        evidence: Sequence[str] = EVIDENCE,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        known = (*EVIDENCE, ANATOMY)
        if not set(evidence) <= set(known) or not set(evidence) & {"xrays", "features"}:
            raise ValueError(f"{type(self).__name__}: evidence is {evidence}, expected some of {known}.")
        self.size, self.imaging, self.checkpointing = size, imaging, checkpointing
        self.reads_xrays, self.reads_features = "xrays" in evidence, "features" in evidence
        self.reads_reprojection = "reprojection" in evidence
        self.dropout = nn.Dropout3d(feature_dropout)
        volume_and_xrays = (0 if is_first else 1) + VIEWS * self.reads_xrays
        lifted = feature_channels if self.reads_features else 0
        reads_anatomy = ANATOMY in evidence and not is_first
        self.context = ContextNetwork(
            input_channels=volume_and_xrays,
            lifted_channels=lifted,
            reads_anatomy=reads_anatomy,
            feature_channels=feature_channels,
            has_positions="positions" in evidence,
            checkpointing=checkpointing,
            **context,
        )
        reads_update = self.reads_reprojection and not is_first
        self.correction_weight = nn.Parameter(torch.zeros(1)) if reads_update else None
        self.stem = EvidenceStem(
            volume_and_xrays + reads_update, lifted, local_channels, self.context.channels, reads_anatomy
        )
        self.convolution = Convolution(3, local_channels, local_channels, act=ACTIVATION, norm=None)
        self.to_volume = zero_initialised(Convolution(3, local_channels, 1, kernel_size=1, conv_only=True))
        convert_conv3d_weight_memory_format(self, torch.channels_last_3d)

    @property
    def reads_anatomy(self) -> bool:
        """Whether other people's bodies are among the input features."""
        return self.stem.of_anatomy is not None

    def forward(
        self,
        features: Float[Tensor, "B 2 C P P"],
        xrays: Float[Tensor, "B 2 H H"],
        geometry: BiplanarGeometry,
        previous: Float[Tensor, "B 1 s s s"] | None = None,
        region: Region | None = None,
        slabs: int = 1,
        anatomy: Float[Tensor, "B 2 a a a"] | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B 1 X Y Z"]:
        """
        Args:
            features: this stage's level of the X-ray encoder.
            xrays: scaled line integrals.
            geometry: of both views.
            previous: the volume of the stage before, half as many voxels a side; None in the first stage.
            region: what is wanted of the volume; by default the whole.
            slabs: in how many slabs to compute it, one after the other, to save memory.
            anatomy: mean and spread of others' bodies, scaled, in the whole volume at any size; None for none.
            given: the views of which there is an X-ray; those of the other are zero, and its features are not read.

        Returns:
            The region's volume, scaled to about [0, 1].
        """
        whole = Region.whole(self.size)
        wanted = region or whole
        covered = whole if self.computes_whole else wanted
        lifted = self.dropout(features.transpose(1, 2)).transpose(1, 2) if self.reads_features else features
        context = self._context(features, lifted, xrays, geometry, previous, anatomy, given)
        log_ratio = None
        if previous is not None and self.reads_reprojection:
            log_ratio = self.imaging.log_ratio(previous, xrays, PIXELS_PER_VOXEL * self.size, geometry)
        read = (context, lifted, xrays, geometry, previous, log_ratio, anatomy, given)
        volumes = [computed(self.checkpointing, self._decode, slab, *read) for slab in covered.slabs(slabs)]
        volume = self._update(volumes[0] if len(volumes) == 1 else torch.cat(volumes, dim=2), xrays, geometry, given)
        return volume if covered == wanted else wanted.of(volume)

    def _context(
        self,
        features: Tensor,
        lifted: Tensor,
        xrays: Tensor,
        geometry: BiplanarGeometry,
        previous: Tensor | None,
        anatomy: Tensor | None,
        given: Sequence[int],
    ) -> Tensor:
        size = self.context.size
        seen = [] if previous is None else [adaptive_avg_pool3d(previous, size)]
        if self.reads_xrays:
            seen.append(lift_xrays(xrays, geometry, Region.whole(size)))
        return self.context(seen, lifted, features, geometry, anatomy, given)

    def _decode(
        self,
        region: Region,
        context: Tensor,
        lifted: Tensor,
        xrays: Tensor,
        geometry: BiplanarGeometry,
        previous: Tensor | None,
        log_ratio: Tensor | None,
        anatomy: Tensor | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Tensor:
        wide = region.widened(self.margin, multiple=2)
        base = None if previous is None else upsample_region(previous, wide)
        lifted_xrays = lift_xrays(xrays, geometry, wide)
        seen = [*([] if base is None else [base]), *([lifted_xrays] if self.reads_xrays else [])]
        update = None
        if base is not None and log_ratio is not None:
            update = UPDATE_SCALE * self.imaging.correction(base, log_ratio, wide, geometry, given)
            seen.append(update)
        hidden = self.convolution(self.stem(seen, lifted, geometry, wide, context, anatomy, given))
        volume = pointwise(self.to_volume, hidden)
        if base is not None:
            volume = volume + base
        if update is not None and self.correction_weight is not None:
            volume = volume + self.correction_weight * update
        return region.within(wide).of(self._finish(volume, lifted_xrays))

    def _finish(self, volume: Tensor, lifted_xrays: Tensor) -> Tensor:
        return volume

    def _update(self, volume: Tensor, xrays: Tensor, geometry: BiplanarGeometry, given: Sequence[int]) -> Tensor:
        return volume


class Stage1Base64(VolumeStage):
    """
    The base: a volume from the X-rays alone, then MART updates towards agreement with them.

    Args:
        consistency_steps: number of updates, each with a learned relaxation factor that starts at 1; none without
            "reprojection" in `evidence`.
        network: as in :class:`VolumeStage`, less `is_first`.
    """

    computes_whole = True  # a ray crosses all of it

    def __init__(self, consistency_steps: int, **network: Any) -> None:
        super().__init__(is_first=True, **network)
        self.relaxation = nn.Parameter(torch.ones(consistency_steps if self.reads_reprojection else 0))

    def _update(self, volume: Tensor, xrays: Tensor, geometry: BiplanarGeometry, given: Sequence[int]) -> Tensor:
        for relaxation in self.relaxation:
            volume = self.updated(volume, xrays, geometry, relaxation, given)
        return volume

    def updated(
        self,
        volume: Float[Tensor, "B 1 S S S"],
        xrays: Float[Tensor, "B 2 H H"],
        geometry: BiplanarGeometry,
        relaxation: float | Tensor = 1.0,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B 1 S S S"]:
        """A volume after one MART update by the `given` views; as it is without "reprojection" in `evidence`."""
        if not self.reads_reprojection:
            return volume
        log_ratio = self.imaging.log_ratio(volume, xrays, PIXELS_PER_VOXEL * self.size, geometry)
        correction = self.imaging.correction(volume, log_ratio, Region.whole(self.size), geometry, given)
        return volume + relaxation * correction


class Stage2Refiner128(VolumeStage):
    """The texture: base + residual; starts as the trilinear upsampling. Arguments as in :class:`VolumeStage`."""


class Stage3Refiner256(VolumeStage):
    """
    The detail: base + residual + a high-frequency branch at full resolution, the detail enhancer.

    Args:
        detail_channels: width of the detail enhancer.
        network: as in :class:`VolumeStage`.
    """

    margin = 6

    def __init__(self, detail_channels: int, **network: Any) -> None:
        super().__init__(**network)
        self.detail_enhancer = convert_conv3d_weight_memory_format(
            DetailEnhancer(detail_channels), torch.channels_last_3d
        )

    def _finish(self, volume: Tensor, lifted_xrays: Tensor) -> Tensor:
        return volume + self.detail_enhancer(volume, lifted_xrays)
