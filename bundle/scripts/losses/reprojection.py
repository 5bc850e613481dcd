"""The reprojection of a reconstruction against its X-rays, as a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, l1_loss

from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS, PIXELS_PER_VOXEL, ImagingModel
from ..projection.region import Region

if TYPE_CHECKING:
    from jaxtyping import Float


class DRRReprojectionLoss(nn.Module):
    """
    Mean absolute difference between the X-rays and the projections of the volume, both as scaled line integrals.

    Args:
        imaging: scales of volumes and X-rays, and the nominal acquisition geometry.
    """

    def __init__(self, imaging: ImagingModel) -> None:
        super().__init__()
        self.imaging = imaging

    def forward(
        self,
        prediction: Float[Tensor, "B 1 X Y Z"],
        xrays: Float[Tensor, "B 2 P P"],
        base: Float[Tensor, "B 1 S S S"] | None = None,
        region: Region | None = None,
        geometry: BiplanarGeometry | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, ""]:
        """
        The loss of a volume of S voxels a side, compared with the X-rays at 2S pixels. `geometry` is that of these
        X-rays, the nominal one by default. Views that are not `given` are not compared.

        With a `region` the prediction is of that alone, and `base`, a whole volume, holds the rest: line integrals are
        linear, so that those of the base and those of what the prediction changes add up.

        Raises:
            ValueError: when there is a region, but no base.
        """
        if region is None:
            drr = self.project(prediction, geometry)
        elif base is None:
            raise ValueError("DRRReprojectionLoss: a region, but no base; expected the volume that the region is of.")
        else:
            attenuation = self.imaging.attenuation
            change = attenuation(prediction) - attenuation(region.of(base))
            drr = self.project(base, geometry) + self._line_integrals(change, region, geometry)
        seen = adaptive_avg_pool2d(xrays, drr.shape[-1])
        if len(given) < len(BOTH_VIEWS):
            drr, seen = drr[:, list(given)], seen[:, list(given)]
        return l1_loss(drr, seen)

    def project(
        self, volume: Float[Tensor, "B 1 S S S"], geometry: BiplanarGeometry | None = None
    ) -> Float[Tensor, "B 2 2*S 2*S"]:
        """Scaled line integrals of a scaled volume."""
        return self._line_integrals(self.imaging.attenuation(volume), Region.whole(volume.shape[-1]), geometry)

    def _line_integrals(self, mu: Tensor, region: Region, geometry: BiplanarGeometry | None) -> Tensor:
        return self.imaging.project_region(mu, region, PIXELS_PER_VOXEL * region.size, geometry)
