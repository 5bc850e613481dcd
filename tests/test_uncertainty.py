from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from bundle_runs import bundle_run_here, cause_of, write_random_weights
from PIL import Image
from scripts import CheckpointError, ErrorTable, ErrorTableFit, FactorFit, beside_weights
from scripts.calibration import coverage, histogram_quantile
from scripts.uncertainty import read_error_table, steepness

WINDOW = (-1024.0, 1024.0)


@pytest.fixture(scope="module")
def weights(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that have learned nothing: their intervals have to be as wide as that."""
    return write_random_weights(tmp_path_factory.mktemp("weights") / "stage3_best.pth", overlay)


@pytest.fixture(scope="module")
def fitted(weights: Path, dataset: Path, overlay: Path) -> Path:
    """
    The table that `uncertainty.json` makes for the weights, without augmentation; beside it lies the coverage of the
    validation section.
    """
    configs = ["bundle/configs/train.json", "bundle/configs/uncertainty.json", str(overlay)]
    plain = {f"drawn_batch#{name}": "$None" for name in ("augment", "augment_geometry", "augment_xrays")}
    places = {"dataset_dir": dataset, "ckpt_dir": weights.parent, "output_dir": weights.parent}
    bundle_run_here("run", configs, draws=1, **places, **plain)
    return Path(beside_weights(str(weights), "uncertainty"))


def infer(overlay: Path, weights: Path, dataset: Path, output: Path, **asked: bool) -> None:
    films = {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here("run", configs, weights=weights, output_dir=output, **films, **asked)


def table(**arguments) -> ErrorTable:
    return ErrorTable(**{"hu_edges": [-500.0, 500.0], "gradient_edges": [1.0], "fov_mm": 16.0, **arguments})


def normal_errors(hu: torch.Tensor) -> torch.Tensor:
    """Errors of standard deviation 10 HU where the HU are negative, else 40."""
    return torch.randn(hu.shape) * torch.where(hu < 0, 10.0, 40.0)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_the_steepness_of_a_ramp_is_its_slope(axis: int):
    """Also beside the border of the other axes; the border of its own repeats a voxel."""
    shape = [1, 1, 1, 1, 1]
    shape[axis] = 9
    ramp = (torch.arange(9.0) * 30).view(shape).expand(1, 1, 9, 9, 9)
    inner = steepness(ramp, voxel_mm=2.0).narrow(axis, 2, 5)
    assert torch.allclose(inner, torch.full_like(inner, 15.0), atol=1e-3)


def test_the_quantile_of_a_histogram_is_that_of_the_values():
    values = torch.rand(20000) * 100
    counts = torch.bincount((values / 0.5).long(), minlength=400)
    assert histogram_quantile(counts, 0.9, 0.5) == pytest.approx(float(torch.quantile(values, 0.9)), abs=0.5)


def test_a_fitted_table_holds_the_quantiles_of_the_errors_in_its_cells():
    """Of a normal distribution 90 % lie within 1.645 standard deviations."""
    hu = torch.full((2, 1, 40, 40, 40), -800.0)
    hu[:, :, 20:] = 800.0
    fitted = table(gradient_edges=[1e6])
    fit = ErrorTableFit(fitted, 0.9, 100, WINDOW)
    fit.take(hu, hu + normal_errors(hu), ["a", "b"])
    fit.finish(None)
    assert fitted.half_widths[0, 0] == pytest.approx(16.45, rel=0.03)
    assert fitted.half_widths[2, 0] == pytest.approx(65.8, rel=0.03)


def test_a_cell_without_voxels_takes_its_neighbours_quantile_and_a_row_without_that_of_all():
    """Errors of 100 HU where it is flat, of 300 HU where the HU rise by 40 HU/mm, and nothing that is steeper."""
    flat = torch.full((1, 1, 20, 20, 20), -800.0)
    ramp = (torch.arange(20.0) * 32 - 320).view(1, 1, 20, 1, 1).expand_as(flat)
    fitted = table(hu_edges=[-500.0, 2000.0], gradient_edges=[10.0, 60.0])
    fit = ErrorTableFit(fitted, 0.9, 100, WINDOW)
    fit.take(flat, flat + 100, ["a"])
    fit.take(ramp, ramp + 300, ["b"])
    fit.finish(None)
    assert fitted.half_widths[0].tolist() == pytest.approx([101.8] * 3, abs=1e-3)  # the bin of 100 to 102 HU
    assert fitted.half_widths[1].tolist() == pytest.approx([301.8] * 3, abs=1e-3)
    assert fitted.half_widths[2].tolist() == pytest.approx([301.6] * 3, abs=1e-3)  # of half each: 80 % of the upper bin


def test_the_factor_makes_the_intervals_cover_as_much_as_they_say(weights: Path, tmp_path: Path):
    """Errors thrice as large as the table says, inside a body and in the air around it."""
    hu = torch.full((1, 1, 32, 32, 32), -1000.0)
    hu[:, :, 8:24, 8:24] = 40.0
    believed = table(half_widths_hu=[[16.45] * 2, [16.45] * 2, [65.8] * 2], gradient_edges=[1e6])
    fit = FactorFit(believed, 0.9, WINDOW, str(tmp_path / "table.json"), str(weights), 3)
    fit.take(hu, hu + 30 * torch.randn(hu.shape), ["a"])
    fit.finish(None)
    fresh = hu + 30 * torch.randn(hu.shape)
    assert coverage(hu, fresh, believed.half_width(hu))["coverage"]["whole"] == pytest.approx(0.9, abs=0.01)
    read, confidence = read_error_table(str(tmp_path / "table.json"), str(weights), 16.0)
    assert confidence == 0.9
    assert torch.equal(read.half_width(hu), believed.half_width(hu))


def test_coverage_counts_each_tissue_by_its_truth():
    truth = torch.full((1, 1, 16, 16, 16), -1000.0)
    truth[:, :, 4:12, 4:12, 4:12] = 40.0
    truth[:, :, 7:9, 7:9, 7:9] = 700.0
    found = coverage(truth + torch.where(truth > 150, 300.0, 20.0), truth, torch.full_like(truth, 50.0))
    whole_and_body = {"whole": 1 - 8 / 4096, "body": 1 - 8 / 512}
    assert found["coverage"] == pytest.approx({**whole_and_body, "air_and_lung": 1, "soft": 1, "bone": 0})
    assert found["half_width_hu"]["body"] == 50.0


def test_the_workflow_covers_nine_tenths_of_the_validation_section(fitted: Path):
    """Its X-rays are those that the factor was fitted on."""
    report = json.loads((fitted.parent / "coverage_stage3_validation.json").read_text())
    assert [case["case"] for case in report["cases"]] == ["phantom_2", "phantom_3", "phantom_4"]
    assert 0.895 < report["mean"]["coverage"]["whole"] <= 1
    assert "Research use only" in report["notice"]


def test_inference_writes_the_half_width_of_its_own_ct(fitted: Path, weights, dataset, overlay, tmp_path: Path):
    infer(overlay, weights, dataset, tmp_path, uncertainty=True)
    ct, half_width = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("ct", "uncertainty"))
    assert np.array_equal(half_width.affine, ct.affine)
    read, _ = read_error_table(str(fitted), str(weights), 360.0)
    hu = torch.tensor(ct.get_fdata()).float()[None, None]
    expected = read.half_width(hu)[0, 0].round().numpy()
    assert (half_width.get_fdata() == expected).mean() > 0.97  # rounded HU cross an edge here and there
    plain = tmp_path / "plain"
    infer(overlay, weights, dataset, plain)
    assert (plain / "ct.nii.gz").read_bytes() == (tmp_path / "ct.nii.gz").read_bytes()
    widths = [Image.open(folder / "preview.png").width for folder in (plain, tmp_path)]
    assert widths[1] > widths[0]


def test_an_earlier_uncertainty_does_not_lie_beside_a_new_ct(fitted, weights, dataset, overlay, tmp_path: Path):
    infer(overlay, weights, dataset, tmp_path, uncertainty=True)
    infer(overlay, weights, dataset, tmp_path)
    assert not (tmp_path / "uncertainty.nii.gz").exists()


def test_a_missing_table_ends_it_with_the_command_that_makes_one(dataset, overlay, tmp_path: Path):
    other = write_random_weights(tmp_path / "other.pth", overlay)
    with pytest.raises(Exception) as caught:
        infer(overlay, other, dataset, tmp_path / "output", uncertainty=True)
    message = cause_of(caught.value, CheckpointError)
    assert "other_uncertainty.json: no such file" in message
    assert "bundle/configs/uncertainty.json" in message
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


def test_a_table_of_other_weights_is_told(fitted: Path, tmp_path: Path):
    (tmp_path / "other.pth").write_bytes(b"other weights")
    with pytest.warns(UserWarning, match="made for other weights"):
        read_error_table(str(fitted), str(tmp_path / "other.pth"), 360.0)


def test_a_table_without_a_field_is_named(fitted: Path, weights: Path, tmp_path: Path):
    content = json.loads(fitted.read_text())
    content.pop("factor")
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="lacks factor"):
        read_error_table(str(tmp_path / "table.json"), str(weights), 360.0)
