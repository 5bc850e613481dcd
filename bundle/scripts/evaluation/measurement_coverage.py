"""How many patients' figures the intervals of measurements hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from .measurement_intervals import MeasurementInterval, MeasurementIntervals

COVERAGE_DEFINITIONS = {
    "patients, held": "whose reconstruction and ground truth could both be measured; of them those whose figure lies "
    "in the interval about that of the reconstruction, in each of a patient's cases",
    "low, high": "95 % confidence interval of the fraction that is held, by Clopper and Pearson (1934), Biometrika 26, "
    "404-413",
    "level": "the least probability with which a patient like those of the intervals is held",
    "half_width": "of the interval, in the measurement's unit",
}


def coverage_by_group(rows: Sequence[Mapping[str, Any]], intervals: MeasurementIntervals) -> list[dict[str, Any]]:
    """
    The figures of :data:`COVERAGE_DEFINITIONS` of each measurement that has an interval, for each group of patients.

    Args:
        rows: of one method: `patient`, `group`, and `<measurement>_error`, NaN where it could not be taken.
        intervals: of that method's measurements.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return [
        {"group": group, **{key: coverage_of(largest_errors(chosen, key), each) for key, each in intervals.of.items()}}
        for group, chosen in groups.items()
    ]


def largest_errors(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Of each patient the error of a measurement that is largest in size of its cases, as in the intervals."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(error := row[f"{key}_error"]):
            errors.setdefault(row["patient"], []).append(error)
    return largest_by_patient(errors)


def largest_by_patient(errors: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each patient, the error that is largest in size of its cases: patients are what is exchangeable."""
    return [max(of_patient, key=abs) for of_patient in errors.values()]


def coverage_of(errors: Sequence[float], interval: MeasurementInterval) -> dict[str, float]:
    """The figures of :data:`COVERAGE_DEFINITIONS` for patients with these errors, one each."""
    held = sum(abs(error) <= interval.half_width for error in errors)
    low, high = binomtest(held, len(errors)).proportion_ci(0.95, method="exact") if errors else (0.0, 1.0)
    figures = {"patients": len(errors), "held": held, "low": float(low), "high": float(high)}
    return {**figures, "level": interval.level, "half_width": interval.half_width}
