from __future__ import annotations

from math import isnan, log10, nan

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from scipy import stats
from scripts.metrics import body_mask, final_volume_and_truth, mean_and_interval, truth_at, volume_metrics, x2ct_psnr

HU_WINDOW = (-1024, 1024)


def scaled(hu: torch.Tensor) -> torch.Tensor:
    return (hu + 1024) / 2048


def cube(size: int, hu: float) -> torch.Tensor:
    return torch.full((1, 1, size, size, size), hu)


def distance_from_axis(size: int) -> torch.Tensor:
    x, y = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    return (x**2 + y**2).sqrt()[None, None, :, :, None].expand(1, 1, size, size, size)


def distance_from_centre(size: int) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    return sum(axis**2 for axis in axes).sqrt()[None, None]


def test_psnr_and_mae_are_those_of_hu_with_a_range_of_2048():
    volume, truth = torch.rand(2, 1, 1, 12, 12, 12)
    metrics = volume_metrics(volume, truth, HU_WINDOW)
    error = (volume.double() - truth.double()).numpy() * 2048
    assert metrics["psnr_db"] == pytest.approx(10 * log10(2048**2 / np.mean(error**2)), abs=1e-4)
    assert metrics["mae_hu"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_a_constant_error_of_64_hu_reads_30_decibels():
    metrics = volume_metrics(scaled(cube(12, 64.0)), scaled(cube(12, 0.0)), HU_WINDOW)
    assert metrics["psnr_db"] == pytest.approx(20 * log10(2048 / 64), abs=1e-4)
    assert metrics["psnr_body_db"] == pytest.approx(metrics["psnr_db"], abs=1e-4)
    assert metrics["psnr_x2ct_db"] == pytest.approx(20 * log10(4095 / 64), abs=1e-4)
    assert metrics["mae_hu"] == metrics["mae_body_hu"] == metrics["mae_soft_hu"] == pytest.approx(64)


def test_ssim_is_monais_with_a_range_of_one():
    volume, truth = torch.rand(2, 1, 1, 14, 14, 14)
    expected = SSIMMetric(spatial_dims=3, data_range=1.0)(volume, truth).item()
    assert volume_metrics(volume, truth, HU_WINDOW)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_a_volume_is_clipped_to_the_window_before_it_is_scored():
    truth = torch.rand(1, 1, 12, 12, 12)
    wild = torch.where(truth > 0.5, truth + 1, truth - 1)
    expected = volume_metrics((truth > 0.5).float(), truth, HU_WINDOW)
    assert volume_metrics(wild, truth, HU_WINDOW) == pytest.approx(expected, nan_ok=True)


def test_each_tissue_has_the_error_that_was_made_in_it():
    truth, error = cube(12, -1000.0), cube(12, 10.0)
    truth[..., 4:8], error[..., 4:8] = 40.0, -20.0
    truth[..., 8:], error[..., 8:] = 700.0, 50.0
    metrics = volume_metrics(scaled(truth + error), scaled(truth), HU_WINDOW)
    assert metrics["mae_air_and_lung_hu"] == pytest.approx(10, abs=1e-3)
    assert metrics["mae_soft_hu"] == pytest.approx(20, abs=1e-3)
    assert metrics["mae_bone_hu"] == pytest.approx(50, abs=1e-3)
    assert metrics["mae_hu"] == pytest.approx((10 + 20 + 50) / 3, abs=1e-3)
    assert metrics["mae_body_hu"] == pytest.approx((20 + 50) / 2, abs=1e-3)


def test_the_truth_and_not_the_prediction_says_which_tissue_a_voxel_is():
    truth, volume = cube(12, 40.0), cube(12, -900.0)
    metrics = volume_metrics(scaled(volume), scaled(truth), HU_WINDOW)
    assert metrics["mae_soft_hu"] == pytest.approx(940, abs=1e-2)
    assert isnan(metrics["mae_air_and_lung_hu"])
    assert isnan(metrics["mae_bone_hu"])


def test_the_body_of_a_hollow_sphere_includes_its_cavity():
    distance = distance_from_centre(24)
    hu = torch.where((distance < 9) & (distance > 5), 0.0, -1000.0)
    assert torch.equal(body_mask(hu), distance < 9)


def test_the_body_is_the_largest_component():
    hu = cube(20, -1000.0)
    hu[..., 3:12, 3:12, 3:12] = 50.0
    hu[..., 15:18, 15:18, 15:18] = 50.0
    mask = body_mask(hu)
    assert mask.sum() == 9**3
    assert mask[..., 3:12, 3:12, 3:12].all()


def test_the_body_includes_lungs_whose_airway_leaves_the_top_of_the_ct():
    """As in every chest CT: lungs, trachea and the air above the first slice are one connected space."""
    radius, z = distance_from_axis(24), torch.arange(24)
    body = (radius < 9) & (z < 20)
    lungs = (radius < 6) & (z >= 4) & (z < 14)
    trachea = (radius < 2) & (z >= 14)
    hu = torch.where(body & ~lungs & ~trachea, 0.0, -1000.0)
    mask = body_mask(hu)
    assert (mask[lungs]).all()
    assert not mask[~body].any()


def test_the_metrics_inside_the_body_do_not_see_the_air_around_it():
    distance = distance_from_centre(24)
    truth = torch.where(distance < 9, 0.0, -1000.0)
    volume = torch.where(distance < 9, 32.0, -500.0)
    metrics = volume_metrics(scaled(volume), scaled(truth), HU_WINDOW)
    assert metrics["mae_body_hu"] == pytest.approx(32, abs=1e-3)
    assert metrics["psnr_body_db"] == pytest.approx(20 * log10(2048 / 32), abs=1e-3)


def test_the_x2ct_psnr_is_the_mean_over_the_slices_of_three_axes():
    volume, truth = (torch.rand(1, 1, 4, 4, 4, dtype=torch.float64) * 2500 for _ in range(2))
    squared = ((volume - truth)[0, 0] ** 2).numpy()
    slices = [np.take(squared, i, axis).mean() for axis in range(3) for i in range(4)]
    expected = np.mean([10 * log10(4095**2 / mse) for mse in slices])
    assert x2ct_psnr(volume, truth) == pytest.approx(expected)


def test_the_truth_at_a_smaller_size_is_its_average():
    truth = torch.rand(2, 1, 8, 8, 8)
    expected = truth.unflatten(4, (4, 2)).unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5, 7))
    torch.testing.assert_close(truth_at(truth, 4), expected)
    assert torch.equal(truth_at(truth, 8), truth)


def test_validation_scores_the_last_volume_clipped_against_the_truth_at_its_size():
    volumes = [torch.rand(1, 1, 4, 4, 4), torch.randn(1, 1, 8, 8, 8)]
    ct = torch.rand(1, 1, 16, 16, 16)
    volume, truth = final_volume_and_truth({"pred": volumes, "label": {"ct": ct}})
    assert torch.equal(volume, volumes[1].clamp(0, 1))
    assert torch.equal(truth, truth_at(ct, 8))


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_interval_is_students(confidence: float):
    values = [20.1, 22.4, 19.3, 21.0, 24.7]
    result = mean_and_interval(values, confidence)
    low, high = stats.t.interval(confidence, df=4, loc=np.mean(values), scale=stats.sem(values))
    assert result == pytest.approx({"mean": np.mean(values), "low": low, "high": high})


def test_a_single_case_has_no_interval():
    result = mean_and_interval([21.5])
    assert result["mean"] == 21.5
    assert isnan(result["low"])
    assert isnan(result["high"])


def test_a_case_without_the_tissue_does_not_count():
    assert mean_and_interval([3.0, nan, 5.0]) == pytest.approx(mean_and_interval([3.0, 5.0]))
    assert isnan(mean_and_interval([nan])["mean"])
