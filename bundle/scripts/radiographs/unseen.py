"""
What lies beyond a radiograph's border: rays that leave it are no evidence of air. There the values of the border go on,
fading in some centimetres, as arms and shoulders do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

CUT_MM = 25.0
"""Where the mass of a body that is cut has fallen to 1/e."""
SKIN_MM = 6.0
"""
The same where a border touches the skin; also in what the network is given, which puts more into the volume's sides.
"""
AIR_INTEGRAL = 0.3
"""What is less, beyond a border, is the haze of air, and does not go on."""


def beyond_border(seen: Bool[np.ndarray, "2 P P"]) -> Float[np.ndarray, "2 P P"]:
    """
    Of each pixel, how many it lies beyond the first or last pixel that is seen of its row, or where a radiograph ends
    above or below and the other goes on, of the nearest row; 0 for what is seen, infinite where neither shows anything.

    Args:
        seen: where both radiographs show anything.
    """
    rows = seen.any(axis=(0, 2))
    return np.where(seen, 0.0, np.stack([_beyond(mask, rows) for mask in seen]))


def continued(
    line_integrals: Float[np.ndarray, "2 P P"], beyond_mm: Float[np.ndarray, "2 P P"], fading_mm: float
) -> Float[np.ndarray, "2 P P"]:
    """
    The line integrals, going on beyond the border.

    Args:
        line_integrals: beyond the border those of the nearest pixel.
        beyond_mm: from :func:`beyond_border`, in mm.
        fading_mm: where they have fallen to 1/e.
    """
    fading = np.where(np.isfinite(beyond_mm), np.exp(-beyond_mm / fading_mm), 0.0)
    return np.where(beyond_mm > 0, np.maximum(line_integrals * fading - AIR_INTEGRAL, 0.0), line_integrals)


def _beyond(mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
    filled = np.flatnonzero(mask.any(1))
    if not filled.size:
        return np.full(mask.shape, np.inf)
    nearest = mask[np.clip(np.arange(len(mask)), filled[0], filled[-1])]
    columns = np.arange(mask.shape[1])
    first, last = nearest.argmax(1)[:, None], mask.shape[1] - 1 - nearest[:, ::-1].argmax(1)[:, None]
    distance = np.maximum(np.maximum(first - columns, columns - last), 0.5)
    return np.where(rows[:, None], distance, np.inf)
