"""Where a radiograph lies on the detector: borders and collimation cropped, the rest placed in millimetres."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ..io.radiograph import Radiograph
from ..projection.geometry import BiplanarGeometry
from ..projection.resampling import smooth_for_coarser

BORDER_LEVEL = 0.04
"""How far from the darkest or the brightest value a border may be, as a fraction of the range."""
BORDER_SHARE = 0.97
"""Fraction of a row or column that has to be border: the rest are letters and marks."""
LARGEST_BORDER = 0.25
"""Fraction of a side that a border may take; what is wider is air, and belongs to the exposed area."""
Area = tuple[slice, slice]
"""Rows and columns."""


def exposed_area(radiograph: Radiograph) -> Area:
    """
    The rows and columns that show the patient: those exposed, without the frame of black or white.

    Where the values have a unit, frames are not looked for: a black row is air, and says so.
    """
    area = _bounding_box(radiograph.exposed)
    if radiograph.scale == "line_integral":
        return area
    values = radiograph.image[radiograph.exposed]
    low, high = float(values.min()), float(values.max())
    tolerance = BORDER_LEVEL * (high - low)
    extremes = (radiograph.image <= low + tolerance, radiograph.image >= high - tolerance)
    widest = [int(LARGEST_BORDER * (part.stop - part.start)) for part in area]
    limits = [(part.start + wide, part.stop - wide) for part, wide in zip(area, widest)]
    while (cropped := _without_border(area, extremes, limits)) != area:
        area = cropped
    return area


def place_on_detector(
    image: np.ndarray,
    area: Area,
    pixel_mm: tuple[float, float] | None,
    magnification: float | None,
    geometry: BiplanarGeometry,
    pixel_aspect: float = 1.0,
) -> torch.Tensor:
    """
    Resamples a radiograph to the detector's pixels. Where it does not reach, there is air.

    The middle of the image is the middle of the detector. With `pixel_mm` an image of another magnification is scaled
    until the plane through the isocentre has that of the geometry. Without, its longer side spans the detector, borders
    included: a border is on the detector as air is, and cannot be distinguished from it.

    Args:
        image: `(H, W)`, 0 being air.
        area: the part to show; what lies outside is air.
        pixel_mm: size of a pixel along a column and along a row, None where unknown.
        magnification: of the plane through the isocentre in `pixel_mm`; None stands for the geometry's.
        geometry: the acquisition geometry, of one pair.
        pixel_aspect: height of a pixel over its width, where `pixel_mm` is unknown.

    Returns:
        `(P, P)` float32.
    """
    shown = np.zeros_like(image)
    shown[area] = image[area]
    if pixel_mm is None:
        width = geometry.detector_size_mm / max(image.shape[0] * pixel_aspect, image.shape[1])
        spacing = [width * pixel_aspect, width]
    else:
        scale = geometry.magnification(0.0) / magnification if magnification else 1.0
        spacing = [side * scale for side in pixel_mm]
    ratios = [geometry.pixel_mm / side for side in spacing]
    smooth = smooth_for_coarser(torch.as_tensor(shown)[None], ratios)[0].numpy()
    return torch.from_numpy(_read_at_pixels(smooth, ratios, geometry.detector_pixels)).float()


def _read_at_pixels(image: np.ndarray, ratios: list[float], pixels: int) -> np.ndarray:
    """Linear interpolation about the common middle of image and detector, in steps of `ratios` pixels of the image."""
    offsets = [(length - 1) / 2 - ratio * (pixels - 1) / 2 for length, ratio in zip(image.shape, ratios)]
    read = ndimage.affine_transform(
        image.astype(np.float64), np.diag(ratios), offsets, output_shape=(pixels, pixels), order=1, mode="nearest"
    )
    for axis, (length, ratio, offset) in enumerate(zip(image.shape, ratios, offsets)):
        at = offset + ratio * np.arange(pixels)
        beyond = (at < -0.5 - 1e-6) | (at > length - 0.5 + 1e-6)
        read[(slice(None),) * axis + (beyond,)] = 0
    return read


def _bounding_box(mask: np.ndarray) -> Area:
    return ndimage.find_objects(mask.astype(np.uint8))[0]


def _without_border(area: Area, extremes: tuple[np.ndarray, np.ndarray], limits: list[tuple[int, int]]) -> Area:
    """The area without the rows and columns at its edges that are nearly all dark or nearly all bright."""
    sides = []
    for axis, (first, last) in enumerate(limits):
        shares = [mask[area].mean(axis=1 - axis) for mask in extremes]
        inside = np.flatnonzero(np.maximum(*shares) < BORDER_SHARE) + area[axis].start
        start, stop = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (area[axis].start, area[axis].stop)
        sides.append(slice(start if start <= first else area[axis].start, stop if stop >= last else area[axis].stop))
    return tuple(sides)
