"""The table of a volume's measurements, on a page and at a terminal. It needs Python alone: the launcher reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PLACES = {"L": 2, "mm": 0, "HU": 0, "": 2}
"""Decimal places by unit: a voxel is 1.4 to 5.6 mm wide, and a few per cent of a lung are 0.1 L."""


class MeasurementTable(NamedTuple):
    """
    Attributes:
        rows: of a table, all with the same columns, as text.
        notes: paragraphs under it.
    """

    rows: list[dict[str, str]]
    notes: list[str]


def measurement_table(content: Mapping[str, Any]) -> MeasurementTable:
    """
    Args:
        content: what `measurements.json` holds, see :class:`~scripts.evaluation.measured_volume.MeasureVolumed`; of a
            test case with the ground truth's figures, `ground_truth`.
    """
    measured = content["measurements"]
    rows = [_row(each) for each in measured]
    reasons = list(dict.fromkeys(each["reason"] for each in measured if each["value"] is None))
    return MeasurementTable(rows, [*reasons, content["statement"]])


def _row(measured: Mapping[str, Any]) -> dict[str, str]:
    places = PLACES[measured["unit"]]
    row = {"measurement": measured["label"], "value": _shown(measured["value"], places)}
    if "interval" in measured:
        row["interval"] = " to ".join(_shown(end, places) for end in measured["interval"] or [None])
    if "ground_truth" in measured:
        row["ground truth"] = _shown(measured["ground_truth"], places)
    return {**row, "unit": measured["unit"]}


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
