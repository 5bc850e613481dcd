from __future__ import annotations

from math import isnan, log10, nan

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from phantoms import chest_imaging
from scripts import demo_ct
from scripts.anatomy.body import body_mask
from scripts.evaluation.metrics import final_volume_and_truth, volume_metrics, x2ct_psnr
from scripts.evaluation.summary import mean_and_interval
from scripts.projection.resampling import truth_at

IMAGING = chest_imaging()


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
    metrics = volume_metrics(volume, truth, IMAGING)
    error = (volume.double() - truth.double()).numpy() * 2048
    assert metrics["psnr_db"] == pytest.approx(10 * log10(2048**2 / np.mean(error**2)), abs=1e-4)
    assert metrics["mae_hu"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_a_constant_error_of_64_hu_reads_30_decibels():
    metrics = volume_metrics(scaled(cube(12, 64.0)), scaled(cube(12, 0.0)), IMAGING)
    assert metrics["psnr_db"] == pytest.approx(20 * log10(2048 / 64), abs=1e-4)
    assert metrics["psnr_body_db"] == pytest.approx(metrics["psnr_db"], abs=1e-4)
    assert metrics["psnr_x2ct_db"] == pytest.approx(20 * log10(4095 / 64), abs=1e-4)
    assert metrics["mae_hu"] == metrics["mae_body_hu"] == metrics["mae_soft_hu"] == pytest.approx(64)


def test_ssim_is_monais_with_a_range_of_one():
    volume, truth = torch.rand(2, 1, 1, 14, 14, 14)
    expected = SSIMMetric(spatial_dims=3, data_range=1.0)(volume, truth).item()
    assert volume_metrics(volume, truth, IMAGING)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_a_volume_is_clipped_to_the_window_before_it_is_scored():
    truth = torch.rand(1, 1, 12, 12, 12)
    wild = torch.where(truth > 0.5, truth + 1, truth - 1)
    expected = volume_metrics((truth > 0.5).float(), truth, IMAGING)
    assert volume_metrics(wild, truth, IMAGING) == pytest.approx(expected, nan_ok=True)


def test_each_tissue_has_the_error_that_was_made_in_it():
    truth, error = cube(12, -1000.0), cube(12, 10.0)
    truth[..., 4:8], error[..., 4:8] = 40.0, -20.0
    truth[..., 8:], error[..., 8:] = 700.0, 50.0
    metrics = volume_metrics(scaled(truth + error), scaled(truth), IMAGING)
    assert metrics["mae_air_and_lung_hu"] == pytest.approx(10, abs=1e-3)
    assert metrics["mae_soft_hu"] == pytest.approx(20, abs=1e-3)
    assert metrics["mae_bone_hu"] == pytest.approx(50, abs=1e-3)
    assert metrics["mae_hu"] == pytest.approx((10 + 20 + 50) / 3, abs=1e-3)
    assert metrics["mae_body_hu"] == pytest.approx((20 + 50) / 2, abs=1e-3)


def test_the_truth_and_not_the_prediction_says_which_tissue_a_voxel_is():
    truth, volume = cube(12, 40.0), cube(12, -900.0)
    metrics = volume_metrics(scaled(volume), scaled(truth), IMAGING)
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
    metrics = volume_metrics(scaled(volume), scaled(truth), IMAGING)
    assert metrics["mae_body_hu"] == pytest.approx(32, abs=1e-3)
    assert metrics["psnr_body_db"] == pytest.approx(20 * log10(2048 / 32), abs=1e-3)


def published_x2ct_psnr(hu: np.ndarray, hu_truth: np.ndarray) -> float:
    """The rule as the published evaluation states it, slice by slice, in plain NumPy."""
    of_axes = []
    for axis in range(3):
        of_slices = []
        for slice_, slice_truth in zip(np.moveaxis(hu, axis, 0), np.moveaxis(hu_truth, axis, 0)):
            shown, true = (np.clip(each + 1024, 0, 2500).astype(np.int32) for each in (slice_, slice_truth))
            error = np.mean((shown - true).astype(float) ** 2)
            of_slices.append(100.0 if error == 0 else 20 * log10(4095 / error**0.5))
        of_axes.append(np.mean(of_slices))
    return float(np.mean(of_axes))


def x2ct_pair(kind: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(0).uniform(-1300, 1900, (2, 10, 12, 14))
    volume, truth = drawn
    if kind == "a slice without error":
        volume[3], volume[..., 5] = truth[3], truth[..., 5]
    if kind == "no error":
        volume = truth.copy()
    if kind == "one voxel":
        volume = truth.copy()
        volume[2, 3, 4], truth[2, 3, 4] = 700.0, 500.0
    if kind == "whole HU":
        volume, truth = np.round(volume), np.round(truth)
    if kind == "decimals":
        truth = np.round(truth)
        volume = truth + np.random.default_rng(1).uniform(0.1, 1.4, truth.shape)
    return volume, truth


KINDS = ["noise beyond the window", "a slice without error", "no error", "one voxel", "whole HU", "decimals"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_x2ct_psnr_is_that_of_the_published_rule(kind: str):
    volume, truth = x2ct_pair(kind)
    found = x2ct_psnr(torch.from_numpy(volume), torch.from_numpy(truth))
    assert found == pytest.approx(published_x2ct_psnr(volume, truth), abs=0.01)
    if kind == "no error":
        assert found == 100


def test_whole_hu_in_float32_are_not_cut_to_the_number_below():
    """In a scale of [0, 1] and back, which for one in twenty of these gives a little less than it was."""
    hu = torch.arange(-900.0, 900.0).view(10, 10, 18)
    there_and_back = ((hu + 1000) / 2500) * 2500 - 1000
    assert (there_and_back < hu).any()
    assert x2ct_psnr(there_and_back, hu) == 100


@pytest.fixture(scope="module")
def chest() -> torch.Tensor:
    """A real chest CT at 3 mm and more, in HU, `(1, 1, S, S, S)`."""
    image = nibabel.load(demo_ct())
    hu = torch.from_numpy(image.get_fdata(dtype=np.float32))[::4, ::4]
    return hu[None, None]


def test_the_body_of_a_real_ct_is_what_monai_and_scipy_find(chest: torch.Tensor):
    """By another route: MONAI's largest component, its holes filled slice by slice."""
    largest = KeepLargestConnectedComponent(applied_labels=[1])((chest[0] > -300).float())[0].numpy().astype(bool)
    filled = np.stack([ndimage.binary_fill_holes(largest[..., z]) for z in range(largest.shape[-1])], axis=-1)
    assert np.array_equal(body_mask(chest)[0, 0].numpy(), filled)


def test_a_volume_of_air_has_no_body():
    assert not body_mask(cube(8, -1000.0)).any()


def test_psnr_and_ssim_of_a_real_ct_are_those_of_scikit_image(chest: torch.Tensor):
    truth = scaled(chest[..., :64, :64, :64].clamp(*IMAGING.hu_window)).double()
    volume = (truth + 0.05 * torch.randn_like(truth)).clamp(0, 1)
    arrays = [each[0, 0].numpy() for each in (truth, volume)]
    found = volume_metrics(volume, truth, IMAGING)
    assert found["psnr_db"] == pytest.approx(peak_signal_noise_ratio(*arrays, data_range=1.0), abs=1e-4)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    similarity = structural_similarity(*arrays, data_range=1.0, full=True, **gaussian)[1]
    assert found["ssim"] == pytest.approx(similarity[5:-5, 5:-5, 5:-5].mean(), abs=1e-4)


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
