"""Prediction intervals: the half-width that is meant to hold a voxel's true HU, from quantiles of residuals."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch.nn.functional import avg_pool3d, pad

from ..io.sidecar import Sidecar, made_by
from ..radiographs.one_view import is_without

UNCERTAINTY_KEY = "uncertainty"
"""Field of a record with the half-width of the interval in HU, `(1, S, S, S)`."""
CALIBRATION_KEY = "calibration"
"""In the metadata of `uncertainty`, the :class:`Calibration` of its half-widths."""
MIN_HALF_WIDTH_HU, MAX_HALF_WIDTH_HU = 1.0, 32767.0
"""A file of HU holds integers of 16 bits."""
EMPIRICAL, CONFORMAL = "empirical scale", "conformal over patients"


class IntervalTable:
    """
    Residual quantiles, half-widths in HU, by what the reconstruction itself shows at a voxel: its HU and its gradient
    magnitude.

    Two views determine edges and the inside of tissues unequally well, and a table of the errors that were made says by
    how much. It knows neither the ground truth nor the depth at which something lies: what is missing from a
    reconstruction without a trace has the width of what is in its place.

    Args:
        hu_edges: rising HU that part the rows, one fewer than there are rows.
        gradient_edges: rising HU/mm that part the columns, one fewer than there are columns.
        fov_mm: side of the field of view.
        half_widths_hu: the table, rows by columns; zeros until it is fitted.
        factor: the scale factor that every half-width is multiplied by, see
            :class:`~scripts.evaluation.interval_calibration.IntervalScaleFit`.
    """

    def __init__(
        self,
        hu_edges: Sequence[float],
        gradient_edges: Sequence[float],
        fov_mm: float,
        half_widths_hu: Sequence[Sequence[float]] | None = None,
        factor: float = 1.0,
    ) -> None:
        self.hu_edges, self.gradient_edges = torch.tensor(hu_edges).float(), torch.tensor(gradient_edges).float()
        self.fov_mm, self.factor = fov_mm, factor
        shape = (len(hu_edges) + 1, len(gradient_edges) + 1)
        self.half_widths = torch.zeros(shape) if half_widths_hu is None else torch.tensor(half_widths_hu).view(shape)

    def cells(self, hu: torch.Tensor) -> torch.Tensor:
        """Each voxel's cell, row by row from 0, of volumes `(B, 1, S, S, S)` in HU: the same shape."""
        rows = torch.bucketize(hu.contiguous(), self.hu_edges.to(hu.device))
        columns = torch.bucketize(gradient_magnitude(hu, self.fov_mm / hu.shape[-1]), self.gradient_edges.to(hu.device))
        return rows * self.half_widths.shape[1] + columns

    def half_width(self, hu: torch.Tensor) -> torch.Tensor:
        """Half-width of the interval, 1 to 32767 HU, of volumes `(B, 1, S, S, S)` in HU: the same shape."""
        widths = (self.half_widths.to(hu.device) * self.factor).clamp(MIN_HALF_WIDTH_HU, MAX_HALF_WIDTH_HU)
        return widths.flatten()[self.cells(hu)]

    def as_numbers(self) -> dict[str, Any]:
        """The table and its edges, for a JSON file; half-widths to 0.01 HU."""
        return {
            "hu_edges": self.hu_edges.tolist(),
            "gradient_edges": self.gradient_edges.tolist(),
            "half_widths_hu": [[round(width, 2) for width in row] for row in self.half_widths.tolist()],
        }


@dataclass(frozen=True)
class Calibration:
    """
    What the scale factor of the half-widths rests on: a score of each patient of a section that was not trained on.

    A patient's score is the factor that its own intervals need to hold the ground truth in `voxel_coverage` of its
    voxels. With enough of them, the factor is the ⌈(n + 1) · `patient_level`⌉-th smallest of n scores: split conformal
    prediction over patients (Lei et al., 2018, arXiv:1604.04173, section 2.2). If another patient is exchangeable with
    these, its score lies within the factor with a probability of at least `patient_level`. With fewer, the factor is
    the largest score, an empirical scale that promises nothing of others.

    Args:
        voxel_coverage: fraction of a patient's voxels, above 0 and below 1.
        patient_level: fraction of patients, above 0 and below 1.
        scores: one for each patient.
    """

    voxel_coverage: float
    patient_level: float
    scores: tuple[float, ...]

    @property
    def rank(self) -> int:
        """⌈(n + 1) · level⌉, the product rounded to 9 digits first, since 0.9 is no binary number."""
        return ceil(round((len(self.scores) + 1) * self.patient_level, 9))

    @property
    def kind(self) -> str:
        """:data:`CONFORMAL` or :data:`EMPIRICAL`."""
        return CONFORMAL if self.rank <= len(self.scores) else EMPIRICAL

    @property
    def factor(self) -> float:
        """What the half-widths are multiplied by."""
        return sorted(self.scores)[min(self.rank, len(self.scores)) - 1]

    @property
    def label(self) -> str:
        """The kind and on how many patients, in a few words."""
        return f"{self.kind}, {_patients(len(self.scores))}"

    @property
    def statement(self) -> str:
        """What may be relied on, in a sentence."""
        patients = _patients(len(self.scores))
        voxels, level = (f"{100 * fraction:g} %" for fraction in (self.voxel_coverage, self.patient_level))
        if self.kind == CONFORMAL:
            return (
                f"Conformal over {patients}: of a further patient who is exchangeable with them, the intervals hold "
                f"the ground truth in {voxels} of the voxels or more with a probability of at least {level}."
            )
        needed = ceil(round(self.patient_level / (1 - self.patient_level), 9))
        return (
            f"An empirical scale, the largest that was needed for {voxels} of the voxels in {patients}: of others "
            f"it promises nothing. A conformal statement at a level of {level} takes {needed} patients."
        )

    def as_content(self) -> dict[str, Any]:
        """For a JSON file."""
        calibration = {"patients": len(self.scores), "kind": self.kind, "statement": self.statement}
        return {
            "voxel_coverage": self.voxel_coverage,
            "patient_level": self.patient_level,
            "calibration": {**calibration, "scores": self.scores},
        }


def _patients(number: int) -> str:
    return f"{number} patient{'s' if number > 1 else ''}"


def read_interval_table(path: str, weights: str, fov_mm: float) -> tuple[IntervalTable, Calibration]:
    """
    The table in a file that `uncertainty.json` wrote, and what its factor rests on.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when the factor is not that of the scores
            in the file.
    """
    file = Sidecar(path, weights, made_by("uncertainty", weights))
    edges = {name: file.rising(name).tolist() for name in ("hu_edges", "gradient_edges")}
    shape = [len(values) + 1 for values in edges.values()]
    half_widths = file.numbers("half_widths_hu", shape, least=0.0, most=MAX_HALF_WIDTH_HU).tolist()
    fractions = {name: file.number(name, above=0.0, below=1.0) for name in ("voxel_coverage", "patient_level")}
    scores = file.numbers("calibration.scores", (None,), above=0.0)
    calibration, why = Calibration(**fractions, scores=tuple(scores.tolist())), "as calibration.scores have it"
    factor = file.number("factor", above=0.0)
    file.require("factor", calibration.factor, why)
    file.require("calibration.patients", len(scores), why)
    file.require("calibration.kind", calibration.kind, why)
    return IntervalTable(**edges, fov_mm=fov_mm, half_widths_hu=half_widths, factor=factor), calibration


def gradient_magnitude(hu: torch.Tensor, voxel_mm: float) -> torch.Tensor:
    """
    Length of the gradient in HU/mm, by central differences of volumes `(B, 1, S, S, S)` averaged over 3 x 3 x 3 voxels;
    the border is repeated outwards.
    """
    smooth = avg_pool3d(pad(hu, [2] * 6, mode="replicate"), 3, stride=1)
    differences = [
        (smooth.narrow(axis, 2, hu.shape[axis]) - smooth.narrow(axis, 0, hu.shape[axis])) for axis in (2, 3, 4)
    ]
    inner = [_without_border(difference, axis) for axis, difference in zip((2, 3, 4), differences)]
    return sum(difference.square() for difference in inner).sqrt() / (2 * voxel_mm)


def _without_border(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Takes the padded voxel away at both ends of the axes other than this."""
    for other in {2, 3, 4} - {axis}:
        values = values.narrow(other, 1, values.shape[other] - 2)
    return values


class PredictIntervalsd(Transform):
    """
    Adds `uncertainty`, the half-width of the interval in HU around each voxel of `pred`, with its affine, and with its
    :class:`Calibration` in the metadata.

    Args:
        path: the table, a file that `uncertainty.json` wrote for these weights.
        weights: the weights that made `pred`.
        fov_mm: side of the field of view.

    Raises:
        CheckpointError: when the table is missing or cannot be used.

    Warns:
        UserWarning: when the half-widths have an empirical scale; or when the record has one X-ray alone, and so gets
            none.
    """

    def __init__(self, path: str, weights: str, fov_mm: float) -> None:
        self.path, (self.table, self.calibration) = path, read_interval_table(path, weights, fov_mm)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if is_without(record, "prediction intervals"):
            return dict(record)
        if self.calibration.kind == EMPIRICAL:
            warnings.warn(f"uncertainty by {self.path}: {self.calibration.statement}")
        hu = record["pred"]
        half_width = self.table.half_width(hu.as_tensor()[None])[0]
        meta = {CALIBRATION_KEY: self.calibration}
        return {**record, UNCERTAINTY_KEY: MetaTensor(half_width, affine=hu.affine, meta=meta)}
