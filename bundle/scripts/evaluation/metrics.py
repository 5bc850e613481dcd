"""
Metrics of a reconstruction, with one definition each.

Strict: over the whole volume, HU clipped to the model's window, [-1024, 1024] by default, data range its width, 2048.
The X2CT-compatible PSNR is there to compare with published tables and reads 10 dB and more higher for the same error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.metrics import PSNRMetric

from ..anatomy.body import TISSUES_HU, body_mask
from ..losses.ssim import structural_similarity
from ..projection.imaging import ImagingModel
from ..projection.resampling import truth_at
from .false_structures import SIGMA_MM, false_structures

if TYPE_CHECKING:
    from jaxtyping import Bool

X2CT_PEAK, X2CT_AIR_HU, X2CT_RANGE = 4095.0, -1024.0, 2500.0
X2CT_WITHOUT_ERROR_DB = 100.0
CUT_OFF = 1e-3
"""Added before decimals are cut off, so that a whole number stays what it is after scaling or interpolation."""
DEFINITIONS = {
    "psnr_db": "3-D PSNR over the whole volume, HU clipped to the window, data range = width of the window",
    "ssim": "3-D SSIM, Gaussian window 11, sigma 1.5, data range 1 on the scaled volume",
    "mae_hu": "mean absolute error over the whole volume, HU clipped to the window",
    "mae_<tissue>_hu": "the same over air and lung (ground truth < -300), soft tissue (-300 to 150), bone (> 150)",
    "psnr_body_db, mae_body_hu": "the same inside the body: the largest component of ground truth > -300 HU, with "
    "the holes of each axial slice filled",
    "reprojection_mae": "mean absolute error of both views' line integrals, or of the X-ray's that is given alone, "
    "projections of the volume against the X-rays",
    "psnr_x2ct_db": "X2CT convention: PSNR slice by slice, peak 4095, values HU + 1024 within [0, 2500] and cut to "
    "whole numbers, 100 dB for a slice without error; mean over the slices of an axis, then over the three axes. Both "
    "volumes are clipped to the model's window first; protocol_x2ct.json follows the whole protocol",
    "sharp_correlation_<part>": "of what is sharp in the volume and in the ground truth, each less its Gaussian "
    f"average of sigma {SIGMA_MM:g} mm; in the body, and in air and lung, soft tissue and bone within it",
    "sharp_energy_<part>": "sum of squares of what is sharp in the volume over that of the ground truth: 0 of a smooth "
    "volume, 1 of one as sharp as the ground truth",
    "false_energy_<part>": "the same of what is sharp in the volume and not in the ground truth: what remains of it "
    "when the best multiple, 0 or more, of the ground truth's is taken away",
}


def final_volume_and_truth(output: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """From an engine's output, the last stage's volume, clipped to [0, 1], and the ground truth at its size."""
    volume = output["pred"][-1].clamp(0, 1)
    return volume, truth_at(output["label"]["ct"], volume.shape[-1])


def volume_metrics(volume: torch.Tensor, truth: torch.Tensor, imaging: ImagingModel) -> dict[str, float]:
    """
    The metrics of :data:`DEFINITIONS` that compare two volumes.

    Args:
        volume: one scaled volume, `(1, 1, S, S, S)`; clipped to [0, 1] here.
        truth: the ground truth, the same shape, in [0, 1].
        imaging: scale of the volumes.

    Returns:
        Metric by name. A part that the ground truth does not hold has NaN.
    """
    volume = volume.clamp(0, 1)
    hu, hu_truth = imaging.to_hu(volume), imaging.to_hu(truth)
    error, body = (hu - hu_truth).abs(), body_mask(hu_truth)
    data_range = imaging.hu_window[1] - imaging.hu_window[0]
    tissues = {name: (hu_truth > low) & (hu_truth <= high) for name, (low, high) in TISSUES_HU.items()}
    parts = {"body": body} | {name: tissue & body for name, tissue in tissues.items()}
    voxel_mm = imaging.geometry.fov_mm / hu.shape[-1]
    return {
        "psnr_db": PSNRMetric(max_val=data_range)(hu, hu_truth).item(),
        "ssim": structural_similarity(volume, truth).item(),
        "mae_hu": error.mean().item(),
        **{f"mae_{name}_hu": error[tissue].mean().item() for name, tissue in tissues.items()},
        "psnr_body_db": (20 * torch.log10(data_range / error[body].square().mean().sqrt())).item(),
        "mae_body_hu": error[body].mean().item(),
        "psnr_x2ct_db": x2ct_psnr(hu[0, 0], hu_truth[0, 0]),
        **false_structures(hu, hu_truth, voxel_mm, parts),
    }


def x2ct_psnr(hu: torch.Tensor, hu_truth: torch.Tensor) -> float:
    """
    PSNR in dB of X2CT-GAN (Ying et al., 2019, arXiv:1905.06902, as its published code evaluates): slice by slice with
    a peak of 4095, averaged over the slices of each axis and then over the axes. A slice without error counts 100 dB.

    The rule is theirs on any two volumes in HU. What an evaluation hands over is not: it has been clipped to the
    model's window, which ends at 1024 HU by default, theirs at 1476. :mod:`scripts.evaluation.x2ct_protocol` has their
    protocol.

    Args:
        hu: `(X, Y, Z)`, clipped here to their window, -1024 to 1476.
        hu_truth: the same shape.
    """
    squared = (x2ct_values(hu) - x2ct_values(hu_truth)).square()
    means = [squared.movedim(axis, 0).flatten(1).mean(1) for axis in range(3)]
    decibels = [10 * torch.log10(X2CT_PEAK**2 / of_axis) for of_axis in means]
    decibels = [each.where(each.isfinite(), X2CT_WITHOUT_ERROR_DB) for each in decibels]
    return float(np.mean([of_axis.mean().item() for of_axis in decibels]))


def x2ct_values(hu: torch.Tensor) -> torch.Tensor:
    """HU as X2CT-GAN compares them: HU + 1024 within [0, 2500], decimals cut off. On the CPU, in float64."""
    return (hu.cpu().double() - X2CT_AIR_HU).clamp(0, X2CT_RANGE).add(CUT_OFF).floor()


def dice(first: Bool[np.ndarray, "*S"], second: Bool[np.ndarray, "*S"]) -> float:
    """Twice what two masks share over the sum of both (Dice 1945), 0 to 1; NaN where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else float("nan")
