"""The evaluation of X2CT-GAN on made volumes whose figures are known, and on the phantoms."""

from __future__ import annotations

import csv
import json
from math import log10
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import bundle_run_here
from scipy.interpolate import RegularGridInterpolator
from scripts.x2ct_protocol import standard_cube, x2ct_metrics


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 1400, (size,) * 3)


@pytest.mark.parametrize("offset", [1.0, 64.0, 500.0])
def test_a_constant_error_has_the_psnr_of_its_formula(offset: float):
    truth = np.round(noise(32).clip(-900, 900))
    found = x2ct_metrics(truth + offset, truth)
    assert found["psnr_db"] == pytest.approx(20 * log10(4095 / offset), abs=0.01)
    assert found["psnr_3d_db"] == pytest.approx(20 * log10(4095 / offset), abs=0.01)
    assert found["mae_scaled"] == pytest.approx(offset / 2500)
    assert found["mse_scaled"] == pytest.approx((offset / 2500) ** 2)


def test_their_window_is_wider_than_the_models_and_ends_at_1476():
    truth = np.full((16, 16, 16), 1400.0)
    assert x2ct_metrics(np.full_like(truth, 1024.0), truth)["psnr_db"] == pytest.approx(20 * log10(4095 / 376), abs=0.01)
    assert x2ct_metrics(np.full_like(truth, 1476.0), truth + 600)["psnr_db"] == 100


def test_the_same_volume_twice_has_100_decibels_and_a_similarity_of_one():
    found = x2ct_metrics(noise(16), noise(16))
    assert (found["psnr_db"], found["psnr_3d_db"], found["mae_scaled"]) == (100, 100, 0)
    assert found["ssim"] == pytest.approx(1)


@pytest.mark.parametrize(("length_mm", "middle_mm"), [(250, 0), (320, 0), (340, 10), (360, 20), (500, 20)])
def test_the_cube_is_read_at_the_points_of_theirs(length_mm: float, middle_mm: float):
    """By another interpolator, at places in mm: the first and the last lie half a millimetre inside of 320 mm."""
    size, fov_mm = 64, 360.0
    hu = noise(size)
    centres = (np.arange(size) + 0.5) * fov_mm / size - fov_mm / 2
    places = np.linspace(-159.5, 159.5, 128)
    read = RegularGridInterpolator((centres,) * 3, hu)
    some = np.s_[::9]
    expected = read(tuple(np.meshgrid(places[some], places[some], places[some] + middle_mm, indexing="ij")))
    np.testing.assert_allclose(standard_cube(hu, fov_mm, length_mm)[some, some, some], expected, atol=1e-6)


def test_the_overlay_scores_every_case_of_an_evaluation(dataset: Path, overlay: Path, tiny_bundle: Path, tmp_path: Path):
    """The figures are those of the volumes of an ordinary evaluation, whose files hold whole HU."""
    weights = tiny_bundle / "models" / "model.pt"
    two = "$scripts.load_records(@datalist, 'test')[:2]"
    configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json"]
    places = {"dataset_dir": dataset, "weights": weights, "output_dir": tmp_path, "test_records": two}
    bundle_run_here("run", [*configs, "bundle/configs/protocol_x2ct.json", str(overlay)], **places)
    report = json.loads((tmp_path / "protocol_x2ct.json").read_text())
    assert [case["case"] for case in report["cases"]] == ["phantom_5", "phantom_6"]
    assert {"cube", "not the same", "mean, low, high"} < set(report["definitions"])
    assert sum(entry["cases"] for entry in report["summary"]) == 2
    with open(tmp_path / "protocol_x2ct.csv", encoding="utf-8") as file:
        assert [float(row["psnr_db"]) for row in csv.DictReader(file)] == [case["psnr_db"] for case in report["cases"]]
    assert all(20 < case["psnr_db"] < 45 and 0 < case["ssim"] < 1 for case in report["cases"])
