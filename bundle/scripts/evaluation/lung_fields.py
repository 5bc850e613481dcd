"""The lung fields of a frontal X-ray, found alike in a radiograph and in a projection, and how well they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import reconstruction

from . import metrics

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SMOOTHING_MM = 4.0
"""Standard deviation of the blur before: less than a rib's width and more than a radiograph's grain."""
BODY_FRACTION = 0.1
"""Of the 99th percentile of the line integrals: more is the body, as in the placement of radiographs."""
LEAST_CM2 = 10.0
"""Section of the smallest lung field, in the body; smaller are gaps between ribs and gas in the bowel."""
FIELDS = 2
"""Left and right."""


def lung_fields(line_integrals: Float[np.ndarray, "P P"], pixel_mm: float) -> Bool[np.ndarray, "P P"]:
    """
    Where a frontal X-ray is darker than all that encloses it: basins of the line integrals that are filled by
    morphological reconstruction from the border (Vincent 1993, IEEE Transactions on Image Processing 2(2), 176-201).
    Those deeper than Otsu's threshold (1979) of the depth within the body, over two, and of them the two largest of at
    least :data:`LEAST_CM2`. It does not depend on the unit of the values.

    It finds the lungs that one sees: not what lies behind heart, spine and diaphragm, and not a lung that is white.

    Args:
        line_integrals: of any unit, more attenuation being more.
        pixel_mm: side of a pixel, in the plane through the isocentre.
    """
    smooth = ndimage.gaussian_filter(np.asarray(line_integrals, dtype=np.float64), SMOOTHING_MM / pixel_mm)
    body = smooth > BODY_FRACTION * np.quantile(smooth, 0.99)
    seed = np.full_like(smooth, smooth.max())
    for edge in (0, -1):
        seed[edge], seed[:, edge] = smooth[edge], smooth[:, edge]
    depth = reconstruction(seed, smooth, method="erosion") - smooth
    if not body.any() or np.ptp(depth[body]) == 0:
        return np.zeros_like(body)
    parts = label(body & (depth > threshold_otsu(depth[body]) / 2), connectivity=1)
    sizes = np.bincount(parts.flat)
    sizes[0] = 0
    largest = np.argsort(sizes)[::-1][:FIELDS]
    fields = np.isin(parts, [part for part in largest if sizes[part] * pixel_mm**2 >= 100 * LEAST_CM2])
    return ndimage.binary_fill_holes(fields)


def dice(first: Bool[np.ndarray, "P P"], second: Bool[np.ndarray, "P P"]) -> float | None:
    """:func:`~scripts.evaluation.metrics.dice`; None where one of the masks is nothing."""
    return metrics.dice(first, second) if first.any() and second.any() else None


def contour_distance_mm(
    first: Bool[np.ndarray, "P P"], second: Bool[np.ndarray, "P P"], pixel_mm: float
) -> float | None:
    """
    The mean distance of each contour's pixels from the nearest of the other contour, averaged over both directions, in
    the unit of `pixel_mm`; None where one mask is nothing.
    """
    if not first.any() or not second.any():
        return None
    one, other = (torch.as_tensor(mask)[None, None] for mask in (first, second))
    ways = (compute_average_surface_distance(*masks, include_background=True) for masks in ((one, other), (other, one)))
    return pixel_mm * sum(map(float, ways)) / 2
