"""How a volume and its X-rays belong together: units, projection, and the MART update of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from .attenuation import AIR_HU, hu_to_attenuation
from .geometry import BiplanarGeometry
from .projector import lift, project
from .region import Region

if TYPE_CHECKING:
    from jaxtyping import Float

NUMBER_OF_STAGES = 3
PIXELS_PER_VOXEL = 2
"""Along a side of the X-rays and of the last stage's volume."""
RATIO_OFFSET = 0.0025
"""Scaled line integral of some millimetres of tissue, added to both sides of a ratio: less than that is noise."""
MAX_RATIO = 4.0
BOTH_VIEWS = (0, 1)
"""Frontal and lateral: the views of which there is an X-ray, unless one is given alone."""


class ImagingModel:
    """
    The acquisition geometry and both scales of the network: volumes in [0, 1] for a window of HU, and X-rays as line
    integrals of attenuation over `xray_scale`.

    Args:
        geometry: of both views; its field of view is the reconstruction volume.
        hu_window: lowest and highest HU, scaled to 0 and 1.
        xray_scale: line integral that is scaled to 1.

    Raises:
        InputError: when the window is not ascending, or the scale is not positive.
    """

    def __init__(self, geometry: BiplanarGeometry, hu_window: Sequence[float], xray_scale: float) -> None:
        self.geometry, self.hu_window, self.xray_scale = geometry, tuple(hu_window), xray_scale
        if len(self.hu_window) != 2 or not self.hu_window[0] < self.hu_window[1]:
            raise InputError(f"ImagingModel: hu_window is {list(hu_window)}, expected the lowest and the highest HU.")
        if not xray_scale > 0:
            raise InputError(f"ImagingModel: xray_scale is {xray_scale}, expected a positive line integral.")

    def in_geometry(self, geometry: BiplanarGeometry) -> ImagingModel:
        """The same scales in another acquisition geometry."""
        return ImagingModel(geometry, self.hu_window, self.xray_scale)

    def volume_size(self, stage: int) -> int:
        """Voxels along a side of the volume of stage 1, 2 or 3: an eighth, a quarter, a half of the X-rays' pixels."""
        return self.geometry.detector_pixels // (PIXELS_PER_VOXEL * 2 ** (NUMBER_OF_STAGES - stage))

    def scale(self, hu: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """HU to the volume's scale, clipped to [0, 1]."""
        lowest, highest = self.hu_window
        return ((hu - lowest) / (highest - lowest)).clamp(0, 1)

    def to_hu(self, volume: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """HU of a scaled volume, not clipped."""
        lowest, highest = self.hu_window
        return volume * (highest - lowest) + lowest

    def attenuation(self, volume: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Linear attenuation in 1/mm of a scaled volume."""
        return hu_to_attenuation(self.to_hu(volume))

    def project(
        self, hu: Float[Tensor, "B 1 S S S"], geometry: BiplanarGeometry | None = None
    ) -> Float[Tensor, "B 2 P P"]:
        """The scaled X-rays of CTs in HU, which need not be clipped; `geometry` overrides the model's own."""
        return project(hu_to_attenuation(hu), geometry or self.geometry) / self.xray_scale

    def project_region(
        self,
        mu: Float[Tensor, "B 1 X Y Z"],
        region: Region,
        pixels: int,
        geometry: BiplanarGeometry | None = None,
    ) -> Float[Tensor, "B 2 pixels pixels"]:
        """Scaled line integrals of the attenuation in a region; `geometry` overrides the model's own."""
        return project(mu, (geometry or self.geometry).with_pixels(pixels), region) / self.xray_scale

    def log_ratio(
        self,
        volume: Float[Tensor, "B 1 s s s"],
        xrays: Float[Tensor, "B 2 P P"],
        pixels: int,
        geometry: BiplanarGeometry | None = None,
    ) -> Float[Tensor, "B 2 pixels pixels"]:
        """
        Logarithm of the X-rays over the reprojection of a whole scaled volume, between -log 4 and log 4; 0 where they
        agree.

        Args:
            volume: a whole one, scaled.
            xrays: scaled line integrals.
            pixels: along a side of the detector, at which they are compared.
            geometry: overrides the model's own.
        """
        reprojection = self.project_region(self.attenuation(volume), Region.whole(volume.shape[-1]), pixels, geometry)
        ratio = (adaptive_avg_pool2d(xrays, pixels) + RATIO_OFFSET) / (reprojection + RATIO_OFFSET)
        return ratio.clamp(1 / MAX_RATIO, MAX_RATIO).log()

    def correction(
        self,
        volume: Float[Tensor, "B 1 X Y Z"],
        log_ratio: Float[Tensor, "B 2 P P"],
        region: Region,
        geometry: BiplanarGeometry | None = None,
        given: Sequence[int] = BOTH_VIEWS,
    ) -> Float[Tensor, "B 1 X Y Z"]:
        """
        The MART update of a region, as what to add to it: attenuation is multiplied by the geometric mean of the ratios
        of the two rays through a voxel, one step of the multiplicative algebraic reconstruction technique for all rays
        at a time (Gordon, Bender and Herman, 1970; Lent, 1977). Zero in air, and where both X-rays agree; a ray that
        misses its detector asks for no change.

        Args:
            volume: that region of the volume, scaled.
            log_ratio: from :meth:`log_ratio` of the whole.
            region: where in the volume.
            geometry: overrides the model's own.
            given: the views whose ratios are read; with one alone its rays' ratios are the update.
        """
        lowest, highest = self.hu_window
        # The mean of logarithms has a gradient everywhere; the root of a product of backprojected ratios has none at 0.
        lifted = lift(log_ratio[:, :, None], geometry or self.geometry, region.size, region)
        lifted = lifted if len(given) == len(BOTH_VIEWS) else lifted[:, list(given)]
        above_air = (self.to_hu(volume) - AIR_HU).clamp(min=0) / (highest - lowest)
        return above_air * lifted.mean(dim=1).expm1()
