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
        content: what `measurements.json` holds, see :class:`~scripts.evaluation.measured_volume.MeasureVolumed`.
    """
    measured = content["measurements"]
    rows = [{"measurement": each["label"], "value": _shown(each), "unit": each["unit"]} for each in measured]
    reasons = list(dict.fromkeys(each["reason"] for each in measured if each["value"] is None))
    return MeasurementTable(rows, [*reasons, content["statement"]])


def _shown(measured: Mapping[str, Any]) -> str:
    value = measured["value"]
    return "-" if value is None else f"{value:.{PLACES[measured['unit']]}f}"
