"""The evaluation of X2CT-GAN on made volumes whose figures are known, and on the phantoms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from math import log10
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, list_data_collate
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import map_coordinates

from bundle_runs import bundle_run_here
from fake_gpu import fake_gpu
from phantoms import chest_imaging
from scripts import Baselines, InputError, X2CTReport
from scripts.data.transforms import EXTENT_MM
from scripts.evaluation.summary import IDENTITY_COLUMNS
from scripts.evaluation.x2ct_protocol import standard_cube, x2ct_metrics


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
    found = x2ct_metrics(np.full_like(truth, 1024.0), truth)["psnr_db"]
    assert found == pytest.approx(20 * log10(4095 / 376), abs=0.01)
    assert x2ct_metrics(np.full_like(truth, 1476.0), truth + 600)["psnr_db"] == 100


def test_the_same_volume_twice_has_100_decibels_and_a_similarity_of_one():
    found = x2ct_metrics(noise(16), noise(16))
    assert (found["psnr_db"], found["psnr_3d_db"], found["mae_scaled"]) == (100, 100, 0)
    assert found["ssim"] == pytest.approx(1)


def test_the_similarity_is_that_of_wangs_formula_with_a_uniform_window():
    """Windows of 7 x 7 taken one by one, sample variances, K1 0.01 and K2 0.03, the mean of all slices of all axes."""
    truth = noise(10)
    volume = truth + np.random.default_rng(1).normal(0, 300, truth.shape)
    scaled = [np.clip((each + 1024) / 2500, 0, 1) for each in (volume, truth)]
    similarities = []
    for axis in range(3):
        for first, second in zip(*(np.moveaxis(each, axis, 0) for each in scaled)):
            for row, column in np.ndindex(4, 4):
                a, b = (each[row : row + 7, column : column + 7].ravel() for each in (first, second))
                (spread_a, both), (_, spread_b) = np.cov(a, b)
                luminance = (2 * a.mean() * b.mean() + 0.01**2) / (a.mean() ** 2 + b.mean() ** 2 + 0.01**2)
                similarities.append(luminance * (2 * both + 0.03**2) / (spread_a + spread_b + 0.03**2))
    assert x2ct_metrics(volume, truth)["ssim"] == pytest.approx(np.mean(similarities), abs=1e-6)


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


def test_air_is_air_after_it_was_read_between_its_voxels():
    """-999.7 HU is cut to the -1000 of padding, whose interpolation is a little less in some places."""
    air, nearly = (standard_cube(np.full((32,) * 3, hu), 360.0, 300.0) for hu in (-1000.0, -999.7))
    assert (air < -1000).any()
    assert x2ct_metrics(nearly, air)["psnr_db"] == 100


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., dict]:
    """Scores a volume of one value against a truth of one value; the case in the written file."""

    def run(hu: float, hu_truth: float, device: str = "cpu", size: int = 16) -> dict:
        ct = MetaTensor(torch.full((1, size, size, size), hu_truth), meta={EXTENT_MM: [300.0, 300.0, 300.0]})
        batch = list_data_collate([{"ct": ct, "name": "a", "patient": "b", "group": "c"}])
        volume, truth = (torch.full((1, 1, size, size, size), (each + 1024) / 2048) for each in (hu, hu_truth))
        output = {"pred": [volume.to(device)], "label": {"ct": truth.clamp(0, 1).to(device)}}
        baselines = Baselines([{"ct": ct}], None, 1, "", chest_imaging(64))
        engine = Engine(lambda engine, batch: output)
        X2CTReport(str(tmp_path), chest_imaging(), baselines).attach(engine)
        engine.run([batch])
        return json.loads((tmp_path / "protocol_x2ct.json").read_text())

    return run


def test_the_truth_is_taken_as_it_was_scanned_and_the_reconstruction_at_the_end_of_its_window(report):
    """Of dense bone, 1400 HU, no volume of the model has more than 1024: neither a stage nor a mean of the training."""
    cases = report(1024.0, 1400.0)["cases"]
    assert [case["method"] for case in cases] == ["stage 1", "mean volume", "nearest training patient"]
    assert [case["psnr_db"] for case in cases] == pytest.approx([20 * log10(4095 / 376)] * 3, abs=0.01)


def test_tensors_of_a_gpu_are_scored_on_the_cpu(report):
    with fake_gpu():
        cases = report(0.0, 0.0, device="cuda")["cases"]
    assert len(cases) == 3


def test_a_cube_smaller_than_theirs_is_refused(tmp_path: Path):
    imaging = chest_imaging(fov_mm=300.0)
    with pytest.raises(InputError, match="`geometry#fov_mm` is 300, expected at least 320"):
        X2CTReport(str(tmp_path), imaging, Baselines([], None, 1, "", imaging))


def files_cube(path: Path) -> np.ndarray:
    """The middle 320 mm of a written cube of 360 mm at the 128³ points of the protocol, linearly."""
    hu = nibabel.load(path).get_fdata()
    places = (np.linspace(-159.5, 159.5, 128) + 180) * len(hu) / 360 - 0.5
    raised = places + 20 * len(hu) / 360  # the upper 320 mm of phantoms of 360 mm
    points = np.meshgrid(places, places, raised, indexing="ij")
    return map_coordinates(hu, points, order=1, mode="nearest")


def test_the_overlay_scores_what_an_evaluation_writes(dataset: Path, overlay: Path, tiny_bundle: Path, tmp_path: Path):
    """The volumes of an ordinary evaluation, whose files hold whole HU, read and scored by formulas of the test."""
    configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json", str(overlay)]
    protocol = [*configs[:2], "bundle/configs/protocol_x2ct.json", configs[2]]
    one = "$scripts.load_records(@datalist, 'test')[:1]"
    places = {"dataset_dir": dataset, "weights": tiny_bundle / "models" / "model.pt", "training_records": []}
    places |= {"mean_volume_file": tmp_path / "none.nii.gz", "output_dir": tmp_path}
    bundle_run_here("run", configs, **places, test_records=one, written_cases=1, worst_cases=0)
    bundle_run_here("run", protocol, **places, test_records=one)
    report = json.loads((tmp_path / "protocol_x2ct.json").read_text())
    with open(tmp_path / "protocol_x2ct.csv", encoding="utf-8") as file:
        assert [float(row["psnr_db"]) for row in csv.DictReader(file)] == [case["psnr_db"] for case in report["cases"]]
    defined = {name for names in report["definitions"] for name in names.split(", ")}
    assert set(report["cases"][0]) - set(IDENTITY_COLUMNS) < defined
    assert {entry["method"] for entry in report["summary"]} == {case["method"] for case in report["cases"]}
    assert [case["method"] for case in report["cases"]] == ["stage 3", "upsampled stage 1", "upsampled stage 2"]
    case, folder = report["cases"][0], tmp_path / "cases" / "phantom_5"
    error = files_cube(folder / "stage3.nii.gz") - files_cube(folder / "truth.nii.gz")
    assert case["psnr_3d_db"] == pytest.approx(20 * log10(4095 / np.sqrt(np.mean(error**2))), abs=0.02)
    assert case["mae_scaled"] == pytest.approx(np.abs(error).mean() / 2500, rel=2e-3)
