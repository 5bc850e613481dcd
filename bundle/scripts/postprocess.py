"""From the network's prediction to files: HU, an affine, a preview."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from .attenuation import scaled_to_hu
from .dicom_export import check_series_folder, read_identification, write_ct_series
from .errors import InputError
from .files import cube_affine, remove_earlier, write_ct, write_whole
from .pictures import preview_figure


class ToHUd(Transform):
    """
    Gives `pred` its Hounsfield units and its place: RAS+, a cube centred on the isocentre.

    Args:
        hu_window: lowest and highest HU of the model's scale; what lies outside is clipped.
        fov_mm: side of the cube.
    """

    def __init__(self, hu_window: Sequence[float], fov_mm: float) -> None:
        self.hu_window, self.fov_mm = tuple(hu_window), fov_mm

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = scaled_to_hu(torch.as_tensor(record["pred"]).float().clamp(0, 1), self.hu_window)
        return {**record, "pred": MetaTensor(hu, affine=cube_affine(hu.shape[-1], self.fov_mm))}


class SaveReconstructiond(Transform):
    """
    Writes `ct.nii.gz` (HU) and `preview.png` (both X-rays and three planes), and `ct_dicom` when asked. What the folder
    holds of these from an earlier run goes when the new `ct.nii.gz` is whole, so that two patients never lie side by side.

    Args:
        output_dir: where to.
        dicom: whether to write the folder `ct_dicom` as well, a DICOM CT series of the same HU.
        copy_patient_from: DICOM file of which the series takes the patient's and the study's identification; by default
            it names nobody.

    Raises:
        InputError: when there is no series to copy to, or nothing to copy, see :func:`read_identification`; or when
            `ct_dicom` holds other files than an earlier series.
        OutputError: when a result cannot be written.
    """

    def __init__(self, output_dir: str, dicom: bool = False, copy_patient_from: str | None = None) -> None:
        if copy_patient_from and not dicom:
            raise InputError("copy_patient needs dicom: only the DICOM series names a patient; set both, or neither.")
        self.output_dir, self.dicom = output_dir, dicom
        self.identification = read_identification(copy_patient_from) if copy_patient_from else None

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu, affine = record["pred"][0].as_tensor(), record["pred"].affine
        ct, series, preview = (os.path.join(self.output_dir, name) for name in ("ct.nii.gz", "ct_dicom", "preview.png"))
        check_series_folder(series)
        write_ct(ct, hu, affine)
        for earlier in (series, preview):
            remove_earlier(earlier)
        if self.dicom:
            write_ct_series(series, hu, affine, self.identification)
        picture = preview_figure(torch.as_tensor(record["image"]).float(), hu)
        write_whole(preview, picture.savefig)
        return dict(record)
