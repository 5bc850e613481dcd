"""Evaluation of every stage and its baselines against the ground truth, case by case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch

from ..evaluation.baselines import BASELINE_DEFINITIONS, Baselines
from ..evaluation.metrics import DEFINITIONS, volume_metrics
from ..evaluation.summary import IDENTITY_COLUMNS, INTERVAL_DEFINITION, summarise, write_table
from ..evaluation.worst_cases import WorstCases, worst_cases
from ..io.atomic_write import NOTICE, write_json
from ..losses.reprojection import DRRReprojectionLoss
from ..projection.geometry import BiplanarGeometry
from ..projection.resampling import truth_at
from ..training.distributed import gathered
from .case_report import CaseReport


class EvaluationReport:
    """
    An Ignite handler that scores each case and writes, when the engine has finished, `metrics.json` (definitions, a
    summary by group with confidence intervals, the worst cases, every case) and `metrics.csv`; and a folder for some
    cases, see :class:`~scripts.reporting.case_report.CaseReport`: the first ones of the datalist and the worst of all.

    Stages are scored at their own size against the ground truth averaged to that size, and compared with baselines: the
    mean training volume, the nearest training patient, and the trilinear upsampling of every stage before it, so that
    at the last size all stages are scored against the same ground truth.

    Args:
        case_report: writes a case's folder.
        baselines: what the stages are compared with.
        written_cases: how many cases get a folder whatever their score, in the order of the datalist.
        worst_cases: how many of the worst cases are named and get a folder.
    """

    def __init__(self, case_report: CaseReport, baselines: Baselines, written_cases: int, worst_cases: int) -> None:
        self.case_report, self.baselines, self.written_cases = case_report, baselines, written_cases
        self.output_dir, self.imaging = case_report.output_dir, case_report.imaging
        self.reprojection: DRRReprojectionLoss = case_report.reprojection
        self.worst = WorstCases(worst_cases)
        self.rows: list[list[dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda engine: self.baselines.prepare())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    @torch.no_grad()
    def score(self, engine: Engine) -> None:
        """Scores the cases of one batch."""
        output, batch = engine.state.output, decollate_batch(engine.state.batch)
        for index, record in enumerate(batch):
            volumes = [volume[index : index + 1].float() for volume in output["pred"]]
            truth, xrays = (output["label"][key][index : index + 1].float() for key in ("ct", "xrays"))
            geometry = output["label"]["geometry"].of_case(index)
            rows = self._rows(record, volumes, truth, xrays, geometry)
            place = len(self.rows) * idist.get_world_size() + idist.get_rank()
            self.rows.append(rows)
            if place < self.written_cases:
                self.case_report.write(record, volumes, truth, xrays, geometry, rows)
                continue
            last = next(row["psnr_db"] for row in rows if row["method"] == f"stage {len(volumes)}")
            folder = self.case_report.folder(record["name"])
            write = partial(self.case_report.write, record, volumes, truth, xrays, geometry, rows)
            self.worst.consider(last, folder, write)

    def write(self, engine: Engine) -> None:
        """Writes `metrics.json` and `metrics.csv`, of the cases of all processes in the order of the datalist."""
        rows = [row for case in gathered(self.rows) for row in case]
        worst = worst_cases(rows, self.worst.count)
        self.worst.keep_only({self.case_report.folder(case["case"]) for case in worst})
        if idist.get_rank() != 0:
            return
        report = {
            "notice": NOTICE,
            "definitions": {**DEFINITIONS, **INTERVAL_DEFINITION, **BASELINE_DEFINITIONS},
            "hu_window": list(self.imaging.hu_window),
            "mean_volume": self.baselines.mean_of,
            "summary": summarise(rows),
            "worst_cases": worst,
            "cases": rows,
        }
        write_json(os.path.join(self.output_dir, "metrics.json"), report)
        write_table(os.path.join(self.output_dir, "metrics.csv"), rows)

    def _rows(
        self,
        record: dict[str, Any],
        volumes: Sequence[torch.Tensor],
        truth: torch.Tensor,
        xrays: torch.Tensor,
        geometry: BiplanarGeometry,
    ) -> list[dict[str, Any]]:
        rows = []
        for stage, volume in enumerate(volumes, start=1):
            size = volume.shape[-1]
            methods = {f"stage {stage}": volume, **self.baselines.of_stage(volumes[:stage], truth)}
            for method, candidate in methods.items():
                scores = volume_metrics(candidate, truth_at(truth, size), self.imaging)
                error = (
                    self.reprojection(candidate.clamp(0, 1), xrays, geometry=geometry).item() * self.imaging.xray_scale
                )
                identity = (record["name"], record["patient"], record["group"], size, method)
                rows.append({**dict(zip(IDENTITY_COLUMNS, identity)), **scores, "reprojection_mae": error})
        return rows
