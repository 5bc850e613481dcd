"""What an evaluation's rows say together: means with intervals over patients."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..io.atomic_write import write_atomically

IDENTITY_COLUMNS = ("case", "patient", "group", "size", "method")
INTERVAL_DEFINITION = {
    "mean, low, high": "over patients: the cases of one patient are averaged first, then the mean of the patients and "
    "its two-sided 95 % Student-t interval are taken; null for fewer than two patients. A case whose record names no "
    "patient counts as a patient of its own. Cases whose metric is not finite are excluded from that metric",
}


def summarise(rows: Sequence[dict[str, Any]], by: Sequence[str] = ("group", "size", "method")) -> list[dict[str, Any]]:
    """
    One entry for each combination of the columns `by`, in the order of the rows: it, the numbers of cases and patients,
    and every metric's mean with its 95 % interval, see :data:`INTERVAL_DEFINITION`.

    Args:
        rows: one for each case and combination, with `patient`; what is a float is a metric.
        by: columns that tell the combinations apart.
    """
    combinations: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        combinations.setdefault(tuple(row[name] for name in by), []).append(row)
    return [
        {
            **dict(zip(by, values)),
            "cases": len(chosen),
            "patients": len({row["patient"] for row in chosen}),
            **{name: mean_over_patients(chosen, name) for name in metrics_of(chosen[0], by)},
        }
        for values, chosen in combinations.items()
    ]


def mean_over_patients(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """The mean and interval of :data:`INTERVAL_DEFINITION`."""
    return mean_and_interval(patient_means(rows, metric))


def patient_means(rows: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """A metric's mean over the cases of each patient, without what is not finite."""
    of_patients: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(row[metric]):
            of_patients.setdefault(row["patient"], []).append(row[metric])
    return [float(np.mean(values)) for values in of_patients.values()]


def metrics_of(row: dict[str, Any], by: Sequence[str]) -> list[str]:
    """The names of a row's metrics."""
    return [name for name, value in row.items() if isinstance(value, float) and name not in by]


def write_table(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as CSV, whose head is the names of the first one's columns."""

    def write(temporary: str) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    write_atomically(path, write)


def mean_and_interval(values: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Mean over cases and the two-sided Student-t interval of that mean; a single case has no interval (NaN)."""
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    if len(sample) < 2:
        mean = float(sample.mean()) if len(sample) else float("nan")
        return {"mean": mean, "low": float("nan"), "high": float("nan")}
    half = stats.sem(sample) * stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
    return {"mean": float(sample.mean()), "low": float(sample.mean() - half), "high": float(sample.mean() + half)}
