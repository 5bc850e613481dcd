"""What an evaluation's rows say together: means with intervals over patients, and the worst cases."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np

from .case_files import badness
from .files import write_whole
from .metrics import mean_and_interval

IDENTITY_COLUMNS = ("case", "patient", "group", "size", "method")

INTERVAL_DEFINITION = {
    "mean, low, high": "over patients: the cases of one patient are averaged first, then the mean of the patients and "
    "its two-sided 95 % Student-t interval are taken; null for fewer than two patients. A case whose record names no "
    "patient counts as a patient of its own. Cases whose metric is not finite are left out of that metric",
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
    of_patients: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(row[metric]):
            of_patients.setdefault(row["patient"], []).append(row[metric])
    return mean_and_interval([float(np.mean(values)) for values in of_patients.values()])


def metrics_of(row: dict[str, Any], by: Sequence[str]) -> list[str]:
    """The names of a row's metrics."""
    return [name for name, value in row.items() if isinstance(value, float) and name not in by]


def worst_cases(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Case, group, size and PSNR of the cases that the last stage reconstructs worst, the worst first."""
    last = max((row["size"], row["method"]) for row in rows if row["method"].startswith("stage"))
    chosen = [row for row in rows if (row["size"], row["method"]) == last]
    return [
        {key: row[key] for key in ("case", "group", "size", "psnr_db")}
        for row in sorted(chosen, key=lambda row: badness(row["psnr_db"]))[:count]
    ]


def write_table(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as CSV, whose head is the names of the first one's columns."""

    def write(temporary: str) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    write_whole(path, write)
