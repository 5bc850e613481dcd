"""Evaluation of every stage against the truth, beside its baselines, case by case."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, decollate_batch
from monai.transforms import ScaleIntensityRange
from torch.nn.functional import adaptive_avg_pool2d

from .attenuation import scaled_to_hu
from .files import cube_affine, write_ct, write_film, write_film_picture, write_json, write_whole
from .geometry import BiplanarGeometry
from .losses import DRRReprojectionLoss
from .metrics import DEFINITIONS, mean_and_interval, truth_at, volume_metrics
from .pictures import volume_figure, xray_figure
from .stages import upsample

IDENTITY_COLUMNS = ("case", "group", "size", "method")


def mean_volume(dataset: Dataset, draws: int, hu_window: Sequence[float]) -> torch.Tensor:
    """
    The mean truth `(1, 1, S, S, S)`, scaled, of `draws` records spread over a dataset with the CTs in HU, as they come
    out of its transforms.
    """
    scale = ScaleIntensityRange(*hu_window, b_min=0.0, b_max=1.0, clip=True)
    volumes = (scale(torch.as_tensor(dataset[i * len(dataset) // draws]["ct"])) for i in range(draws))
    return sum(volumes)[None] / draws


class EvaluationReport:
    """
    An Ignite handler that scores each case and writes, when the engine has finished, `metrics.json` (definitions, a
    summary by group with confidence intervals, every case) and `metrics.csv`; and for each case a folder
    `cases/<case>` with both X-rays, each stage's volume and the truth in HU, and the pictures.

    Stages are scored at their own size against the truth averaged to that size. Beside each stage stand the mean
    training volume and the trilinear upsampling of the stage before it.

    Args:
        output_dir: where to write.
        geometry: the set-up of the X-rays.
        hu_window: lowest and highest HU of the scale.
        xray_scale: line integral that the X-rays' scale calls 1.
        mean_volume: `(1, 1, S, S, S)`, scaled, see :func:`mean_volume`.
        written_cases: how many cases get a folder, in the order of the datalist.
    """

    def __init__(
        self,
        output_dir: str,
        geometry: BiplanarGeometry,
        hu_window: Sequence[float],
        xray_scale: float,
        mean_volume: torch.Tensor,
        written_cases: int,
    ) -> None:
        self.output_dir, self.geometry, self.hu_window = output_dir, geometry, tuple(hu_window)
        self.mean_volume, self.written_cases, self.xray_scale = mean_volume, written_cases, xray_scale
        self.reprojection = DRRReprojectionLoss(geometry, hu_window, xray_scale)
        self.rows: list[dict[str, Any]] = []
        self.cases = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def score(self, engine: Engine) -> None:
        """Scores the cases of one batch."""
        output, batch = engine.state.output, decollate_batch(engine.state.batch)
        for index, record in enumerate(batch):
            volumes = [volume[index : index + 1].float() for volume in output["pred"]]
            truth, xrays = (output["label"][key][index : index + 1].float() for key in ("ct", "xrays"))
            self.rows += self._rows(record, volumes, truth, xrays)
            if self.cases < self.written_cases:
                self._write_case(record, volumes, truth, xrays)
            self.cases += 1

    def write(self, engine: Engine) -> None:
        """Writes `metrics.json` and `metrics.csv`."""
        report = {
            "notice": "Research use only, not for diagnosis",
            "definitions": DEFINITIONS,
            "hu_window": list(self.hu_window),
            "summary": summarise(self.rows),
            "cases": self.rows,
        }
        write_json(os.path.join(self.output_dir, "metrics.json"), report)
        write_whole(os.path.join(self.output_dir, "metrics.csv"), self._write_csv)

    def _rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], truth: torch.Tensor, xrays: torch.Tensor
    ) -> list[dict[str, Any]]:
        rows = []
        for stage, volume in enumerate(volumes, start=1):
            size = volume.shape[-1]
            methods = {f"stage {stage}": volume, "mean volume": truth_at(self.mean_volume.to(volume), size)}
            if stage > 1:
                methods[f"upsampled stage {stage - 1}"] = upsample(volumes[stage - 2])
            for method, candidate in methods.items():
                scores = volume_metrics(candidate, truth_at(truth, size), self.hu_window)
                error = self.reprojection(candidate.clamp(0, 1), xrays).item() * self.xray_scale
                identity = dict(zip(IDENTITY_COLUMNS, (record["name"], record["group"], size, method)))
                rows.append({**identity, **scores, "reprojection_mae": error})
        return rows

    def _write_case(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], truth: torch.Tensor, xrays: torch.Tensor
    ) -> None:
        folder = os.path.join(self.output_dir, "cases", record["name"])
        affine = record["ct"].affine.double()
        centre = (affine @ torch.tensor([(truth.shape[-1] - 1) / 2] * 3 + [1.0], dtype=torch.float64))[:3]
        named = {f"stage {stage}": volume.clamp(0, 1) for stage, volume in enumerate(volumes, start=1)}
        volumes_and_truth = {**named, "truth": truth}
        in_hu = {name: scaled_to_hu(volume[0, 0], self.hu_window) for name, volume in volumes_and_truth.items()}
        for name, hu in in_hu.items():
            path = os.path.join(folder, f"{name.replace(' ', '')}.nii.gz")
            write_ct(path, hu, cube_affine(len(hu), self.geometry.fov_mm, centre))
        for name, film in zip(("frontal", "lateral"), xrays[0] * self.xray_scale):
            write_film(os.path.join(folder, f"{name}.nii.gz"), film, self.geometry.pixel_mm)
            write_film_picture(os.path.join(folder, f"{name}.png"), film)
        hu_truth = in_hu.pop("truth")
        title = f"{record['name']}: truth, each stage, and each stage's error"
        report = volume_figure(in_hu, hu_truth, title)
        write_whole(os.path.join(folder, "report.png"), report.savefig)
        drrs = {name: self.reprojection.project(volume)[0] for name, volume in named.items()}
        films = xray_figure(xrays[0], drrs, f"{record['name']}: X-rays and reprojections")
        write_whole(os.path.join(folder, "xrays.png"), films.savefig)

    def _write_csv(self, path: str) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            table.writeheader()
            table.writerows(self.rows)


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per group, size and method: the number of cases and every metric's mean with its 95 % interval."""
    keys = dict.fromkeys((row["group"], row["size"], row["method"]) for row in rows)
    summary = []
    for group, size, method in keys:
        chosen = [row for row in rows if (row["group"], row["size"], row["method"]) == (group, size, method)]
        metrics = {
            name: mean_and_interval([row[name] for row in chosen]) for name in chosen[0] if name not in IDENTITY_COLUMNS
        }
        summary.append({"group": group, "size": size, "method": method, "cases": len(chosen), **metrics})
    return summary
