"""The report of a case in an evaluation: a folder with its volumes, X-rays, figures and page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import torch

from ..errors import OutputError, shown
from ..evaluation.measurement_intervals import MeasurementIntervals, content_with_intervals
from ..evaluation.measurements import measure
from ..io.atomic_write import NOTICE, write_atomically, write_json
from ..io.image_writer import cube_affine, write_ct, write_greyscale, write_projection
from ..io.radiograph import XRAY_KEYS
from ..losses.reprojection import DRRReprojectionLoss
from ..networks.cascade import GIVEN
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import ImagingModel
from ..radiographs.one_view import note_of
from .figures import volume_figure, xray_figure
from .measurement_table import measurement_table
from .viewer import write_view

TRUTH = "ground truth"
SHOWN_COLUMNS = {"PSNR, dB": ("psnr_db", 2), "SSIM": ("ssim", 3), "MAE, HU": ("mae_hu", 1)}
"""What the page shows of a case, by heading: the metric and its decimal places."""
OF_A_CASE = re.compile(
    r"measurements\.json|(truth|stage\d+|frontal|lateral)\.nii\.gz|(frontal|lateral|report|xrays)\.png|report\.html|\.unfinished-.+|\.DS_Store"
)
"""Names of the files in a case's folder, and of what a killed process or a file manager leaves there."""


class CaseReport:
    """
    Writes for a case the folder `cases/<case>`: both X-rays, each stage's volume and the ground truth in HU, figures,
    `measurements.json`, figures of the last stage's volume and of the ground truth, and `report.html`, a page that
    shows them.

    Args:
        output_dir: holds `cases`.
        imaging: scales of volumes and X-rays, and the nominal acquisition geometry.
        note: what a reader of the page has to know, such as that its patient was trained on.
        intervals: of the measurements, by the weights that are scored; None for none.
        only: "frontal" or "lateral" where the network is given that X-ray alone: the one that is compared, and shown.

    Raises:
        OutputError: when `cases` is there and holds anything else than the folders of an earlier evaluation.
    """

    def __init__(
        self,
        output_dir: str,
        imaging: ImagingModel,
        note: str = "",
        intervals: MeasurementIntervals | None = None,
        only: str | None = None,
    ) -> None:
        check_case_folders(os.path.join(output_dir, "cases"))
        self.output_dir, self.imaging, self.note = output_dir, imaging, " ".join(filter(None, (note_of(only), note)))
        self.intervals, self.only, self.given = intervals, only, GIVEN[only]
        self.reprojection = DRRReprojectionLoss(imaging)

    def folder(self, case: str) -> str:
        return os.path.join(self.output_dir, "cases", case)

    def write(
        self,
        record: dict[str, Any],
        volumes: Sequence[torch.Tensor],
        truth: torch.Tensor,
        xrays: torch.Tensor,
        geometry: BiplanarGeometry,
        rows: Sequence[dict[str, Any]],
    ) -> None:
        """
        Args:
            record: with its `name` and its `ct`, whose affine says where the volumes lie.
            volumes: each stage's, `(1, 1, S, S, S)`, scaled.
            truth: the ground truth, `(1, 1, S, S, S)`, scaled.
            xrays: `(1, 2, P, P)`, scaled.
            geometry: the acquisition geometry of these X-rays.
            rows: the case's scores.
        """
        folder = self.folder(record["name"])
        affine = record["ct"].affine.double()
        centre = (affine @ torch.tensor([(truth.shape[-1] - 1) / 2] * 3 + [1.0], dtype=torch.float64))[:3]
        named = {f"stage {stage}": volume.clamp(0, 1) for stage, volume in enumerate(volumes, start=1)}
        in_hu = {name: self.imaging.to_hu(volume[0, 0]) for name, volume in {TRUTH: truth, **named}.items()}
        stems = {TRUTH: "truth", **{name: name.replace(" ", "") for name in named}}
        files = {name: os.path.join(folder, f"{stem}.nii.gz") for name, stem in stems.items()}
        for name, hu in in_hu.items():
            write_ct(files[name], hu, cube_affine(len(hu), self.imaging.geometry.fov_mm, centre))
        for view in self.given:
            name, xray = XRAY_KEYS[view], xrays[0, view] * self.imaging.xray_scale
            write_projection(os.path.join(folder, f"{name}.nii.gz"), xray, self.imaging.geometry.pixel_mm)
            write_greyscale(os.path.join(folder, f"{name}.png"), xray)
        hu_truth = in_hu.pop(TRUTH)
        report = volume_figure(in_hu, hu_truth, f"{record['name']}: ground truth, each stage, each stage's error")
        write_atomically(os.path.join(folder, "report.png"), report.savefig)
        drrs = {name: self.reprojection.project(volume, geometry)[0] for name, volume in named.items()}
        reprojections = xray_figure(xrays[0], drrs, f"{record['name']}: X-rays and reprojections", self.given)
        write_atomically(os.path.join(folder, "xrays.png"), reprojections.savefig)
        page = os.path.join(folder, "report.html")
        title = f"{record['name']}: ground truth and reconstruction"
        scores = [shown_scores(row) for row in rows]
        measured = self._measured(in_hu[f"stage {len(volumes)}"], hu_truth)
        write_json(os.path.join(folder, "measurements.json"), {"notice": NOTICE, **measured})
        table = measurement_table(measured)
        shown = {"note": self.note, "measurements": table, "given": self.given}
        write_view(page, title, files, xrays[0], geometry, centre.tolist(), scores, **shown)

    def _measured(self, hu: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
        """As `infer` has it, with the ground truth's figures beside."""
        found, true = (measure(each.cpu(), self.imaging.geometry.fov_mm / len(each)) for each in (hu, truth))
        content = content_with_intervals(found, self.intervals)
        for row in content["measurements"]:
            row["ground_truth"] = true.values[row["key"]]
        return content


def check_case_folders(folder: str) -> None:
    """
    Refuses a folder `cases` in which an evaluation, which writes and removes there, could meet files of somebody's own.

    Raises:
        OutputError: when it is a link or a file, or holds anything else than folders of :data:`OF_A_CASE`.
    """
    strange = folder if os.path.islink(folder) else None
    if strange is None and os.path.lexists(folder):
        strange = next(_strange_entries(folder), None)
    if strange is not None:
        raise OutputError(
            f"{shown(strange)}: is none of an evaluation's files, expected in {shown(folder)} nothing but the folders "
            f"of an earlier evaluation, which may be removed; move it, or choose another output folder."
        )


def _strange_entries(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        yield folder
        return
    for case in os.scandir(folder):
        if case.is_dir(follow_symlinks=False):
            try:
                files = list(os.scandir(case.path))
            except FileNotFoundError:  # another shard of the evaluation has just removed it
                continue
            yield from (file.path for file in files if not (file.is_file() and OF_A_CASE.fullmatch(file.name)))
        elif not OF_A_CASE.fullmatch(case.name):
            yield case.path


def shown_scores(row: dict[str, Any]) -> dict[str, str]:
    """A row of the page's table; a dash for a number that is not finite."""
    numbers = {heading: f"{row[name]:.{places}f}" for heading, (name, places) in SHOWN_COLUMNS.items()}
    shown = {heading: text if isfinite(float(text)) else "-" for heading, text in numbers.items()}
    return {"method": row["method"], "size": f"{row['size']}³", **shown}
