"""Projections of the reconstruction against those of the ground truth, as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, l1_loss

from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import Reprojection
from ..projection.region import Region


class DRRReprojectionLoss(nn.Module):
    """
    Mean absolute difference between the X-rays and the projections of the volume, both as scaled line integrals.

    Args:
        geometry: the nominal set-up.
        hu_window: lowest and highest HU of the volume's scale.
        xray_scale: line integral that the X-rays' scale calls 1.
    """

    def __init__(self, geometry: BiplanarGeometry, hu_window: Sequence[float], xray_scale: float) -> None:
        super().__init__()
        self.geometry, self.reprojection = geometry, Reprojection(hu_window, xray_scale)

    def forward(
        self,
        prediction: torch.Tensor,
        xrays: torch.Tensor,
        base: torch.Tensor | None = None,
        region: Region | None = None,
        geometry: BiplanarGeometry | None = None,
    ) -> torch.Tensor:
        """
        A volume `(B, 1, S, S, S)` and the X-rays `(B, 2, P, P)`, compared at 2S pixels, to a scalar. `geometry` is that
        of these X-rays, the nominal one by default.

        With a `region` the prediction holds that part, and `base`, a whole volume, the rest: line integrals are linear,
        so that those of the base and those of what the part changes add up.
        """
        if region is None:
            drr = self.project(prediction, geometry)
        else:
            attenuation = self.reprojection.attenuation
            change = attenuation(prediction) - attenuation(region.of(base))
            drr = self.project(base, geometry) + self._films(change, region, geometry)
        return l1_loss(drr, adaptive_avg_pool2d(xrays, drr.shape[-1]))

    def project(self, volume: torch.Tensor, geometry: BiplanarGeometry | None = None) -> torch.Tensor:
        """Scaled line integrals of a scaled volume `(B, 1, S, S, S)`: `(B, 2, 2S, 2S)`."""
        return self._films(self.reprojection.attenuation(volume), Region.whole(volume.shape[-1]), geometry)

    def _films(self, mu: torch.Tensor, region: Region, geometry: BiplanarGeometry | None) -> torch.Tensor:
        return self.reprojection.films(mu, geometry or self.geometry, region, region.size)
