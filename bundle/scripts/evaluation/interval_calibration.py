"""
Fits the residual quantiles of prediction intervals and, on held-out patients, their scale factor; measures coverage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data import DataLoader, Dataset, decollate_batch
from monai.engines import SupervisedEvaluator
from scipy.stats import spearmanr

from ..anatomy.body import TISSUES_HU, body_mask
from ..io.atomic_write import NOTICE, write_json
from ..io.sidecar import write_sidecar
from ..projection.imaging import ImagingModel
from .metrics import final_volume_and_truth
from .prediction_intervals import MIN_HALF_WIDTH_HU, Calibration, IntervalTable, read_interval_table

ERROR_BINS, ERROR_BIN_HU = 1024, 2.0
RANKED_VOXELS = 50_000
COVERAGE_DEFINITIONS = {
    "coverage": "fraction of voxels whose true HU lie within the half-width of the reconstructed HU",
    "half_width_hu": "mean half-width over the same voxels",
    "spearman": "rank correlation of half-width and absolute error over a grid of about 50,000 of the voxels",
    "whole, body": "the whole volume, and the body as in the evaluation",
    "air_and_lung, soft, bone": "by the true HU: below -300, -300 to 150, above 150",
}


class VolumeHandler:
    """An Ignite handler of an evaluator of the cascade: hands on each batch's last volume and ground truth in HU."""

    def __init__(self, imaging: ImagingModel) -> None:
        self.imaging = imaging

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def _iteration(self, engine: Engine) -> None:
        volumes = final_volume_and_truth(engine.state.output)
        volume, truth = (self.imaging.to_hu(each.float()) for each in volumes)
        self.take(volume, truth, decollate_batch(engine.state.batch))

    def take(self, hu: torch.Tensor, truth: torch.Tensor, records: Sequence[Mapping[str, Any]]) -> None:
        """Volumes `(B, 1, S, S, S)` in HU, their ground truth, and their records, which have `name` and `patient`."""
        raise NotImplementedError

    def finish(self, engine: Engine) -> None:
        """After the last batch."""


def volume_evaluator(
    dataset: Dataset,
    prepare_batch: Callable,
    handler: VolumeHandler,
    load_weights: Callable[[Engine], None],
    network: torch.nn.Module,
    device: torch.device,
) -> SupervisedEvaluator:
    """
    An evaluator of the cascade over a dataset, one record at a time, for a handler of its volumes.

    Args:
        dataset: of the records.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch`.
        handler: takes the volumes.
        load_weights: a :class:`~scripts.CascadeCheckpointLoader` of the network.
        network: the cascade.
        device: where it runs.
    """
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=network,
        prepare_batch=prepare_batch,
        decollate=False,
        val_handlers=[load_weights, ProgressBar(), handler],
    )


class IntervalTableFit(VolumeHandler):
    """
    Fills a table with a quantile of the absolute errors in each cell. A cell that fewer than `min_voxels` voxels fell
    into takes that of the nearest cell of its row that has them, and in a row without any, that of all voxels. None is
    below 1 HU.

    Args:
        table: is filled when the engine has finished, to 0.01 HU.
        voxel_coverage: which quantile, such as 0.9.
        min_voxels: see above.
        imaging: scale of the volumes.
    """

    def __init__(self, table: IntervalTable, voxel_coverage: float, min_voxels: int, imaging: ImagingModel) -> None:
        super().__init__(imaging)
        self.table, self.voxel_coverage, self.min_voxels = table, voxel_coverage, min_voxels
        self.counts = torch.zeros(table.half_widths.numel(), ERROR_BINS, dtype=torch.int64)

    def take(self, hu: torch.Tensor, truth: torch.Tensor, records: Sequence[Mapping[str, Any]]) -> None:
        bins = ((hu - truth).abs() / ERROR_BIN_HU).long().clamp(max=ERROR_BINS - 1)
        indices = (self.table.cells(hu) * ERROR_BINS + bins).flatten().cpu()
        self.counts += torch.bincount(indices, minlength=self.counts.numel()).view_as(self.counts)

    def finish(self, engine: Engine) -> None:
        rows, columns = self.table.half_widths.shape
        counts = self.counts.view(rows, columns, ERROR_BINS)
        for row in range(rows):
            filled = [column for column in range(columns) if counts[row, column].sum() >= self.min_voxels]
            for column in range(columns):
                nearest = min(filled, key=lambda other: abs(other - column), default=None)
                chosen = counts.sum((0, 1)) if nearest is None else counts[row, nearest]
                half_width = histogram_quantile(chosen, self.voxel_coverage, ERROR_BIN_HU)
                self.table.half_widths[row, column] = max(MIN_HALF_WIDTH_HU, round(half_width, 2))


class IntervalScaleFit(VolumeHandler):
    """
    Finds the scale factor by which the half-widths have to be multiplied, see
    :class:`~scripts.evaluation.prediction_intervals.Calibration`, and writes the file. Every patient has one score, the
    mean over its cases. Its X-rays have to be like those that the network is used on: augmented ones make other errors.

    Args:
        table: the fitted table; gets the factor.
        voxel_coverage: the fraction of a patient's voxels to cover.
        patient_level: the fraction of patients to do it for.
        imaging: scale of the volumes.
        path: the file to write.
        weights: the weights that it belongs to.
        stage: their stage.
    """

    def __init__(
        self,
        table: IntervalTable,
        voxel_coverage: float,
        patient_level: float,
        imaging: ImagingModel,
        path: str,
        weights: str,
        stage: int,
    ) -> None:
        super().__init__(imaging)
        self.table, self.voxel_coverage, self.patient_level = table, voxel_coverage, patient_level
        self.path, self.weights, self.stage = path, weights, stage
        self.scores: dict[str, list[float]] = defaultdict(list)

    def take(self, hu: torch.Tensor, truth: torch.Tensor, records: Sequence[Mapping[str, Any]]) -> None:
        for volume, true, record in zip(hu[:, None], truth[:, None], records):
            score = needed_factor(volume, true, self.table.half_width(volume), self.voxel_coverage)
            self.scores[record["patient"]].append(score)

    def finish(self, engine: Engine) -> None:
        calibration = Calibration(self.voxel_coverage, self.patient_level, tuple(map(mean, self.scores.values())))
        self.table.factor = calibration.factor
        content = {"factor": calibration.factor, **calibration.as_content(), **self.table.as_numbers()}
        write_sidecar(self.path, self.weights, {"notice": NOTICE, "stage": self.stage, **content})


def needed_factor(hu: torch.Tensor, truth: torch.Tensor, half_width: torch.Tensor, voxel_coverage: float) -> float:
    """
    The scale factor by which the half-widths of one case, volumes `(1, 1, S, S, S)` in HU, hold the ground truth in
    this fraction of the voxels of the whole volume and of the body's: the quantile of |error| over half-width, the
    larger.
    """
    ratio, body = (hu - truth).abs() / half_width, body_mask(truth)
    parts = [part.cpu().numpy() for part in (ratio, ratio[body]) if part.numel()]
    return max(float(np.quantile(part, voxel_coverage, method="inverted_cdf")) for part in parts)


class CoverageReport(VolumeHandler):
    """
    Measures the intervals case by case and writes :data:`COVERAGE_DEFINITIONS`, every case and their mean as JSON.

    Args:
        parameters: the file of the table, which is read when the engine starts.
        weights: the weights that it belongs to.
        imaging: scale and field of view of the volumes.
        path: the file to write.
        section: of the datalist, to name it in the file.
        stage: of the weights, to name it in the file.

    Raises:
        CheckpointError: when the engine starts and the table is missing or cannot be used.
    """

    def __init__(
        self,
        parameters: str,
        weights: str,
        imaging: ImagingModel,
        path: str,
        section: str,
        stage: int,
    ) -> None:
        super().__init__(imaging)
        self.parameters, self.weights = parameters, weights
        self.path, self.section, self.stage = path, section, stage
        self.cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.STARTED, self.read)

    def read(self, engine: Engine) -> None:
        """Reads the table."""
        fov_mm = self.imaging.geometry.fov_mm
        self.table, self.calibration = read_interval_table(self.parameters, self.weights, fov_mm)

    def take(self, hu: torch.Tensor, truth: torch.Tensor, records: Sequence[Mapping[str, Any]]) -> None:
        for volume, true, record in zip(hu[:, None], truth[:, None], records):
            self.cases.append({"case": record["name"], **coverage(volume, true, self.table.half_width(volume))})

    def finish(self, engine: Engine) -> None:
        means = {
            figure: {part: _mean([case[figure][part] for case in self.cases]) for part in self.cases[0][figure]}
            for figure in ("coverage", "half_width_hu", "spearman")
        }
        head = {"notice": NOTICE, "definitions": COVERAGE_DEFINITIONS, "section": self.section, "stage": self.stage}
        write_json(self.path, {**head, **self.calibration.as_content(), "mean": means, "cases": self.cases})


def coverage(hu: torch.Tensor, truth: torch.Tensor, half_width: torch.Tensor) -> dict[str, dict[str, float]]:
    """
    The figures of :data:`COVERAGE_DEFINITIONS` for one case, volumes `(1, 1, S, S, S)` in HU. A part that the ground
    truth does not hold has NaN.
    """
    error, body = (hu - truth).abs(), body_mask(truth)
    parts = {"whole": torch.ones_like(body), "body": body}
    parts |= {name: (truth > low) & (truth <= high) for name, (low, high) in TISSUES_HU.items()}
    return {
        "coverage": {name: (error <= half_width)[part].float().mean().item() for name, part in parts.items()},
        "half_width_hu": {name: half_width[part].mean().item() for name, part in parts.items()},
        "spearman": {
            name: _rank_correlation(half_width[parts[name]], error[parts[name]]) for name in ("whole", "body")
        },
    }


def histogram_quantile(counts: torch.Tensor, fraction: float, width: float) -> float:
    """The value below which this fraction of a histogram lies; its bins of this width start at 0, evenly filled."""
    reached = counts.cumsum(0).double()
    wanted = fraction * reached[-1]
    index = int(torch.searchsorted(reached, wanted).clamp(max=len(counts) - 1))
    before = reached[index] - counts[index]
    return float((index + (wanted - before) / counts[index].clamp(min=1)) * width)


def _rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    step = max(1, first.numel() // RANKED_VOXELS)
    if first.numel() < 2 or first.min() == first.max() or second.min() == second.max():
        return float("nan")
    return float(spearmanr(first[::step].cpu(), second[::step].cpu()).statistic)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return mean(known) if known else float("nan")
