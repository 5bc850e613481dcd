"""
What is left of the difference between two views along the body, shared out between them: a fall of intensity along the
body (the heel effect), local contrast, another breath. Unshared, each row that has less mass in one view is a dark band
through the whole volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..projection.consistency import EpipolarPlanes
from ..projection.geometry import BiplanarGeometry

if TYPE_CHECKING:
    from jaxtyping import Float

SMOOTHNESS = 1.0
"""Standard deviation of a blur over the planes, in planes."""
LARGEST = 0.4
"""Of the logarithm of one view's integral over the other's that is shared out, half of it to each view."""
LEAST_INTEGRAL = 0.02
"""Less than this in both views, some millimetres of water, is no difference."""
LEAST_WEIGHT = 0.02
"""
Of a plane: where radiographs cut the body, neighbouring planes decide, as far as the blur reaches; where more planes
than that are cut, their own difference is shared out, up to :data:`LARGEST`.
"""


def shares(
    line_integrals: Float[np.ndarray, "2 H H"],
    planes: EpipolarPlanes,
    slopes: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, " K"],
    geometry: BiplanarGeometry,
) -> Float[np.ndarray, "2 P P"]:
    """
    The factors of each view's pixels on the geometry's detector, by which both agree in every plane.

    Args:
        line_integrals: on the detector of the planes.
        planes: in which they are compared.
        slopes: of other planes.
        weights: how much those count.
        geometry: of the same views and distances.
    """
    logs = np.log(planes.integrals(line_integrals).clip(min=LEAST_INTEGRAL))
    counts = np.interp(planes.slopes, slopes, weights) + LEAST_WEIGHT
    total, count = (
        gaussian_filter1d(each, SMOOTHNESS, mode="nearest") for each in (counts * (logs[0] - logs[1]), counts)
    )
    half = np.clip(total / count, -LARGEST, LARGEST) / 2
    by_view = [np.interp(slope, planes.slopes, half) for slope in planes.slopes_at_pixels(geometry)]
    return np.exp(np.stack([-by_view[0], by_view[1]]))
