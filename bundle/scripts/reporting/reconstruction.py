"""From the network's prediction to files: HU, an affine, a preview."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch.nn.functional import adaptive_avg_pool3d

from ..anatomy.body import MASK_SIZE, body_mask
from ..errors import InputError
from ..evaluation.measured_volume import MEASUREMENTS_KEY
from ..evaluation.out_of_distribution import FAMILIARITY_KEY
from ..evaluation.prediction_intervals import CALIBRATION_KEY, UNCERTAINTY_KEY
from ..io.atomic_write import NOTICE, remove_earlier, write_atomically, write_json
from ..io.dicom_ct_writer import check_series_folder, read_identification, write_ct_series
from ..io.image_writer import cube_affine, write_ct
from ..io.radiograph import XRAY_KEYS
from ..io.run_manifest import RUN, RunManifest
from ..networks.cascade import GIVEN
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import ImagingModel
from ..radiographs.calibration import CALIBRATION_KEY as PAIR_CALIBRATION_KEY
from ..radiographs.calibration import pair_of_content
from ..radiographs.one_view import note_of, only_of
from ..radiographs.transforms import GEOMETRY_KEY
from .calibration_figure import calibration_figure
from .figures import preview_figure
from .measurement_table import MeasurementTable, measurement_table
from .viewer import write_view

ASSESSMENTS = ("uncertainty.nii.gz", "uncertainty.json", "familiarity.json")
MEASUREMENTS = "measurements.json"
CALIBRATION = ("calibration.json", "calibration.png")
RESULTS = ("ct.nii.gz", "ct_dicom", "preview.png", "view.html", RUN, MEASUREMENTS, *CALIBRATION, *ASSESSMENTS)
"""All that :class:`SaveReconstructiond` may write."""
NOTE_KEY = "note"
"""Of a record: what the pictures of its result say of it."""


class ToHUd(Transform):
    """
    Brings `pred` to Hounsfield units, the affine of a field of view centred on the isocentre (RAS+), and the CPU.

    Args:
        imaging: scale and field of view of the volumes; what lies outside the scale is clipped.
    """

    def __init__(self, imaging: ImagingModel) -> None:
        self.imaging = imaging

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = self.imaging.to_hu(torch.as_tensor(record["pred"]).float().cpu().clamp(0, 1))
        return {**record, "pred": MetaTensor(hu, affine=cube_affine(hu.shape[-1], self.imaging.geometry.fov_mm))}


class WarnOfCutBodyd(Transform):
    """
    Warns when the body of `pred`, in HU, reaches a lateral, the anterior or the posterior face of the reconstruction
    volume, and leaves the record a `note` of it: the body is wider than that. A radiograph shows all of it, and the
    volume has to hold in itself what lies outside.

    Args:
        smallest: fraction of a face that the body has to cover.

    Warns:
        UserWarning: which faces it reaches.
    """

    def __init__(self, smallest: float) -> None:
        self.smallest = smallest

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu, affine = record["pred"].as_tensor(), record["pred"].affine
        mask = body_mask(adaptive_avg_pool3d(hu[None], min(MASK_SIZE, hu.shape[-1])))[0, 0]
        faces = {"left": mask[0], "right": mask[-1], "posterior": mask[:, 0], "anterior": mask[:, -1]}
        reached = [name for name, face in faces.items() if face.float().mean() > self.smallest]
        if not reached:
            return dict(record)
        side_mm = hu.shape[-1] * float(affine[0, 0])
        wider = f"the body is wider than the reconstruction volume of {side_mm:g} mm"
        which = f"{', '.join(reached)} face"
        warnings.warn(
            f"field 'frontal': {wider}, expected one within it. It reaches the volume's {which}: what lies outside is "
            f"missing, and what is near to that face is not reliable.",
            stacklevel=2,
        )
        return {**record, NOTE_KEY: f"{wider.capitalize()}: near its {which} nothing is reliable."}


class SaveReconstructiond(Transform):
    """
    Writes `ct.nii.gz` (HU), `preview.png` (the X-rays, two or one, and three planes), `view.html`, a page that shows
    them, and `ct_dicom` when asked. A record with `uncertainty` gets `uncertainty.nii.gz`, `uncertainty.json`, which
    says what the half-widths rest on, and their slice in the preview, one with `familiarity` gets `familiarity.json`.
    One with `pair_calibration`, whose radiographs have no size of their own, gets `calibration.json`, what was found
    and by what evidence, and `calibration.png`, its figure, which the page shows as well. One with `measurements` gets
    `measurements.json`, and their table on the page. Preview and page show a record's `note`. What the folder holds of
    these from an earlier run goes when the new `ct.nii.gz` is whole, so that two patients never lie side by side. Its
    `run.json`, see :class:`~scripts.RunManifest`, goes first, and the new one comes last: where it is, all is.

    Args:
        output_dir: where to.
        geometry: of the acquisition; the record's `geometry`, see :class:`~scripts.GeometryFromRadiographsd`, overrides
            it.
        dicom: whether to write the folder `ct_dicom` as well, a DICOM CT series of the same HU.
        copy_patient_from: DICOM file of which the series takes the patient's and the study's identification; by default
            it names nobody.
        xray_scale: line integral that is 1 in the record's `image`.
        manifest: writes `run.json`; None for none.

    Raises:
        InputError: when there is no series to copy to, or nothing to copy, see :func:`read_identification`; or when
            `ct_dicom` holds other files than an earlier series.
        OutputError: when a result cannot be written.
    """

    def __init__(
        self,
        output_dir: str,
        geometry: BiplanarGeometry,
        dicom: bool = False,
        copy_patient_from: str | None = None,
        xray_scale: float = 1.0,
        manifest: RunManifest | None = None,
    ) -> None:
        if copy_patient_from and not dicom:
            raise InputError("copy_patient needs dicom: only the DICOM series names a patient; set both, or neither.")
        self.output_dir, self.geometry, self.dicom, self.xray_scale = output_dir, geometry, dicom, xray_scale
        self.manifest = manifest
        self.identification = read_identification(copy_patient_from) if copy_patient_from else None

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu, affine = record["pred"][0].as_tensor(), record["pred"].affine
        ct, series, preview, view, run, measured, found, picture, *assessments = (
            os.path.join(self.output_dir, name) for name in RESULTS
        )
        check_series_folder(series)
        remove_earlier(run)
        write_ct(ct, hu, affine)
        for earlier in (series, preview, view, measured, found, picture, *assessments):
            remove_earlier(earlier)
        if self.dicom:
            write_ct_series(series, hu, affine, self.identification, only_of(record))
        xrays = torch.as_tensor(record["image"]).float()
        geometry = replace(self.geometry, **record.get(GEOMETRY_KEY, {}))
        note, given = note_of_record(record), GIVEN[only_of(record)]
        figure = preview_figure(xrays, hu, title=note, given=given, **_write_assessments(record, *assessments))
        write_atomically(preview, figure.savefig)
        figures = _write_calibration(record, xrays * self.xray_scale, geometry, found, picture)
        table = _write_measurements(record, measured)
        title = f"Reconstruction from {'two X-rays' if len(given) == 2 else 'one X-ray'}, {len(hu)}³"
        shown: dict[str, Any] = {"note": note, "figures": figures, "measurements": table, "given": given}
        write_view(view, title, {"reconstruction": ct}, xrays, geometry, **shown)
        if self.manifest is not None:
            self.manifest.write(run)
        return dict(record)


def note_of_record(record: Mapping[Hashable, Any]) -> str:
    """What the pictures of a record's result say of it: that it is of one view, and its `note`; "" for nothing."""
    return " ".join(filter(None, (note_of(only_of(record)), record.get(NOTE_KEY, ""))))


def _write_calibration(
    record: Mapping[Hashable, Any], line_integrals: torch.Tensor, geometry: BiplanarGeometry, found: str, picture: str
) -> dict[str, bytes]:
    """Writes :data:`CALIBRATION` where the pair calibrated itself; returns the figure for the page, by its heading."""
    if PAIR_CALIBRATION_KEY not in record:
        return {}
    kept = record[PAIR_CALIBRATION_KEY]
    content = json.loads(kept["content"])
    write_json(found, {"notice": NOTICE, **content})
    shown, seen, *before = (
        torch.as_tensor(each).cpu().numpy()
        for each in (line_integrals, kept["seen"], *(kept[key] for key in XRAY_KEYS))
    )
    pair, image = pair_of_content(content, shown, seen), io.BytesIO()
    calibration_figure(pair, before, geometry).savefig(image, format="png")
    write_atomically(picture, lambda path: Path(path).write_bytes(image.getvalue()))
    return {"Calibration of the pair": image.getvalue()}


def _write_measurements(record: Mapping[Hashable, Any], path: str) -> MeasurementTable:
    """Writes :data:`MEASUREMENTS` where the record has them; returns their table for the page."""
    if MEASUREMENTS_KEY not in record:
        return MeasurementTable([], [])
    write_json(path, {"notice": NOTICE, **record[MEASUREMENTS_KEY]})
    return measurement_table(record[MEASUREMENTS_KEY])


def _write_assessments(
    record: Mapping[Hashable, Any], half_widths: str, basis: str, familiarity: str
) -> dict[str, Any]:
    """Writes those of :data:`ASSESSMENTS` that the record has; returns what the preview shows of them."""
    if FAMILIARITY_KEY in record:
        write_json(familiarity, record[FAMILIARITY_KEY])
    if UNCERTAINTY_KEY not in record:
        return {}
    half_width = record[UNCERTAINTY_KEY]
    calibration = half_width.meta[CALIBRATION_KEY]
    write_ct(half_widths, half_width[0].as_tensor(), half_width.affine)
    write_json(basis, {"notice": NOTICE, **calibration.as_content()})
    return {"half_width": half_width[0].as_tensor(), "calibration": calibration.label}
