"""Other people's bodies as evidence: training CTs, deformed until they look like a reconstruction."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..projection.imaging import PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region
from ..projection.resampling import resized
from .atlas import atlas_path, read_atlas
from .registration import Deformation, Registration

if TYPE_CHECKING:
    from jaxtyping import Float

UPDATES = 2
"""MART updates of a joined volume: a third changes little."""
NEAREST = 6
"""Neighbours that go on to the fine levels: two more gain 0.01 dB of the joined volume, see benchmarks/anatomy.md."""
COARSE_LEVELS = 2
"""After which those are chosen."""


class Neighbours:
    """
    CTs of other patients, each registered to a volume of this one.

    What they add is plausible and not this patient's: a vessel or a nodule of a neighbour is the neighbour's.

    Args:
        cts: in HU, of the field of view of the reconstruction.
        registration: how each is brought to a volume.
        imaging: scales and acquisition geometry.
        nearest: how many of them count, those that look most like the volume after :data:`COARSE_LEVELS`; None for all.
        patients: whose CTs they are, one for each.
    """

    def __init__(
        self,
        cts: Float[Tensor, "N 1 S S S"],
        registration: Registration,
        imaging: ImagingModel,
        nearest: int | None = None,
        patients: Sequence[str] = (),
    ) -> None:
        self.cts, self.registration, self.imaging, self.nearest = cts, registration, imaging, nearest
        self.patients = list(patients)

    def without(self, patients: Collection[str]) -> Neighbours | None:
        """The CTs of others than these patients; None where there is no other."""
        kept = [number for number, patient in enumerate(self.patients) if patient not in patients]
        if len(kept) == len(self.patients):
            return self
        if not kept:
            return None
        others = [self.patients[number] for number in kept]
        return Neighbours(self.cts[kept], self.registration, self.imaging, self.nearest, others)

    def __call__(self, volumes: Float[Tensor, "B 1 T T T"]) -> Float[Tensor, "B 2 S S S"]:
        """
        What the neighbours say of scaled volumes: their mean and their spread, the standard deviation, both scaled, at
        the size of the CTs. Works without gradients, in inference mode and under autocast too.
        """
        with torch.inference_mode(False), torch.autocast(volumes.device.type, enabled=False):
            plain = volumes.detach().clone().float()
            return torch.cat([self._evidence(volume[None]) for volume in plain])

    def register(self, volume: Float[Tensor, "1 1 T T T"]) -> Deformation:
        """The deformation of the neighbours to a scaled volume."""
        return self.registration(self.cts, self.imaging.to_hu(volume))[0]

    @torch.no_grad()
    def warped(self, deformation: Deformation, size: int) -> Float[Tensor, "N 1 size size size"]:
        """The deformed neighbours, scaled."""
        return self.imaging.scale(deformation.warp(self.cts, size))

    @torch.no_grad()
    def joined(
        self, mean: Float[Tensor, "1 1 T T T"], volume: Float[Tensor, "1 1 t t t"], xrays: Float[Tensor, "1 2 P P"]
    ) -> Float[Tensor, "1 1 T T T"]:
        """
        Half of the neighbours' mean and half of a reconstruction, brought to agree with the X-rays by MART updates.

        Args:
            mean: of the deformed neighbours, scaled.
            volume: a reconstruction, scaled, at any size.
            xrays: scaled line integrals.
        """
        size = mean.shape[-1]
        joined = (mean + resized(volume, size)) / 2
        for _ in range(UPDATES):
            log_ratio = self.imaging.log_ratio(joined, xrays, PIXELS_PER_VOXEL * size)
            joined = joined + self.imaging.correction(joined, log_ratio, Region.whole(size))
        return joined

    def _evidence(self, volume: Tensor) -> Tensor:
        cts, hu = self.cts.to(volume.device), self.imaging.to_hu(volume)
        if self.nearest is None or self.nearest >= len(cts):
            deformation, _ = self.registration(cts, hu)
        else:
            coarse, fine = self.registration.parts(COARSE_LEVELS)
            begun, difference = coarse(cts, hu)
            chosen = sorted(difference.argsort()[: self.nearest].tolist())
            cts = cts[chosen]
            deformation, _ = fine(cts, hu, start=begun.select(chosen))
        with torch.no_grad():
            size = cts.shape[-1]
            # One at a time: the places of a single one take 24 bytes a voxel.
            warped = [self.imaging.scale(deformation.select([n]).warp(ct[None], size)) for n, ct in enumerate(cts)]
            spread, mean = torch.std_mean(torch.cat(warped), dim=0, correction=0, keepdim=True)
        return torch.cat([mean, spread], dim=1)


def neighbours_beside(weights: str, reads_anatomy: bool, imaging: ImagingModel) -> Neighbours | None:
    """
    The neighbours of the atlas next to weights; None for a network that reads none, or without an atlas.

    Args:
        weights: that are in use.
        reads_anatomy: whether the network reads other people's bodies.
        imaging: scales and acquisition geometry.

    Raises:
        CheckpointError: as :func:`~scripts.anatomy.atlas.read_atlas` does.

    Warns:
        UserWarning: when the network reads anatomy and there is no atlas.
    """
    if not reads_anatomy:
        return None
    atlas = read_atlas(weights, imaging.geometry.fov_mm)
    if atlas is None:
        warnings.warn(
            f"{atlas_path(weights)}: no such file. These weights have learnt with other people's bodies as evidence, "
            f"and reconstruct without them, with less detail. Make an atlas by: python launch.py atlas "
            f"--dataset_dir DIR --weights {weights}",
            stacklevel=2,
        )
        return None
    patients = [record["patient"] for record in atlas.records]
    return Neighbours(atlas.cts, Registration(), imaging, NEAREST, patients)
