"""
What a volume's own X-rays say about it: its projections in the X-rays' scale, and the correction that they call for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .attenuation import AIR_HU, hu_to_attenuation, scaled_to_hu
from .geometry import BiplanarGeometry
from .projector import lift, project
from .region import Region

if TYPE_CHECKING:
    from jaxtyping import Float

NUMBER_OF_STAGES = 3
LEAST = 0.0025
"""Scaled line integral, some millimetres of tissue, below which a film tells nothing: it is added to both films."""
LARGEST_RATIO = 4.0


class Reprojection:
    """
    Compares scaled volumes with scaled X-rays at two pixels a voxel.

    Args:
        hu_window: lowest and highest HU of the volumes' scale.
        xray_scale: line integral that the X-rays' scale calls 1.
    """

    def __init__(self, hu_window: Sequence[float], xray_scale: float) -> None:
        self.hu_window, self.xray_scale = tuple(hu_window), xray_scale

    def attenuation(self, volume: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Linear attenuation in 1/mm of a scaled volume."""
        return hu_to_attenuation(scaled_to_hu(volume, self.hu_window))

    def films(
        self, mu: Float[Tensor, "B 1 X Y Z"], geometry: BiplanarGeometry, region: Region, size: int
    ) -> Float[Tensor, "B 2 {2*size} {2*size}"]:
        """Scaled line integrals of the attenuation in a region."""
        return project(mu, geometry.with_pixels(2 * size), region) / self.xray_scale

    def log_ratio(
        self,
        volume: Float[Tensor, "B 1 s s s"],
        xrays: Float[Tensor, "B 2 P P"],
        geometry: BiplanarGeometry,
        size: int,
    ) -> Float[Tensor, "B 2 {2*size} {2*size}"]:
        """
        Logarithm of the X-rays over the volume's own projections, between -log 4 and log 4.

        Args:
            volume: a whole one, scaled.
            xrays: scaled line integrals.
            geometry: the set-up.
            size: the films have twice as many pixels.

        Returns:
            Films, 0 where they agree.
        """
        films = self.films(self.attenuation(volume), geometry, Region.whole(volume.shape[-1]), size)
        ratio = (adaptive_avg_pool2d(xrays, 2 * size) + LEAST) / (films + LEAST)
        return ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO).log()

    def correction(
        self,
        volume: Float[Tensor, "B 1 X Y Z"],
        log_ratio: Float[Tensor, "B 2 P P"],
        geometry: BiplanarGeometry,
        region: Region,
    ) -> Float[Tensor, "B 1 X Y Z"]:
        """
        What to add to a region of a volume, so that it agrees better with both X-rays: attenuation is multiplied by the
        geometric mean of the ratios of the two rays through a voxel, one step of the multiplicative algebraic
        reconstruction technique for all rays at a time (Gordon, Bender and Herman, 1970; Lent, 1977). Zero in air, and
        where both X-rays agree; a ray that misses its detector asks for no change.

        Args:
            volume: the region's part of the volume, scaled.
            log_ratio: from :meth:`log_ratio` of the whole.
            geometry: the set-up.
            region: which part.
        """
        lowest, highest = self.hu_window
        change = lift(log_ratio[:, :, None], geometry, region.size, region).mean(dim=1).expm1()
        above_air = (scaled_to_hu(volume, self.hu_window) - AIR_HU).clamp(min=0) / (highest - lowest)
        return above_air * change


class ProjectCT:
    """
    X-rays of CTs: line integrals in the model's scale.

    Args:
        geometry: the set-up; its field of view is the CT's cube.
        xray_scale: line integral that is called 1.
    """

    def __init__(self, geometry: BiplanarGeometry, xray_scale: float) -> None:
        self.geometry, self.xray_scale = geometry, xray_scale

    def __call__(
        self, hu: Float[Tensor, "1 S S S"], geometry: BiplanarGeometry | None = None
    ) -> Float[Tensor, "2 P P"]:
        """The X-rays of a CT in HU, not clipped; `geometry` goes before the one above."""
        return project(hu_to_attenuation(hu[None]), geometry or self.geometry)[0] / self.xray_scale
