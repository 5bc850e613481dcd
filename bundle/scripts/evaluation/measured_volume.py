"""The dictionary transform that measures a reconstruction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from ..radiographs.one_view import only_of
from .measurement_intervals import OF_ONE_VIEW, MeasurementIntervals, content_with_intervals
from .measurements import measure

MEASUREMENTS_KEY = "measurements"
"""Field of a record with what `measurements.json` holds."""


class MeasureVolumed(Transform):
    """
    Adds `measurements`, the figures of `pred`, a volume in HU with its affine, as
    :func:`~scripts.evaluation.measurement_intervals.content_with_intervals` has them.

    Args:
        intervals: those of the weights that made `pred`; None for none, which the record then says. They are of pairs:
            a record with one X-ray alone has none.
    """

    def __init__(self, intervals: MeasurementIntervals | None = None) -> None:
        self.intervals = intervals

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = record["pred"]
        found = measure(hu[0].as_tensor(), float(hu.affine[0, 0]))
        if only_of(record):
            return {**record, MEASUREMENTS_KEY: {**content_with_intervals(found, None), "statement": OF_ONE_VIEW}}
        return {**record, MEASUREMENTS_KEY: content_with_intervals(found, self.intervals)}
