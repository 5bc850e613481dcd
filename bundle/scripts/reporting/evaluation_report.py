"""Evaluation of every stage and its baselines against the ground truth, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..evaluation.anatomy_baselines import STAGE as ANATOMY_STAGE
from ..evaluation.baselines import BASELINE_DEFINITIONS, Baselines
from ..evaluation.metrics import DEFINITIONS, volume_metrics
from ..evaluation.summary import IDENTITY_COLUMNS, INTERVAL_DEFINITION, summarise
from ..evaluation.table_report import TableReport
from ..evaluation.worst_cases import WorstCases, worst_cases
from ..projection.geometry import BiplanarGeometry
from ..projection.resampling import truth_at, upsample
from .case_report import CaseReport


class EvaluationReport(TableReport):
    """
    An Ignite handler that scores each case and writes, when the engine has finished, `metrics.json` (definitions, a
    summary by group with confidence intervals, the worst cases, every case) and `metrics.csv`; and a folder for some
    cases, see :class:`~scripts.reporting.case_report.CaseReport`: the first ones of the datalist and the worst of all.

    Stages are scored at their own size against the ground truth averaged to that size, and compared with baselines: the
    mean training volume, the nearest training patient, and the trilinear upsampling of every stage before it, so that
    at the last size all stages are scored against the same ground truth; at the size of stage 2 also with what an atlas
    makes of them.

    Args:
        case_report: writes a case's folder.
        baselines: what the stages are compared with.
        written_cases: how many cases get a folder whatever their score, in the order of the datalist.
        worst_cases: how many of the worst cases are named and get a folder.
    """

    def __init__(self, case_report: CaseReport, baselines: Baselines, written_cases: int, worst_cases: int) -> None:
        super().__init__(case_report.output_dir, "metrics", baselines)
        self.case_report, self.written_cases = case_report, written_cases
        self.imaging, self.reprojection = case_report.imaging, case_report.reprojection
        self.worst = WorstCases(worst_cases)

    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Every stage and its baselines; writes the case's folder when it is one of those that get one."""
        truth, xrays, geometry = (label[name] for name in ("ct", "xrays", "geometry"))
        methods = [
            {f"stage {stage}": volume, **self.baselines.of_stage(volumes[:stage], truth)}
            for stage, volume in enumerate(volumes, start=1)
        ]
        if anatomy := self.baselines.of_anatomy(volumes, label, record["patient"]):
            if len(methods) < ANATOMY_STAGE:
                methods.append({"upsampled stage 1": upsample(volumes[0])})
            methods[ANATOMY_STAGE - 1] |= anatomy
        rows = [
            self._row(record, method, volume, truth, xrays, geometry)
            for of_size in methods
            for method, volume in of_size.items()
        ]
        write = partial(self.case_report.write, record, volumes, truth, xrays, geometry, rows)
        if self.place(len(self.rows)) < self.written_cases:
            write()
        else:
            last = next(row["psnr_db"] for row in rows if row["method"] == f"stage {len(volumes)}")
            self.worst.consider(last, self.case_report.folder(record["name"]), write)
        return rows

    def merge(self, records: Sequence[list[dict[str, Any]]], common: dict[str, Any]) -> None:
        """Each shard has kept the folders of its own worst cases."""
        for rows in records[self.written_cases :]:
            (case,) = worst_cases(rows, 1)
            self.worst.kept.append((case["psnr_db"], self.case_report.folder(case["case"])))
        super().merge(records, common)

    def completed(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keeps the folders of the worst cases of all processes alone."""
        worst = worst_cases(rows, self.worst.count)
        self.worst.keep_only({self.case_report.folder(case["case"]) for case in worst})
        return rows

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "definitions": {**DEFINITIONS, **INTERVAL_DEFINITION, **BASELINE_DEFINITIONS},
            "hu_window": list(self.imaging.hu_window),
            "mean_volume": self.baselines.mean_of,
            **({"only": self.case_report.only} if self.case_report.only else {}),
            "summary": summarise(rows),
            "worst_cases": worst_cases(rows, self.worst.count),
        }

    def _row(
        self,
        record: dict[str, Any],
        method: str,
        volume: torch.Tensor,
        truth: torch.Tensor,
        xrays: torch.Tensor,
        geometry: BiplanarGeometry,
    ) -> dict[str, Any]:
        size = volume.shape[-1]
        identity = (record["name"], record["patient"], record["group"], size, method)
        scores = volume_metrics(volume, truth_at(truth, size), self.imaging)
        error = self.reprojection(volume.clamp(0, 1), xrays, geometry=geometry, given=self.case_report.given).item()
        return {**dict(zip(IDENTITY_COLUMNS, identity)), **scores, "reprojection_mae": error * self.imaging.xray_scale}
