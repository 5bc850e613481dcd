"""Other people's bodies as evidence: training CTs, deformed until they look like a reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..projection.imaging import PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region
from ..projection.resampling import resized
from .registration import Deformation, Registration

if TYPE_CHECKING:
    from jaxtyping import Float

UPDATES = 2
"""MART updates of a joined volume: a third changes little."""


class Neighbours:
    """
    CTs of other patients, each registered to a volume of this one.

    What they add is plausible and not this patient's: a vessel or a nodule of a neighbour is the neighbour's.

    Args:
        cts: in HU, of the field of view of the reconstruction.
        registration: how each is brought to a volume.
        imaging: scales and acquisition geometry.
    """

    def __init__(self, cts: Float[Tensor, "N 1 S S S"], registration: Registration, imaging: ImagingModel) -> None:
        self.cts, self.registration, self.imaging = cts, registration, imaging

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
