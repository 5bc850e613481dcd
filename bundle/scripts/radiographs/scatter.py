"""
Scattered radiation as one low-frequency term: in units of the open beam, `T = (P + r G P) / (1 + r)`, where P is the
primary transmission exp(-p), G a Gaussian blur and r the ratio of scatter to primary where nothing attenuates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import dctn, idctn

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST_TRANSMISSION = 3e-4
"""About exp(-8), 0.4 m of water: less primary than this is not distinguished from none."""


def with_scatter(
    line_integrals: Float[np.ndarray, "P P"], ratio: float, width_mm: float, pixel_mm: float
) -> Float[np.ndarray, "P P"]:
    """
    What is read as line integrals where scatter is added.

    Args:
        line_integrals: of the primary beam, dimensionless.
        ratio: r, 0 or more.
        width_mm: standard deviation of the blur.
        pixel_mm: side of a pixel.
    """
    return _filtered(line_integrals, lambda blur: (1 + ratio * blur) / (1 + ratio), width_mm, pixel_mm)


def without_scatter(
    line_integrals: Float[np.ndarray, "P P"], ratio: float, width_mm: float, pixel_mm: float
) -> Float[np.ndarray, "P P"]:
    """
    The primary's line integrals, the inverse of :func:`with_scatter`; at most 8.1, see :data:`LEAST_TRANSMISSION`.

    Args:
        line_integrals: as read.
        ratio: as there.
        width_mm: as there.
        pixel_mm: as there.
    """
    return _filtered(line_integrals, lambda blur: (1 + ratio) / (1 + ratio * blur), width_mm, pixel_mm)


def _filtered(
    line_integrals: np.ndarray, response: Callable[[np.ndarray], np.ndarray], width_mm: float, pixel_mm: float
) -> np.ndarray:
    """
    The transmission, filtered by a function of the blur's frequency response. The cosines go on beyond the borders as
    their mirror images, without end, so that a filter and its inverse undo each other there as well.
    """
    spectrum = dctn(np.exp(-line_integrals), type=2)
    down, across = (np.arange(length) / (2 * length * pixel_mm) for length in line_integrals.shape)
    blur = np.exp(-2 * (np.pi * width_mm) ** 2 * (down[:, None] ** 2 + across**2))
    filtered = idctn(spectrum * response(blur), type=2)
    return -np.log(np.maximum(filtered, LEAST_TRANSMISSION))
