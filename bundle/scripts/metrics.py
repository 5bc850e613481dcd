"""
Metrics of a reconstruction, with one definition each.

Strict: over the whole cube, HU clipped to the model's window, [-1024, 1024] by default, data range its width, 2048.
The X2CT-compatible PSNR is there to compare with published tables and reads 10 dB and more higher for the same error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import PSNRMetric
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage, stats
from torch.nn.functional import adaptive_avg_pool3d

from .attenuation import scaled_to_hu
from .ssim import structural_similarity

TISSUES_HU = {"air_and_lung": (-torch.inf, -300.0), "soft": (-300.0, 150.0), "bone": (150.0, torch.inf)}
X2CT_PEAK = 4095.0
AXIAL_CROSS = np.pad(ndimage.generate_binary_structure(2, 1)[:, :, None], ((0, 0), (0, 0), (1, 1)))
"""A voxel and its four neighbours in the axial plane."""

DEFINITIONS = {
    "psnr_db": "3-D PSNR over the whole cube, HU clipped to the window, data range = width of the window",
    "ssim": "3-D SSIM, Gaussian window 11, sigma 1.5, data range 1 on the scaled volume",
    "mae_hu": "mean absolute error over the whole cube, HU clipped to the window",
    "mae_<tissue>_hu": "the same over air and lung (truth < -300), soft tissue (-300 to 150), bone (> 150)",
    "psnr_body_db, mae_body_hu": "the same inside the body: the largest component of truth > -300 HU, with the holes of each "
    "axial slice filled",
    "reprojection_mae": "mean absolute error of both views' line integrals, projections of the volume against the X-rays",
    "psnr_x2ct_db": "X2CT convention: mean of per-slice PSNR over three axes, peak 4095, values HU + 1024",
}


def final_volume_and_truth(output: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """From an engine's output, the last stage's volume, clipped to [0, 1], and the truth at its size."""
    volume = output["pred"][-1].clamp(0, 1)
    return volume, truth_at(output["label"]["ct"], volume.shape[-1])


def truth_at(truth: torch.Tensor, size: int) -> torch.Tensor:
    """The truth `(B, 1, S, S, S)`, averaged to `size` voxels a side."""
    return adaptive_avg_pool3d(truth, size)


def volume_metrics(
    volume: torch.Tensor, truth: torch.Tensor, hu_window: Sequence[float]
) -> dict[str, float]:
    """
    The metrics of :data:`DEFINITIONS` that compare two volumes.

    Args:
        volume: one scaled volume, `(1, 1, S, S, S)`; clipped to [0, 1] here.
        truth: the same shape, in [0, 1].
        hu_window: lowest and highest HU of the scale.

    Returns:
        Metric by name. A tissue that the truth does not hold has NaN.
    """
    volume = volume.clamp(0, 1)
    hu, hu_truth = scaled_to_hu(volume, hu_window), scaled_to_hu(truth, hu_window)
    error, body = (hu - hu_truth).abs(), body_mask(hu_truth)
    data_range = hu_window[1] - hu_window[0]
    tissues = {
        f"mae_{name}_hu": error[(hu_truth > low) & (hu_truth <= high)].mean().item()
        for name, (low, high) in TISSUES_HU.items()
    }
    return {
        "psnr_db": PSNRMetric(max_val=data_range)(hu, hu_truth).item(),
        "ssim": structural_similarity(volume, truth).item(),
        "mae_hu": error.mean().item(),
        **tissues,
        "psnr_body_db": (20 * torch.log10(data_range / error[body].square().mean().sqrt())).item(),
        "mae_body_hu": error[body].mean().item(),
        "psnr_x2ct_db": x2ct_psnr(hu - hu_window[0], hu_truth - hu_window[0]),
    }


def x2ct_psnr(volume: torch.Tensor, truth: torch.Tensor) -> float:
    """PSNR of X2CT-GAN (Ying et al., 2019, arXiv:1905.06902): per slice, peak 4095, averaged over slices and axes."""
    squared = (volume - truth)[0, 0].square()
    slices = [squared.movedim(axis, 0).flatten(1).mean(1) for axis in range(3)]
    return (10 * torch.log10(X2CT_PEAK**2 / torch.cat(slices).clamp(min=1e-6))).mean().item()


def body_mask(hu: torch.Tensor) -> torch.Tensor:
    """
    The body in `(1, 1, S, S, S)` HU: the largest component above -300 HU, with the holes of each axial slice filled.
    Boolean, the same shape. In three dimensions the lungs are no hole: the airway joins them to the air above the head.
    """
    mask = KeepLargestConnectedComponent(applied_labels=[1])((hu[0].cpu() > -300).float())[0]
    return torch.from_numpy(ndimage.binary_fill_holes(mask.numpy(), AXIAL_CROSS)).to(hu.device)[None, None]


def mean_and_interval(values: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Mean over cases and the two-sided Student-t interval of that mean; a single case has no interval (NaN)."""
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    if len(sample) < 2:
        return {"mean": float(sample.mean()) if len(sample) else float("nan"), "low": float("nan"), "high": float("nan")}
    half = stats.sem(sample) * stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
    return {"mean": float(sample.mean()), "low": float(sample.mean() - half), "high": float(sample.mean() + half)}
