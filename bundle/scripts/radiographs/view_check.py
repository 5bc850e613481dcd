"""
View check: what a chest radiograph looks like, for a warning where no tag says what it is: whether it is frontal, and
which way a lateral one faces. Nothing is rotated or swapped for it.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from ..io.radiograph import Radiograph
from .detector_placement import exposed_area

SIDE = 64
"""Pixels along a side of the reduced image: lungs and mediastinum are left, ribs and letters are not."""
BODY_LEVEL = 0.15
"""What is brighter, on a scale from 0 to 1, is the patient."""
FRONTAL_CONTRAST = 0.34
"""Measured: 15 real and 16 projected frontal radiographs have at least 0.41, 12 and 16 lateral ones at most 0.27."""
LATERAL_SLOPE = 0.3
"""Measured: of 12 real and 16 projected lateral radiographs none is found mirrored; of their mirror images 11 and 7."""


def warn_of_appearance(frontal: Radiograph, lateral: Radiograph) -> None:
    """
    Warns:
        UserWarning: when the radiograph named lateral looks frontal, or faces the other way, and its file does not say
            what it is.
    """
    where = f"{lateral.path}: field 'lateral'"
    if lateral.plane is None and mediastinal_contrast(lateral) > FRONTAL_CONTRAST:
        found = "both look frontal" if mediastinal_contrast(frontal) > FRONTAL_CONTRAST else "the two look swapped"
        warnings.warn(
            f"{where} shows a bright band between two dark lungs, expected a lateral radiograph; with field 'frontal', "
            f"{frontal.path}, {found}. They are used as named: look at them."
        )
    elif not lateral.is_oriented and lung_slope(lateral) < -LATERAL_SLOPE:
        warnings.warn(
            f"{where} seems to face the other way: its lungs reach deepest where its rows begin, expected at the back, "
            f"where they end. It is used as declared: look at it, and correct radiograph_orientation."
        )


def mediastinal_contrast(radiograph: Radiograph) -> float:
    """
    How far the middle of the chest is brighter than both of its sides, as a fraction of the image's range.

    A frontal radiograph has the spine and the mediastinum between two lungs. On a lateral one the lungs overlap,
    between the sternum and the spine. Taken is the column, near the middle, with the largest such contrast, in the
    median of the rows from a fifth to three fifths of the body's height; a side counts by its darkest pixel within
    three tenths of the width.
    """
    rows = ndimage.gaussian_filter1d(_body(radiograph)[SIDE // 5 : 3 * SIDE // 5], 1, axis=1)
    reach = 3 * SIDE // 10
    columns = range(7 * SIDE // 20, 13 * SIDE // 20)
    sides = [np.maximum(rows[:, x - reach : x].min(1), rows[:, x + 1 : x + reach + 1].min(1)) for x in columns]
    return float(max(np.median(rows[:, x] - side) for x, side in zip(columns, sides)))


def lung_slope(radiograph: Radiograph) -> float:
    """
    Correlation of row and column over the dark part of the chest, -1 to 1, above 0 for a lateral radiograph in
    display orientation.

    The diaphragm falls from the front to the back, so that the lungs, from their apex on, lean backwards.
    """
    chest = _body(radiograph)[SIDE // 8 : -SIDE // 8, SIDE // 8 : -SIDE // 8]
    darkness = np.clip(np.percentile(chest, 60) - chest, 0, None)
    if np.count_nonzero(darkness) < SIDE:  # hardly any shades
        return 0.0
    rows, columns = np.indices(chest.shape)
    covariance = np.cov(rows.ravel(), columns.ravel(), aweights=darkness.ravel())
    return float(covariance[0, 1] / np.sqrt(max(covariance[0, 0] * covariance[1, 1], 1e-6)))


def _body(radiograph: Radiograph) -> np.ndarray:
    """The part of the image that the patient fills, `(SIDE, SIDE)`, from 0 to 1."""
    area = exposed_area(radiograph)
    image, exposed = radiograph.image[area], radiograph.exposed[area]
    low, high = np.percentile(image[exposed], (1, 99))
    reduced = _averaged(np.where(exposed, np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0), 2 * SIDE)
    patient = reduced > BODY_LEVEL
    rows, columns = (np.flatnonzero(patient.mean(1 - axis) > share) for axis, share in enumerate((0.1, 0.3)))
    if not (rows.size and columns.size):
        return _averaged(reduced, SIDE)
    return _averaged(reduced[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], SIDE)


def _averaged(image: np.ndarray, side: int) -> np.ndarray:
    return interpolate(torch.as_tensor(image, dtype=torch.float32)[None, None], (side, side), mode="area")[0, 0].numpy()
