"""
Detail of a radiograph against its broad shades. Programs that prepare radiographs for the eye raise the fine bands of
the image and lower the coarse ones (Vuylsteke and Schoeters, Proc. SPIE 2167, 1994, 551-560); line integrals of bodies
have nearly the same share of each band from one body to the next, and so tell what was done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import adaptive_avg_pool2d, interpolate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SIGMAS_MM = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Standard deviations, on the detector, of the blurs between which the bands lie; the last leaves the broadest."""
BANDS = len(SIGMAS_MM) + 1
LEAST_SIGMA = 4.0
"""In pixels: where a blur is wider, it is made of larger ones."""
LOOKED_AT_MM = 8.0
"""Blur at which the body is told from air."""
BODY_FRACTION = 0.1
"""Of the range above the darkest: more is the body."""
SKIN_MM = 12.0
"""Within the outline of the body, what is not compared: there the body's end is all."""
LEAST_PIXELS = 100
"""Fewer pixels of the body say nothing."""
CERTAINTY = 1.0
"""How many of the training's standard deviations a band may be off before it is taken for the program's."""
LEAST_DEVIATION = 0.15
"""Of the logarithm of a share: a curve, which is fitted later, changes the bands as well, and few patients differ."""


class BandStatistics(NamedTuple):
    """
    Logarithms of the share of each band, fine to broad, in projections.

    Attributes:
        mean: `(2, 8)`, of the frontal and the lateral view.
        deviation: `(2, 8)`.
    """

    mean: np.ndarray
    deviation: np.ndarray


def band_statistics(shares: Float[np.ndarray, "B 2 8"]) -> BandStatistics:
    """Of the shares of known pairs, of which those that are not known are NaN."""
    logs = np.log(shares)
    return BandStatistics(np.nanmean(logs, axis=0), np.nanstd(logs, axis=0))


def shares_of_bands(
    values: Float[np.ndarray, "H W"], seen: Bool[np.ndarray, "H W"], pixel_mm: tuple[float, float]
) -> Float[np.ndarray, " 8"]:
    """
    Standard deviation of each band of an image, fine to broad, within the body, over the root of the sum of their
    squares. NaN where too little of a body is seen.

    Args:
        values: more attenuation is larger, in any unit.
        seen: where the image shows anything.
        pixel_mm: size of a pixel along a column and along a row, on the detector.
    """
    bands, body = _bands(values, seen, pixel_mm)
    return _shares(bands, body, pixel_mm)


def with_usual_bands(
    values: Float[np.ndarray, "H W"],
    seen: Bool[np.ndarray, "H W"],
    pixel_mm: tuple[float, float],
    mean: Float[np.ndarray, " 8"],
    deviation: Float[np.ndarray, " 8"],
) -> Float[np.ndarray, "H W"]:
    """
    The image with as much of each band in the body as projections have, as far as it is off by more than these differ.

    Args:
        values: as in :func:`shares_of_bands`.
        seen: as there.
        pixel_mm: as there.
        mean: of the logarithms of the shares of projections in this view.
        deviation: of the same.
    """
    bands, body = _bands(values, seen, pixel_mm)
    off = mean - np.log(_shares(bands, body, pixel_mm))
    if not np.isfinite(off).all():
        return values
    gains = np.exp(np.sign(off) * np.maximum(np.abs(off) - CERTAINTY * deviation.clip(min=LEAST_DEVIATION), 0.0))
    middle = float(np.median(bands[-1][body]))
    found = middle + sum(gain * band for gain, band in zip(gains, [*bands[:-1], bands[-1] - middle]))
    return np.where(body, found, values)


def _bands(values: np.ndarray, seen: np.ndarray, pixel_mm: tuple[float, float]) -> tuple[list[np.ndarray], np.ndarray]:
    """The bands, whose sum the values are, and where the body is, which alone they are taken from."""
    body = _body(values, seen, pixel_mm)
    blurs = [values, *(_blurred(values, body, sigma, pixel_mm) for sigma in SIGMAS_MM)]
    return [*(fine - coarse for fine, coarse in zip(blurs, blurs[1:])), blurs[-1]], body


def _body(values: np.ndarray, seen: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    smooth = _blurred(values, seen, LOOKED_AT_MM, pixel_mm)
    low, high = np.quantile(smooth[seen], (0.01, 0.98))
    return ndimage.binary_fill_holes(seen & (smooth > low + BODY_FRACTION * (high - low))) & seen


def _blurred(values: np.ndarray, mask: np.ndarray, sigma_mm: float, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Mean of the masked values around each pixel, weighted by a Gaussian."""
    sigmas = [sigma_mm / side for side in pixel_mm]
    size = [max(1, round(length / max(1.0, sigma / LEAST_SIGMA))) for length, sigma in zip(values.shape, sigmas)]
    both = torch.from_numpy(np.stack([values * mask, mask.astype(float)]))[None]
    small = adaptive_avg_pool2d(both, size)[0].numpy()
    of_small = [0.0, *(sigma * few / length for sigma, few, length in zip(sigmas, size, values.shape))]
    blurred = torch.from_numpy(ndimage.gaussian_filter(small, of_small, truncate=3.0))[None]
    total, weight = interpolate(blurred, values.shape, mode="bilinear")[0].numpy()
    return total / weight.clip(min=1e-6)


def _shares(bands: list[np.ndarray], body: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    inner = ndimage.distance_transform_edt(body, sampling=pixel_mm) > SKIN_MM
    if inner.sum() < LEAST_PIXELS:
        return np.full(BANDS, np.nan)
    deviations = np.array([band[inner].std() for band in bands])
    return deviations.clip(min=1e-9) / np.sqrt((deviations**2).sum()).clip(min=1e-9)
