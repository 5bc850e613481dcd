"""The dictionary transform that measures a reconstruction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from .measurements import measure

MEASUREMENTS_KEY = "measurements"
"""Field of a record with what `measurements.json` holds."""
WITHOUT_INTERVALS = (
    "Measured on the reconstruction, which is not the patient. There are no intervals: how far the patient's figures "
    "may be from these is not said."
)


class MeasureVolumed(Transform):
    """
    Adds `measurements`, the figures of `pred`, a volume in HU with its affine, as a dict for JSON: a `statement` of
    what they are, and `measurements`, see :meth:`~scripts.evaluation.measurements.Measurements.as_content`.
    """

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = record["pred"]
        found = measure(hu[0].as_tensor(), float(hu.affine[0, 0]))
        return {**record, MEASUREMENTS_KEY: {"statement": WITHOUT_INTERVALS, **found.as_content()}}
