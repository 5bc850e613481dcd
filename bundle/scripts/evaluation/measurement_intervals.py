"""
Intervals of measurements: the figure of a reconstruction, plus and minus what it was wrong by on patients left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ..io.atomic_write import NOTICE
from ..io.sidecar import Sidecar, command_of, sidecar_path, write_sidecar
from .measurements import MEASURES, Measure, Measurements

NAME = "measurements"
"""Of the sidecar file, `DIR/NAME_measurements.json`."""
WORKFLOW = "measurement_intervals"
"""Of the config that makes it."""
WITHOUT_INTERVALS = (
    "Measured on the reconstruction, which is not the patient. There are no intervals, since no file of measured "
    "errors lies next to these weights: how far the patient's figures may be from these is not said."
)
OF_ONE_VIEW = (
    "Measured on the reconstruction, which is not the patient, from one X-ray alone. There are no intervals, since all "
    "that is known of errors is of pairs: how far the patient's figures may be from these is not said."
)
LIMITS_OF_INTERVALS = (
    "The errors are of clean projections of CTs: of real radiographs, and of patients unlike those left out, an "
    "interval says nothing. It holds for one measurement at a time."
)


@dataclass(frozen=True)
class MeasurementInterval:
    """
    The interval of one measurement by split conformal prediction (Lei et al., Journal of the American Statistical
    Association 113, 2018, section 2.2): of the absolute errors of n patients the k-th smallest,
    k = ceil((n + 1) level), is the half-width, and a further patient who is exchangeable with them is held with a
    probability of at least k / (n + 1). Where k would be above n, it is n: the level is then n / (n + 1), less than
    wanted.

    Args:
        errors: of each patient, signed: reconstruction less ground truth.
        wanted: level that is wanted, between 0 and 1.
    """

    errors: tuple[float, ...]
    wanted: float

    @property
    def rank(self) -> int:
        count = len(self.errors)
        return min(count, ceil((count + 1) * self.wanted - 1e-9))

    @property
    def level(self) -> float:
        """The probability that is attained."""
        return self.rank / (len(self.errors) + 1)

    @property
    def half_width(self) -> float:
        """In the measurement's unit."""
        return sorted(map(abs, self.errors))[self.rank - 1]

    def around(self, value: float, least: float) -> list[float]:
        """Both ends, the lower one not below what the measurement can be."""
        return [max(least, value - self.half_width), value + self.half_width]

    def as_content(self) -> dict[str, Any]:
        figures = {"half_width": self.half_width, "level": self.level, "patients": len(self.errors)}
        return {**figures, "errors": list(self.errors)}


@dataclass(frozen=True)
class MeasurementIntervals:
    """
    Args:
        of: intervals by the keys of :data:`~scripts.evaluation.measurements.MEASURES`; a measurement that could be
            taken of no patient left out has none.
    """

    of: Mapping[str, MeasurementInterval]

    @property
    def statement(self) -> str:
        """What the intervals mean, in sentences."""
        levels: dict[tuple[int, int], list[str]] = {}
        for each in MEASURES:
            if each.key in self.of:
                interval = self.of[each.key]
                levels.setdefault((interval.rank, len(interval.errors)), []).append(each.label)
        (rank, count), *others = sorted(levels, key=lambda level: -len(levels[level]))
        said = [
            f"An interval is meant to hold the patient's own figure. It comes from the errors of {count} patients whom "
            f"the weights were not trained on: a further patient like them is held with a probability of at least "
            f"{rank} in {count + 1}."
        ]
        said += [
            f"{', '.join(levels[rank, count])}: {count} patients, {rank} in {count + 1}." for rank, count in others
        ]
        return " ".join([*said, LIMITS_OF_INTERVALS])

    def as_content(self) -> dict[str, Any]:
        """For the sidecar file, with the definitions that the errors are of."""
        definitions = {each.key: each.definition for each in MEASURES}
        return {key: {"definition": definitions[key], **interval.as_content()} for key, interval in self.of.items()}


def content_with_intervals(found: Measurements, intervals: MeasurementIntervals | None) -> dict[str, Any]:
    """
    As JSON: the `statement` of what the figures are worth, and `measurements`, see
    :meth:`~scripts.evaluation.measurements.Measurements.as_content`, each with its `interval`, null where there is
    none, and the `interval_level` and `interval_patients` that it rests on.
    """
    content = found.as_content()
    if intervals is None:
        return {"statement": WITHOUT_INTERVALS, **content}
    for row, each in zip(content["measurements"], MEASURES):
        interval = intervals.of.get(each.key)
        if interval is None or row["value"] is None:
            row["interval"] = None
        else:
            row["interval"] = interval.around(row["value"], least_of(each))
            row |= {"interval_level": interval.level, "interval_patients": len(interval.errors)}
    return {"statement": intervals.statement, **content}


def least_of(measure: Measure) -> float:
    """What the measurement cannot be below: only HU are."""
    return -1024.0 if measure.unit == "HU" else 0.0


def write_intervals(
    path: str,
    weights: str,
    intervals: MeasurementIntervals,
    wanted: float,
    fov_mm: float,
    stage: int,
    records: Sequence[Mapping[str, str]],
) -> None:
    """
    Writes the sidecar file.

    Args:
        path: of the file.
        weights: that it belongs to.
        intervals: at least one.
        wanted: level that was wanted.
        fov_mm: side of the field of view: what is measured lies within it.
        stage: of the weights.
        records: of the CTs that the errors derive from, with their licences where those are known.
    """
    head = {"notice": NOTICE, "stage": stage, "fov_mm": fov_mm, "wanted_level": wanted, "records": list(records)}
    write_sidecar(path, weights, {**head, NAME: intervals.as_content()})


def read_intervals(path: str, weights: str, fov_mm: float) -> MeasurementIntervals:
    """
    What :func:`write_intervals` wrote.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when a figure is not that of the errors in the
            file, or the errors are of another measurement or field of view.
    """
    file = Sidecar(path, weights, f"{command_of(WORKFLOW, weights)} Or move this file away.")
    file.require("fov_mm", fov_mm, "the field of view of the reconstruction, within which is measured")
    wanted = file.number("wanted_level", above=0.0, below=1.0)
    found, definitions = file.content.get(NAME), {each.key: each.definition for each in MEASURES}
    if not isinstance(found, dict) or not found or not set(found) <= set(definitions):
        raise file.refusal(NAME, "is no object of measurements", f"some of {', '.join(definitions)}")
    return MeasurementIntervals({key: _read_one(file, key, definitions[key], wanted) for key in found})


def _read_one(file: Sidecar, key: str, definition: str, wanted: float) -> MeasurementInterval:
    field = f"{NAME}.{key}"
    file.require(f"{field}.definition", definition, "what this version measures")
    interval = MeasurementInterval(tuple(file.numbers(f"{field}.errors", (None,)).tolist()), wanted)
    for name, figure in interval.as_content().items():
        if name != "errors":
            file.require(f"{field}.{name}", figure, f"as {field}.errors have it")
    return interval


def intervals_beside(weights: str, fov_mm: float) -> MeasurementIntervals | None:
    """What :func:`read_intervals` reads next to weights; None where there is no such file."""
    path = sidecar_path(weights, NAME)
    return read_intervals(path, weights, fov_mm) if os.path.isfile(path) else None
