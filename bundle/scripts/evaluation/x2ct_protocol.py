"""
The evaluation of X2CT-GAN (Ying et al., 2019, arXiv:1905.06902), followed whole, so that one figure may be compared
with those that were published by it: their cube, resolution, window, peak and similarity, as in their published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from ..errors import InputError
from ..io.ct_reader import EXTENT_MM
from ..projection.imaging import ImagingModel
from .baselines import BASELINE_DEFINITIONS, Baselines
from .metrics import X2CT_AIR_HU, X2CT_PEAK, X2CT_RANGE, X2CT_WITHOUT_ERROR_DB, x2ct_psnr, x2ct_values
from .summary import IDENTITY_COLUMNS, INTERVAL_DEFINITION, summarise
from .table_report import TableReport

SIDE_MM, STANDARD_MM, SIZE = 320.0, 1.0, 128
X2CT_DEFINITIONS = {
    "cube": "320 mm, in the middle of the CT from right to left and from front to back; of a CT that is longer the "
    "upper 320 mm, moved down as far as the reconstruction's field of view needs, of a shorter one the middle, with "
    "air around it",
    "resolution": "128³, read linearly at 128 points of a grid of 1 mm from its first to its last, as theirs; theirs "
    "was made by cubic interpolation of the CT, ours is read from the voxels of the reconstruction's field of view, "
    "ground truth and reconstruction alike",
    "window": "HU from -1024 to 1476, the ground truth not clipped to the model's window before; a reconstruction ends "
    "at that window, 1024 by default",
    "psnr_db": "PSNR slice by slice, peak 4095, values HU + 1024 cut to whole numbers, 100 dB for a slice without "
    "error; mean over the slices of an axis, then over the three axes (their PSNR)",
    "psnr_3d_db": "PSNR over the whole cube with the same peak and values (their psnr-3d)",
    "ssim": "SSIM of scikit-image slice by slice, uniform window of 7, data range 1 on the window scaled to [0, 1]; "
    "mean over the three axes",
    "mae_scaled, mse_scaled": "mean absolute and squared error on the window scaled to [0, 1]",
    "not the same": "their patients and split; their X-rays, which a generative network makes from projections; what "
    "lies outside of the body, the table too, which they set to -1024 HU: ours is as scanned, -1000 HU and more",
}


class X2CTReport(TableReport):
    """
    An Ignite handler that scores the last stage of each case and its baselines by that protocol and writes, when the
    engine has finished, `protocol_x2ct.json` (definitions, a summary by group and method with intervals over patients,
    every case) and `protocol_x2ct.csv`.

    Args:
        output_dir: where to write.
        imaging: scale and field of view of the volumes.
        baselines: what the last stage is compared with.

    Raises:
        InputError: when the volumes' field of view is smaller than their cube.
    """

    def __init__(self, output_dir: str, imaging: ImagingModel, baselines: Baselines) -> None:
        fov_mm = imaging.geometry.fov_mm
        if fov_mm < SIDE_MM:
            raise InputError(
                f"protocol_x2ct.json: `geometry#fov_mm` is {fov_mm:g}, expected at least {SIDE_MM:g}, the side of the "
                f"protocol's cube. Evaluate weights of a larger field of view, or omit this overlay."
            )
        super().__init__(output_dir, "protocol_x2ct", baselines)
        self.imaging = imaging

    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The last stage and its baselines; the ground truth is the record's CT in HU, as it was loaded."""
        volumes = [volume.clamp(0, 1) for volume in volumes]
        methods = {f"stage {len(volumes)}": volumes[-1], **self.baselines.of_stage(volumes, label["ct"])}
        methods |= self.baselines.of_anatomy(volumes, label, record["patient"])
        fov_mm, length_mm = self.imaging.geometry.fov_mm, record["ct"].meta[EXTENT_MM][2]
        truth = standard_cube(torch.as_tensor(record["ct"])[0].cpu().numpy(), fov_mm, length_mm)
        rows = []
        for method, volume in methods.items():
            hu = self.imaging.to_hu(volume[0, 0]).cpu().numpy()
            identity = (record["name"], record["patient"], record["group"], SIZE, method)
            scores = x2ct_metrics(standard_cube(hu, fov_mm, length_mm), truth)
            rows.append({**dict(zip(IDENTITY_COLUMNS, identity)), **scores})
        return rows

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "definitions": {**X2CT_DEFINITIONS, **INTERVAL_DEFINITION, **BASELINE_DEFINITIONS},
            "mean_volume": self.baselines.mean_of,
            "summary": summarise(rows),
        }


def standard_cube(hu: np.ndarray, fov_mm: float, length_mm: float) -> np.ndarray:
    """
    Their cube of a volume.

    Args:
        hu: `(S, S, S)`, RAS+, a field of view in the middle of the CT.
        fov_mm: its side.
        length_mm: of the CT, from inferior to superior.

    Returns:
        `(128, 128, 128)` in HU.
    """
    voxel_mm = fov_mm / len(hu)
    highest = (fov_mm - SIDE_MM) / 2
    middle = np.array([0.0, 0.0, min(max((length_mm - SIDE_MM) / 2, 0.0), highest)])
    points = int(SIDE_MM / STANDARD_MM)
    step_mm = STANDARD_MM * (points - 1) / (SIZE - 1)
    first_mm = middle - SIDE_MM / 2 + STANDARD_MM / 2
    first = (first_mm + fov_mm / 2) / voxel_mm - 0.5
    return ndimage.affine_transform(
        hu.astype(np.float64), np.eye(3) * step_mm / voxel_mm, first, (SIZE,) * 3, order=1, mode="nearest"
    )


def x2ct_metrics(hu: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The metrics of :data:`X2CT_DEFINITIONS` of two cubes in HU, `(S, S, S)`."""
    scaled, scaled_truth = (np.clip((each - X2CT_AIR_HU) / X2CT_RANGE, 0, 1) for each in (hu, truth))
    volume, volume_truth = torch.from_numpy(hu), torch.from_numpy(truth)
    squared = (x2ct_values(volume) - x2ct_values(volume_truth)).square().mean().item()
    axes = [
        structural_similarity(scaled_truth, scaled, data_range=1.0, win_size=7, channel_axis=axis) for axis in range(3)
    ]
    return {
        "psnr_db": x2ct_psnr(volume, volume_truth),
        "psnr_3d_db": float(10 * np.log10(X2CT_PEAK**2 / squared)) if squared else X2CT_WITHOUT_ERROR_DB,
        "ssim": float(np.mean(axes)),
        "mae_scaled": float(np.abs(scaled - scaled_truth).mean()),
        "mse_scaled": float(np.square(scaled - scaled_truth).mean()),
    }
