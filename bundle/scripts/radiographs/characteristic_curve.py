"""
The characteristic curve of a radiograph. Hurter and Driffield's relates exposure to density; this one relates display
values to line integrals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST_RISE = 1e-3
"""
Of normalised values: less than this above the floor, or less in the logarithm between two, is not told from nothing.
"""


@dataclass(frozen=True)
class CharacteristicCurve:
    """
    Line integrals of a radiograph's values v, normalised to [0, 1]: `p = scale * max(v - floor, 0) ** gamma`.

    Args:
        scale: line integral at a value of 1 above the floor, dimensionless.
        floor: what the bare beam reads, a normalised value.
        gamma: 1 for values that are proportional to line integrals.
    """

    scale: float
    floor: float
    gamma: float

    @classmethod
    def through(cls, floor: float, values: tuple[float, float], logs: tuple[float, float]) -> CharacteristicCurve:
        """
        That with this floor which two values lie on.

        Args:
            floor: what the bare beam reads.
            values: two normalised ones, rising, above the floor.
            logs: natural logarithms of their line integrals.
        """
        above = np.log(np.maximum(np.subtract(values, floor), LEAST_RISE))
        gamma = (logs[1] - logs[0]) / max(float(above[1] - above[0]), LEAST_RISE)
        return cls(float(np.exp(logs[1] - gamma * above[1])), floor, float(gamma))

    def line_integrals(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Dimensionless, 0 or more, of normalised values; 0 up to the floor."""
        return self.scale * np.maximum(values - self.floor, 0.0) ** self.gamma
