"""A chest of simple solids in HU, whose lungs, heart and thorax have sides that one can write down."""

from __future__ import annotations

import numpy as np

FOV_MM = 360.0
THORAX_MM = (250.0, 160.0)
"""Width and depth of the lungs at their middle."""
HEART_MM = 100.0
"""From its left border, 75 mm left of the middle, to its right one, 25 mm right of it."""
HEIGHT_MM = 195.0
"""From the left dome, 65 mm below the isocentre, to the top of the lungs, 130 mm above it."""
DOMES_MM = 15.0
"""The right dome above the left."""


def chest(size: int) -> np.ndarray:
    """A volume `(size, size, size)`, RAS+: body, lungs, heart, spine, open trachea, gas in the stomach, a table."""
    x, y, z = places(size)
    hu = np.full((size, size, size), -1000.0, dtype=np.float32)
    np.copyto(hu, 20.0, where=((x / 160) ** 2 + (y / 115) ** 2 < 1) & (z > -170))
    np.copyto(hu, 100.0, where=(abs(y + 145) < 6) & (abs(x) < 170))
    for lung in lungs_of(size):
        hu[lung] = -850.0
    np.copyto(hu, 400.0, where=(x**2 + (y + 75) ** 2 < 18**2) & (z > -170))
    np.copyto(hu, -1000.0, where=(x**2 + (y + 20) ** 2 < 9**2) & (z > 60))
    np.copyto(hu, -1000.0, where=(x + 60) ** 2 + (y - 20) ** 2 + (z + 105) ** 2 < 25**2)
    return hu


def lungs_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of left and right: half an ellipsoid on an elliptic cylinder, without mediastinum and heart."""
    x, y, z = places(size)
    cavity = (x / 125) ** 2 + (y / 80) ** 2 + (np.maximum(z - 20, 0) / 110) ** 2 < 1
    heart = (x + 25) ** 2 + (y - 20) ** 2 + (z + 5) ** 2 < 50**2
    return cavity & ~heart & (x < -20) & (z > -65), cavity & ~heart & (x > 20) & (z > -50)


def places(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles of the voxels along right, anterior and superior, in mm from the isocentre; they broadcast."""
    side = ((np.arange(size) + 0.5) / size - 0.5) * FOV_MM
    return side[:, None, None], side[None, :, None], side[None, None, :]
