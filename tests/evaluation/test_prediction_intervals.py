from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from bundle_runs import bundle_run_here, cause_of, write_random_weights
from phantoms import chest_imaging, phantom
from scripts import CheckpointError, IntervalScaleFit, IntervalTable, IntervalTableFit, sidecar_path
from scripts.evaluation.interval_calibration import coverage, histogram_quantile, needed_factor
from scripts.evaluation.prediction_intervals import (
    CONFORMAL,
    EMPIRICAL,
    Calibration,
    gradient_magnitude,
    read_interval_table,
)
from scripts.io.image_writer import cube_affine, write_ct
from scripts.reporting.figures import preview_figure

IMAGING = chest_imaging()


@pytest.fixture(scope="module")
def weights(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that have learned nothing: their intervals have to be as wide as that."""
    return write_random_weights(tmp_path_factory.mktemp("weights") / "stage3_best.pth", overlay)


@pytest.fixture(scope="module")
def fitted(weights: Path, dataset: Path, overlay: Path) -> Path:
    """The table that `uncertainty.json` makes for the weights; next to it is the coverage of the test section."""
    calibrated("run", weights, dataset, overlay, draws=1)
    return Path(sidecar_path(str(weights), "uncertainty"))


def calibrated(workflow: str, weights: Path, dataset: Path, overlay: Path, **overrides: Any) -> None:
    configs = ["bundle/configs/train.json", "bundle/configs/uncertainty.json", str(overlay)]
    places = {"dataset_dir": dataset, "weights": weights, "output_dir": weights.parent}
    bundle_run_here(workflow, configs, **places, **overrides)


def infer(overlay: Path, weights: Path, dataset: Path, output: Path, **asked: bool) -> None:
    xrays = {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here("run", configs, weights=weights, output_dir=output, **xrays, **asked)


def table(**arguments) -> IntervalTable:
    return IntervalTable(**{"hu_edges": [-500.0, 500.0], "gradient_edges": [1.0], "fov_mm": 16.0, **arguments})


def normal_errors(hu: torch.Tensor) -> torch.Tensor:
    """Errors of standard deviation 10 HU where the HU are negative, else 40."""
    return torch.randn(hu.shape) * torch.where(hu < 0, 10.0, 40.0)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_the_gradient_magnitude_of_a_ramp_is_its_slope(axis: int):
    """Also next to the border of the other axes; the border of its own repeats a voxel."""
    shape = [1, 1, 1, 1, 1]
    shape[axis] = 9
    ramp = (torch.arange(9.0) * 30).view(shape).expand(1, 1, 9, 9, 9)
    inner = gradient_magnitude(ramp, voxel_mm=2.0).narrow(axis, 2, 5)
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
    fit = IntervalTableFit(fitted, 0.9, 100, IMAGING)
    fit.take(hu, hu + normal_errors(hu), [])
    fit.finish(None)
    assert fitted.half_widths[0, 0] == pytest.approx(16.45, rel=0.03)
    assert fitted.half_widths[2, 0] == pytest.approx(65.8, rel=0.03)


def test_a_cell_without_voxels_takes_its_neighbours_quantile_and_a_row_without_that_of_all():
    """Errors of 100 HU where it is flat, of 300 HU where the HU rise by 40 HU/mm, and nothing that is steeper."""
    flat = torch.full((1, 1, 20, 20, 20), -800.0)
    ramp = (torch.arange(20.0) * 32 - 320).view(1, 1, 20, 1, 1).expand_as(flat)
    fitted = table(hu_edges=[-500.0, 2000.0], gradient_edges=[10.0, 60.0])
    fit = IntervalTableFit(fitted, 0.9, 100, IMAGING)
    fit.take(flat, flat + 100, [])
    fit.take(ramp, ramp + 300, [])
    fit.finish(None)
    assert fitted.half_widths[0].tolist() == pytest.approx([101.8] * 3, abs=1e-3)  # the bin of 100 to 102 HU
    assert fitted.half_widths[1].tolist() == pytest.approx([301.8] * 3, abs=1e-3)
    assert fitted.half_widths[2].tolist() == pytest.approx([301.6] * 3, abs=1e-3)  # of half each: 80 % of the upper bin


def test_the_factor_makes_the_intervals_cover_as_much_as_they_say(weights: Path, tmp_path: Path):
    """Errors thrice as large as the table says, inside a body and in the air around it."""
    hu = torch.full((1, 1, 32, 32, 32), -1000.0)
    hu[:, :, 8:24, 8:24] = 40.0
    believed = table(half_widths_hu=[[16.45] * 2, [16.45] * 2, [65.8] * 2], gradient_edges=[1e6])
    fit = IntervalScaleFit(believed, 0.9, 0.9, IMAGING, str(tmp_path / "table.json"), str(weights), 3)
    fit.take(hu, hu + 30 * torch.randn(hu.shape), [{"name": "a", "patient": "a"}])
    fit.finish(None)
    fresh = hu + 30 * torch.randn(hu.shape)
    assert coverage(hu, fresh, believed.half_width(hu))["coverage"]["whole"] == pytest.approx(0.9, abs=0.01)
    read, calibration = read_interval_table(str(tmp_path / "table.json"), str(weights), 16.0)
    assert calibration.voxel_coverage == 0.9
    assert torch.equal(read.half_width(hu), believed.half_width(hu))


@pytest.mark.parametrize(
    "patients, rank, kind",
    [(1, 1, EMPIRICAL), (8, 8, EMPIRICAL), (9, 9, CONFORMAL), (19, 18, CONFORMAL), (20, 19, CONFORMAL)],
)
def test_the_factor_is_the_order_statistic_of_the_patients_scores(patients: int, rank: int, kind: str):
    """⌈(n + 1) · 0.9⌉ is 9 of 9, 18 of 19, 19 of 20; of 8 it would be the ninth, which there is not."""
    scores = [1.0 + 0.1 * number for number in range(patients)]
    shuffled = [scores[number] for number in torch.randperm(patients).tolist()]
    calibration = Calibration(0.9, 0.9, tuple(shuffled))
    assert (calibration.factor, calibration.kind) == (scores[rank - 1], kind)
    assert calibration.label == f"{kind}, {patients} patient{'' if patients == 1 else 's'}"
    assert ("promises nothing" in calibration.statement) == (kind == EMPIRICAL)


def test_a_patients_cases_make_one_score(weights: Path, tmp_path: Path):
    """Errors of 10, 30 and 50 HU at a half-width of 10 HU: the first two are of one patient."""
    hu = torch.full((3, 1, 16, 16, 16), -800.0)
    errors = torch.tensor([10.0, 30.0, 50.0]).view(3, 1, 1, 1, 1)
    records = [{"name": name, "patient": patient} for name, patient in (("a1", "a"), ("a2", "a"), ("b", "b"))]
    fit = IntervalScaleFit(
        table(half_widths_hu=[[10.0] * 2] * 3), 0.9, 0.9, IMAGING, str(tmp_path / "t.json"), str(weights), 3
    )
    fit.take(hu, hu + errors, records)
    fit.finish(None)
    _, calibration = read_interval_table(str(tmp_path / "t.json"), str(weights), 16.0)
    assert calibration.scores == pytest.approx((2.0, 5.0))
    assert (calibration.factor, calibration.kind) == (calibration.scores[1], EMPIRICAL)


@pytest.mark.parametrize("patients", [9, 19])
def test_of_new_patients_nine_tenths_are_covered_as_the_conformal_factor_says(patients: int):
    """
    Patients whose errors are all of a scale of their own. A further patient lies within the factor with a probability
    of 9 of 10, and 18 of 20; 3 standard errors of the 4000 draws are 0.015. One patient's score is enough for half of
    them.
    """
    hu = torch.full((1, 1, 12, 12, 12), -1000.0)
    hu[:, :, 3:9, 3:9, 3:9] = 40.0
    half_width, scales = torch.full_like(hu, 100.0), torch.exp(0.5 * torch.randn(200))
    scores = [needed_factor(hu, hu + 60 * scale * torch.randn(hu.shape), half_width, 0.9) for scale in scales]
    drawn = torch.tensor(scores)[torch.rand(4000, 200).argsort(1)[:, : patients + 1]]
    factors = torch.tensor([Calibration(0.9, 0.9, tuple(known.tolist())).factor for known in drawn[:, 1:]])
    reached = (drawn[:, 0] <= factors + 1e-6).float().mean()
    assert 0.885 < reached < 0.915
    assert 0.45 < (drawn[:, 0] <= drawn[:, 1]).float().mean() < 0.55


def test_coverage_counts_each_tissue_by_its_truth():
    truth = torch.full((1, 1, 16, 16, 16), -1000.0)
    truth[:, :, 4:12, 4:12, 4:12] = 40.0
    truth[:, :, 7:9, 7:9, 7:9] = 700.0
    found = coverage(truth + torch.where(truth > 150, 300.0, 20.0), truth, torch.full_like(truth, 50.0))
    whole_and_body = {"whole": 1 - 8 / 4096, "body": 1 - 8 / 512}
    assert found["coverage"] == pytest.approx({**whole_and_body, "air_and_lung": 1, "soft": 1, "bone": 0})
    assert found["half_width_hu"]["body"] == 50.0


def test_the_workflow_reports_the_test_section_and_what_the_factor_rests_on(fitted: Path):
    report = json.loads((fitted.parent / "coverage_stage3_test.json").read_text())
    assert [case["case"] for case in report["cases"]] == [f"phantom_{number}" for number in (5, 6, 7, 8)]
    assert (report["calibration"]["patients"], report["calibration"]["kind"]) == (3, EMPIRICAL)
    assert "of others it promises nothing" in report["calibration"]["statement"]
    assert "Research use only" in report["notice"]


@pytest.mark.parametrize("calibrated_on, agrees", [("@served_batch", True), ("@drawn_batch", False)])
def test_the_patient_whom_the_factor_was_fitted_on_is_covered_as_wanted(
    calibrated_on: str, agrees: bool, weights: Path, overlay: Path, tmp_path: Path
):
    """
    Of one patient coverage is the wanted one, less the width of a voxel, since the fit's X-rays are those that are
    served; it is another one where the fit's X-rays are augmented. No two voxels of the patient are alike.
    """
    hu = phantom(24, 0.0) + 200 * torch.rand(24, 24, 24)
    write_ct(str(tmp_path / "textured.nii.gz"), hu, cube_affine(24, 360.0))
    sections = dict.fromkeys(("training", "validation", "test"), [{"ct": "textured.nii.gz"}])
    (tmp_path / "datalist.json").write_text(json.dumps(sections))
    own = tmp_path / "stage3_best.pth"
    own.write_bytes(weights.read_bytes())
    calibrated("run", own, tmp_path, overlay, draws=1, **{"calibrate#prepare_batch": calibrated_on})
    report = json.loads((tmp_path / "coverage_stage3_test.json").read_text())
    found = report["cases"][0]["coverage"]
    assert report["calibration"]["patients"] == len(report["cases"]) == 1
    assert (min(found["whole"], found["body"]) == pytest.approx(report["voxel_coverage"], abs=5e-4)) == agrees


@pytest.fixture(scope="module")
def inferred(fitted: Path, weights: Path, dataset: Path, overlay: Path, tmp_path_factory) -> Path:
    """What inference has written with intervals."""
    folder = tmp_path_factory.mktemp("inferred")
    with pytest.warns(UserWarning, match="An empirical scale.*3 patients: of others it promises nothing"):
        infer(overlay, weights, dataset, folder, uncertainty=True)
    return folder


def test_inference_writes_the_half_width_of_its_own_ct(inferred: Path, fitted: Path, weights: Path):
    ct, half_width = (nibabel.load(inferred / f"{name}.nii.gz") for name in ("ct", "uncertainty"))
    assert np.array_equal(half_width.affine, ct.affine)
    read, _ = read_interval_table(str(fitted), str(weights), 360.0)
    hu = torch.tensor(ct.get_fdata()).float()[None, None]
    expected = read.half_width(hu)[0, 0].round().numpy()
    assert (half_width.get_fdata() == expected).mean() > 0.97  # rounded HU cross an edge here and there


def test_inference_says_what_the_half_widths_rest_on(inferred: Path, fitted: Path):
    found = json.loads((inferred / "uncertainty.json").read_text())
    assert found["calibration"] == json.loads(fitted.read_text())["calibration"]


def test_without_intervals_the_ct_is_the_same_and_no_earlier_interval_stays(
    inferred: Path, weights: Path, dataset: Path, overlay: Path, tmp_path: Path
):
    plain = tmp_path / "plain"
    shutil.copytree(inferred, plain)
    infer(overlay, weights, dataset, plain)
    assert (plain / "ct.nii.gz").read_bytes() == (inferred / "ct.nii.gz").read_bytes()
    assert {path.name for path in inferred.iterdir()} - {path.name for path in plain.iterdir()} == {
        "uncertainty.nii.gz",
        "uncertainty.json",
    }
    widths = [Image.open(folder / "preview.png").width for folder in (plain, inferred)]
    assert widths[1] > widths[0]


def test_a_missing_table_ends_it_with_the_command_that_makes_one(dataset, overlay, tmp_path: Path):
    other = write_random_weights(tmp_path / "other.pth", overlay)
    with pytest.raises(Exception) as caught:
        infer(overlay, other, dataset, tmp_path / "output", uncertainty=True)
    message = cause_of(caught.value, CheckpointError)
    assert "other_uncertainty.json: no such file" in message
    assert "bundle/configs/uncertainty.json" in message
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


def test_the_preview_names_the_kind_of_calibration():
    figure = preview_figure(
        torch.rand(2, 8, 8),
        torch.zeros(8, 8, 8),
        half_width=torch.ones(8, 8, 8),
        calibration="empirical scale, 1 patient",
    )
    assert figure.axes[-1].get_xlabel() == "empirical scale, 1 patient"


def test_half_widths_fit_the_file_that_they_are_written_to():
    """Integers of 16 bits: what is wider would come back negative."""
    wide = table(half_widths_hu=[[2000.0] * 2] * 3, factor=40.0).half_width(torch.zeros(1, 1, 8, 8, 8))
    assert wide.round().numpy().astype(np.int16).min() == 32767


def replaced(field: str, value: Any) -> Callable[[dict], Any]:
    """Puts a value in a field, named by its place; a function receives what was there."""

    def change(content: dict) -> None:
        *outer, last = field.split(".")
        for name in outer:
            content = content[name]
        content[last] = value(content[last]) if callable(value) else value

    return change


def first_is(value: Any) -> Callable[[list], list]:
    """Rows with another first number."""
    return lambda rows: [[value, *rows[0][1:]], *rows[1:]]


NOT_FINITE = {
    "NaN": math.nan,
    "infinity": math.inf,
    "a huge integer": 10**999,
    "null": None,
    "text": "1",
    "a truth value": True,
}
TAMPERED = {
    **{f"factor {name}": ("factor", value) for name, value in NOT_FINITE.items()},
    "factor negative": ("factor", -1.0),
    "factor zero": ("factor", 0.0),
    "factor of other scores": ("factor", lambda factor: 1.01 * factor),
    **{f"a half-width {name}": ("half_widths_hu", first_is(value)) for name, value in NOT_FINITE.items()},
    "a half-width negative": ("half_widths_hu", first_is(-0.1)),
    "a half-width beyond the file": ("half_widths_hu", first_is(1e6)),
    "a row missing": ("half_widths_hu", lambda rows: rows[1:]),
    "a row short": ("half_widths_hu", lambda rows: [rows[0][1:], *rows[1:]]),
    "rows and columns swapped": ("half_widths_hu", lambda rows: [list(column) for column in zip(*rows)]),
    "a row that is a number": ("half_widths_hu", lambda rows: [1.0, *rows[1:]]),
    "edges falling": ("hu_edges", lambda edges: edges[::-1]),
    "edges equal": ("gradient_edges", lambda edges: [edges[0], edges[0], *edges[2:]]),
    "an edge too few": ("gradient_edges", lambda edges: edges[1:]),
    "no edges": ("hu_edges", []),
    "coverage above 1": ("voxel_coverage", 1.5),
    "coverage 0": ("voxel_coverage", 0),
    "level 1": ("patient_level", 1.0),
    "a level that the scores do not bear": ("patient_level", 0.5),
    "no scores": ("calibration.scores", []),
    "a score left out": ("calibration.scores", lambda scores: scores[1:]),
    "a score negative": ("calibration.scores", lambda scores: [-1.0, *scores[1:]]),
    "more patients than scores": ("calibration.patients", 30),
    "a promise that is not kept": ("calibration.kind", CONFORMAL),
    "calibration is a list": ("calibration", []),
    "other weights": ("weights_sha256", "0" * 64),
    "no weights": ("weights_sha256", None),
}


@pytest.mark.parametrize("tampered", TAMPERED)
def test_a_tampered_table_is_refused_by_file_and_field(tampered: str, fitted: Path, weights: Path, tmp_path: Path):
    field, value = TAMPERED[tampered]
    content = json.loads(fitted.read_text())
    replaced(field, value)(content)
    with pytest.raises(CheckpointError, match=f"table.json: (lacks )?field '({refused_as(tampered, field)})'"):
        read(tmp_path, json.dumps(content), weights)


def refused_as(tampered: str, field: str) -> str:
    """The field that is named: a consistent one may be the other of the two that do not fit each other."""
    others = {
        "a level that the scores do not bear": "calibration.kind",
        "a score left out": "factor|calibration.patients",
    }
    others |= {"an edge too few": "half_widths_hu", "calibration is a list": "calibration.scores"}
    return others.get(tampered, field)


@pytest.mark.parametrize(
    "field", ["weights_sha256", "factor", "half_widths_hu", "hu_edges", "patient_level", "calibration"]
)
def test_a_table_without_a_field_is_named(field: str, fitted: Path, weights: Path, tmp_path: Path):
    content = json.loads(fitted.read_text())
    content.pop(field)
    with pytest.raises(CheckpointError, match=f"table.json: lacks field '{field}"):
        read(tmp_path, json.dumps(content), weights)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "[" * 100_000, '{"a":' * 100_000, "\udcff", " " * (2**23 + 1)]
)
def test_what_is_no_table_is_refused(text: str, weights: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="table.json: (cannot be read as JSON|holds a |is no file of at most)"):
        read(tmp_path, text, weights)


def test_a_table_that_is_a_folder_or_a_pipe_is_refused(weights: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="is no file"):
        read_interval_table(str(tmp_path), str(weights), 360.0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is no file"):
        read_interval_table(str(tmp_path / "pipe"), str(weights), 360.0)


def test_a_table_of_other_weights_ends_inference(fitted: Path, weights, dataset, overlay, tmp_path: Path):
    other = tmp_path / "other.pth"
    drawn = {name: value + 1 for name, value in torch.load(weights, weights_only=True).items()}
    torch.save(drawn, other)
    Path(sidecar_path(str(other), "uncertainty")).write_bytes(fitted.read_bytes())
    with pytest.raises(Exception) as caught:
        infer(overlay, other, dataset, tmp_path / "output", uncertainty=True)
    assert "other_uncertainty.json: field 'weights_sha256'" in cause_of(caught.value, CheckpointError)
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


def read(folder: Path, text: str, weights: Path) -> None:
    (folder / "table.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    read_interval_table(str(folder / "table.json"), str(weights), 360.0)
