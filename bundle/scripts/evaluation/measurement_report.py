"""Scores a reconstruction by what is measured on it: signed errors, overlap of lungs and bone, bias of HU by tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..anatomy.body import TISSUES_HU
from ..anatomy.thorax import factor, find_thorax
from ..projection.imaging import ImagingModel
from ..projection.resampling import resized, truth_at
from .baselines import MEAN, Baselines
from .measurement_coverage import COVERAGE_DEFINITIONS, coverage_by_group
from .measurement_intervals import MeasurementIntervals
from .measurements import MEASURES, mask_at, measure_thorax
from .metrics import dice
from .summary import IDENTITY_COLUMNS, INTERVAL_DEFINITION, patient_means, summarise
from .table_report import TableReport

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

NAME = "measurement_errors"
STAGE = "stage "
"""The method that is a stage's volume begins so; its number follows."""
GRID = "ground truth"
"""The method that shows what the grid alone loses."""
DESCRIBED = ("key", "label", "unit", "definition", "source")
"""What the file says of each measurement."""
BONE_HU = 200.0
"""What is denser counts as bone, for its overlap; so does blood that holds much contrast agent."""
LIMITS = 1.96
"""Standard deviations from the mean difference to the limits of agreement, see :data:`ERROR_DEFINITIONS`."""
ERROR_DEFINITIONS = {
    "<measurement>": "of the volume, in the unit of `measures`; null where it cannot be taken",
    "<measurement>_error": "of the volume less of the ground truth at full size, so above 0 where it is too large",
    "sd, lower_limit, upper_limit": "of an error over patients: standard deviation, and the limits of agreement of "
    "Bland and Altman (Lancet 327, 1986, 307-310), mean -/+ 1.96 standard deviations; null for fewer than two patients",
    "dice_lungs": "overlap 2|A and B| / (|A| + |B|) of both lungs, as they are measured, with the ground truth's",
    "dice_bone": f"the same of what is above {BONE_HU:g} HU, wherever it is",
    "bias_<tissue>_hu": "mean HU of the volume less those of the ground truth, in the body, where the ground truth is "
    "below -300 HU, from -300 to 150, and above 150",
    GRID: "as a method: the ground truth averaged to that size, what the grid alone loses",
    "size": "each voxel of a smaller volume stands for those of the ground truth that it covers",
}


class MeasuredVolume(NamedTuple):
    """
    Attributes:
        hu: in HU.
        values: figures by the keys of :data:`~scripts.evaluation.measurements.MEASURES`, NaN where there is none.
        lungs: mask of both, `(S, S, S)`.
        body: mask of the body with its lungs.
    """

    hu: Float[np.ndarray, "S S S"]
    values: dict[str, float]
    lungs: Bool[np.ndarray, "S S S"]
    body: Bool[np.ndarray, "S S S"]


def measured_volume(hu: Float[np.ndarray, "S S S"], fov_mm: float) -> MeasuredVolume:
    """Measures a cube of this side, RAS+."""
    thorax = find_thorax(hu, fov_mm / len(hu))
    values = {key: float("nan") if value is None else value for key, value in measure_thorax(thorax).values.items()}
    lungs, body = (mask_at(mask, hu.shape, fov_mm / len(hu)) for mask in (thorax.lungs.both, thorax.body))
    return MeasuredVolume(hu, values, lungs, body)


def errors_of(found: MeasuredVolume, truth: MeasuredVolume) -> dict[str, float]:
    """
    The figures of :data:`ERROR_DEFINITIONS`.

    Args:
        found: of a size that divides that of the ground truth.
        truth: the ground truth at full size.
    """
    scores: dict[str, float] = {}
    for each in MEASURES:
        scores[each.key] = found.values[each.key]
        scores[f"{each.key}_error"] = found.values[each.key] - truth.values[each.key]
    times = len(truth.hu) // len(found.hu)
    hu, lungs = (each.repeat(times, 0).repeat(times, 1).repeat(times, 2) for each in (found.hu, found.lungs))
    scores |= {"dice_lungs": dice(lungs, truth.lungs), "dice_bone": dice(hu > BONE_HU, truth.hu > BONE_HU)}
    difference = hu - truth.hu
    for tissue, (low, high) in TISSUES_HU.items():
        there = truth.body & (truth.hu > low) & (truth.hu <= high)
        scores[f"bias_{tissue}_hu"] = float(difference[there].mean()) if there.any() else float("nan")
    return scores


class MeasurementReport(TableReport):
    """
    An Ignite handler that measures every stage's volume of each case, the mean training volume, and the ground truth
    averaged to each stage's size, and writes `measurement_errors.json` and `measurement_errors.csv`: figures, their
    errors and the other scores of :data:`ERROR_DEFINITIONS`, with their means over patients and limits of agreement;
    and of the last stage's intervals how many patients they hold.

    Args:
        output_dir: where to write.
        imaging: scale and field of view of the volumes.
        baselines: prepared by another handler; theirs is the mean training volume, which has rows where there is one.
        intervals: of the last stage's measurements; None for none.
        only: "frontal" or "lateral" where the network is given that X-ray alone, which the file then says.
    """

    def __init__(
        self,
        output_dir: str,
        imaging: ImagingModel,
        baselines: Baselines,
        intervals: MeasurementIntervals | None = None,
        only: str | None = None,
    ) -> None:
        super().__init__(output_dir, NAME)
        self.only = only
        self.imaging, self.mean_of, self.intervals = imaging, baselines, intervals
        self._mean: MeasuredVolume | None = None

    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        truth = label["ct"]
        reference = self._measured(truth)
        rows = []
        for stage, volume in enumerate(volumes, start=1):
            size = volume.shape[-1]
            rows.append(self._row(record, f"{STAGE}{stage}", self._measured(volume.clamp(0, 1)), reference))
            rows.append(self._row(record, GRID, self._averaged(truth, size, reference), reference))
        mean = self._mean_volume(volumes[-1])
        return rows if mean is None else [*rows, self._row(record, MEAN, mean, reference)]

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        described = ({name: getattr(each, name) for name in DESCRIBED} for each in MEASURES)
        definitions = {**ERROR_DEFINITIONS, **INTERVAL_DEFINITION}
        alone = {"only": self.only} if self.only else {}
        content = {"definitions": definitions, "measures": list(described), **alone, "summary": summarised_errors(rows)}
        if self.intervals is None:
            return content
        last = [row["method"] for row in rows if row["method"].startswith(STAGE)][-1]
        coverage = coverage_by_group([row for row in rows if row["method"] == last], self.intervals)
        return {**content, "definitions": {**definitions, **COVERAGE_DEFINITIONS}, "coverage": coverage}

    def _measured(self, volume: torch.Tensor) -> MeasuredVolume:
        hu = self.imaging.to_hu(volume[0, 0].float()).cpu().numpy()
        return measured_volume(hu, self.imaging.geometry.fov_mm)

    def _averaged(self, truth: torch.Tensor, size: int, reference: MeasuredVolume) -> MeasuredVolume:
        """The ground truth at a size; measured anew only where its voxels are not averaged to the same size anyhow."""
        full, fov_mm = truth.shape[-1], self.imaging.geometry.fov_mm
        averaged = truth_at(truth, size)
        if size // factor(fov_mm / size) != full // factor(fov_mm / full):
            return self._measured(averaged)
        each = (slice(None, None, full // size),) * 3
        hu = self.imaging.to_hu(averaged[0, 0].float()).cpu().numpy()
        return reference._replace(hu=hu, lungs=reference.lungs[each], body=reference.body[each])

    def _mean_volume(self, like: torch.Tensor) -> MeasuredVolume | None:
        """Measured once, since it is every case's."""
        if self._mean is None and self.mean_of.mean is not None:
            self._mean = self._measured(resized(self.mean_of.mean.to(like), like.shape[-1]))
        return self._mean

    def _row(
        self, record: dict[str, Any], method: str, found: MeasuredVolume, reference: MeasuredVolume
    ) -> dict[str, Any]:
        identity = (record["name"], record["patient"], record["group"], len(found.hu), method)
        return {**dict(zip(IDENTITY_COLUMNS, identity)), **errors_of(found, reference)}


def summarised_errors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """:func:`~scripts.evaluation.summary.summarise`, with the limits of agreement of each error."""
    entries = summarise(rows)
    for entry in entries:
        chosen = [row for row in rows if all(row[name] == entry[name] for name in ("group", "size", "method"))]
        for each in MEASURES:
            entry[f"{each.key}_error"] |= limits_of_agreement(patient_means(chosen, f"{each.key}_error"))
    return entries


def limits_of_agreement(differences: Sequence[float]) -> dict[str, float]:
    """Number, standard deviation and limits of Bland and Altman (1986) of the patients' differences."""
    count = len(differences)
    mean, sd = (np.mean(differences), np.std(differences, ddof=1)) if count > 1 else (np.nan, np.nan)
    limits = {"lower_limit": mean - LIMITS * sd, "upper_limit": mean + LIMITS * sd}
    return {"patients": count, **{name: float(value) for name, value in {"sd": sd, **limits}.items()}}
