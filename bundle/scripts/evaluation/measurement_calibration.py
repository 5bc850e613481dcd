"""Finds the intervals of measurements on patients left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine

from ..data.datalist import SOURCE_FIELDS
from ..errors import InputError
from ..projection.imaging import ImagingModel
from .interval_calibration import VolumeHandler
from .measurement_coverage import largest_by_patient
from .measurement_intervals import MeasurementInterval, MeasurementIntervals, write_intervals
from .measurements import MEASURES, measure


class MeasurementIntervalFit(VolumeHandler):
    """
    Takes each patient's errors and writes the sidecar file of
    :func:`~scripts.evaluation.measurement_intervals.write_intervals`.

    Args:
        imaging: scale and field of view of the volumes.
        level: that is wanted of every interval, between 0 and 1; few patients attain less, which the file says.
        path: the file to write.
        weights: that it belongs to; the patients must not be those that they were trained on.
        stage: of the weights.
        records: of the patients, see :func:`~scripts.load_records`; the file names them with their licences, which
            batches do not have.

    Raises:
        InputError: when the engine has finished and no measurement could be taken of any patient.
    """

    def __init__(
        self,
        imaging: ImagingModel,
        level: float,
        path: str,
        weights: str,
        stage: int,
        records: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__(imaging)
        self.errors: dict[str, dict[str, list[float]]] = {each.key: defaultdict(list) for each in MEASURES}
        self.cases: list[str] = []
        self.level, self.path, self.weights, self.stage = level, path, weights, stage
        self.sources = [{name: each[name] for name in ("name", *SOURCE_FIELDS) if name in each} for each in records]

    def take(self, hu: torch.Tensor, truth: torch.Tensor, records: Sequence[Mapping[str, Any]]) -> None:
        for volume, true, record in zip(hu[:, 0], truth[:, 0], records):
            self.cases.append(record["name"])
            for key, error in self.errors_of(volume, true).items():
                self.errors[key][record["patient"]].append(error)

    def finish(self, engine: Engine) -> None:
        errors = {key: [round(error, 4) for error in largest_by_patient(of_key)] for key, of_key in self.errors.items()}
        found = {key: MeasurementInterval(tuple(values), self.level) for key, values in errors.items() if values}
        if not found:
            raise InputError(
                f"{self.path}: no measurement could be taken of reconstruction and ground truth of any of "
                f"{len(self.cases)} cases, expected chests; name others, patients that the weights have not met."
            )
        fov_mm = self.imaging.geometry.fov_mm
        records = [source for source in self.sources if source["name"] in self.cases]
        write_intervals(self.path, self.weights, MeasurementIntervals(found), self.level, fov_mm, self.stage, records)

    def errors_of(self, volume: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
        """By measurement, of those that can be taken of both."""
        spacing_mm = self.imaging.geometry.fov_mm / volume.shape[-1]
        found, true = (
            measure(each.clamp(*self.imaging.hu_window).cpu(), spacing_mm).values for each in (volume, truth)
        )
        return {key: found[key] - true[key] for key in found if found[key] is not None and true[key] is not None}
