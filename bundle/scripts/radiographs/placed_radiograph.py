"""A radiograph on a detector: at a size and a place that are open, and how much of the body its borders cut."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, minimum_filter
from skimage.measure import block_reduce

from ..io.radiograph import Radiograph
from ..projection.geometry import BiplanarGeometry
from .detector_placement import exposed_area
from .frequency_bands import with_usual_bands

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

NOMINAL_SIDE = 0.8
"""Fraction of the detector's side that the longer side of a radiograph of unknown size is first taken to span."""
RANGE_PERCENTILES = (0.1, 99.9)
"""Of the exposed values, which are normalised to 0 and 1: letters and dead pixels are beyond."""
MARGIN_MM = 3.0
"""At the borders of what is exposed: compression, resampling and collimators blur them."""
BODY_FRACTION = 0.1
"""Of the range above the floor: more is the body."""
WHOLE_SOFTNESS = 0.3
"""A row is cut where its edge exceeds about this fraction of its peak."""


class PlacedRadiograph:
    """
    A radiograph that is read at a detector's pixels, at a size and a place that are still open.

    Args:
        radiograph: in display orientation.
        geometry: of the acquisition; its detector is read.
        pixel_mm: size of a pixel along a column and along a row, on that detector.
        bands: mean and deviation of the logarithms of the bands' shares in projections, see
            :mod:`scripts.radiographs.frequency_bands`; a presentation gets as much of each. None to leave it as it is.

    Attributes:
        floor: what the bare beam reads, by the darkest hundredth.
        quartiles: the first and the third of the values of the body.
        whole: for each of its rows how little of the body leaves it at its sides, 0 to 1.
    """

    def __init__(
        self,
        radiograph: Radiograph,
        geometry: BiplanarGeometry,
        pixel_mm: tuple[float, float],
        bands: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        area = exposed_area(radiograph)
        mask = np.zeros_like(radiograph.exposed)
        mask[area] = radiograph.exposed[area]
        self.geometry = geometry
        self.low, self.high = np.percentile(radiograph.image[mask], RANGE_PERCENTILES)
        normalised = np.clip(self.normalised(radiograph.image), -0.5, 1.5)
        filled = np.where(mask, normalised, np.median(normalised[mask]))
        blocks = tuple(max(1, int(0.5 * geometry.pixel_mm / side)) for side in pixel_mm)
        reduced, self.mask = block_reduce(filled, blocks, np.mean), block_reduce(mask, blocks, np.min)
        self.pixel_mm = np.array(pixel_mm) * blocks
        margin = np.maximum(np.rint(MARGIN_MM / self.pixel_mm).astype(int), 1)
        self.mask = minimum_filter(self.mask, 2 * margin + 1, mode="constant", cval=False)
        blur = 0.35 * geometry.pixel_mm / self.pixel_mm
        self.values = gaussian_filter(reduced, blur, mode="nearest") if blur.max() > 0.4 else reduced
        if bands is not None and radiograph.scale == "presentation":
            self.values = with_usual_bands(self.values, self.mask, tuple(self.pixel_mm), *bands)
        self.floor = float(np.quantile(self.values[self.mask], 0.01))
        body = self.values[self.mask & (self.values > self.floor + BODY_FRACTION * (1 - self.floor))]
        self.quartiles = tuple(np.quantile(body, (0.25, 0.75)).tolist()) if body.size else (0.25, 0.75)
        self.whole = _whole_rows(self.values, self.mask, self.floor)

    def on(self, geometry: BiplanarGeometry) -> PlacedRadiograph:
        """The same, read at another detector's pixels, which are not smaller."""
        other = copy(self)
        other.geometry = geometry
        blur = 0.35 * geometry.pixel_mm / self.pixel_mm
        other.values = gaussian_filter(self.values, blur, mode="nearest")
        return other

    def normalised(self, image: np.ndarray) -> np.ndarray:
        """Values over their range."""
        return (image - self.low) / max(float(self.high - self.low), 1e-6)

    def rows_at(self, down_mm: np.ndarray, size: float, shift_mm: float) -> np.ndarray:
        """Its own rows at places on the detector, in mm from the middle."""
        return (down_mm - shift_mm) / (self.pixel_mm[0] * size) + (self.values.shape[0] - 1) / 2

    def reaches(self, down_mm: np.ndarray, size: float, shift_mm: float) -> np.ndarray:
        """Whether it has rows at these places."""
        rows = self.rows_at(down_mm, size, shift_mm)
        return (rows > -0.5) & (rows < len(self.whole) - 0.5)

    def whole_at(self, down_mm: np.ndarray, size: float, shift_mm: float) -> np.ndarray:
        """How little of the body leaves its rows at these places; 0 beyond its first and last row."""
        rows, reaches = self.rows_at(down_mm, size, shift_mm), self.reaches(down_mm, size, shift_mm)
        return np.where(reaches, self.whole[np.clip(np.rint(rows).astype(int), 0, len(self.whole) - 1)], 0.0)

    def read(
        self, size: float = 1.0, shift_mm: float = 0.0
    ) -> tuple[Float[np.ndarray, "P P"], Bool[np.ndarray, "P P"]]:
        """
        Its values at the detector's pixels, beyond its borders those of the border; and where it shows anything.

        Args:
            size: how much larger a pixel is than `pixel_mm`.
            shift_mm: how much lower it lies than the detector's middle.
        """
        places = np.arange(self.geometry.detector_pixels) - (self.geometry.detector_pixels - 1) / 2
        places = places * self.geometry.pixel_mm
        height, width = self.values.shape
        rows = self.rows_at(places, size, shift_mm)
        columns = places / (self.pixel_mm[1] * size) + (width - 1) / 2
        grid = np.meshgrid(rows, columns, indexing="ij")
        nearest = np.ix_(*(np.clip(np.rint(at).astype(int), 0, n - 1) for at, n in ((rows, height), (columns, width))))
        within = ((rows > -0.5) & (rows < height - 0.5))[:, None] & ((columns > -0.5) & (columns < width - 0.5))
        return map_coordinates(self.values, grid, order=1, mode="nearest"), within & self.mask[nearest]


def nominal_pixel_mm(radiograph: Radiograph, geometry: BiplanarGeometry) -> tuple[float, float]:
    """
    Size of a pixel on the geometry's detector: as the file says, brought to its magnification; else such that the
    longer side spans :data:`NOMINAL_SIDE` of it.
    """
    if radiograph.pixel_mm is None:
        height, width = radiograph.image.shape
        side = NOMINAL_SIDE * geometry.detector_size_mm / max(height * radiograph.pixel_aspect, width)
        return side * radiograph.pixel_aspect, side
    factor = geometry.magnification(0.0) / radiograph.magnification if radiograph.magnification else 1.0
    return radiograph.pixel_mm[0] * factor, radiograph.pixel_mm[1] * factor


def _whole_rows(values: np.ndarray, mask: np.ndarray, floor: float) -> np.ndarray:
    smooth = gaussian_filter(values, max(2.0, values.shape[0] / 100))
    top = np.quantile(smooth[mask], 0.98) - floor
    found = np.zeros(len(values))
    for index, (row, seen) in enumerate(zip(smooth, mask)):
        shown = row[seen] - floor
        if shown.size < 12:
            continue
        peak, edge = np.quantile(shown, 0.95), max(np.median(shown[:6]), np.median(shown[-6:]))
        if peak > 0.15 * top:
            found[index] = np.exp(-((max(edge, 0.0) / (WHOLE_SOFTNESS * max(peak, 0.1 * top))) ** 2))
    return found
