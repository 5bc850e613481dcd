from __future__ import annotations

import base64
import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from browser import view_of
from bundle_runs import bundle_run, bundle_run_here, cause_of
from conftest import Trained
from phantoms import chest_imaging, phantom
from scripts import Baselines, CheckpointError, InputError
from scripts.anatomy.atlas import FIELDS, Atlas
from scripts.evaluation.baselines import BASELINE_DEFINITIONS
from scripts.evaluation.metrics import DEFINITIONS, volume_metrics
from scripts.evaluation.summary import INTERVAL_DEFINITION
from scripts.projection.resampling import truth_at, upsample

CASES = ["phantom_5", "phantom_6", "phantom_7", "phantom_8"]
METHODS = [
    (16, "stage 1"),
    (16, "mean volume"),
    (16, "nearest training patient"),
    (32, "stage 2"),
    (32, "mean volume"),
    (32, "nearest training patient"),
    (32, "upsampled stage 1"),
    (64, "stage 3"),
    (64, "mean volume"),
    (64, "nearest training patient"),
    (64, "upsampled stage 1"),
    (64, "upsampled stage 2"),
]

NO_FOLDERS = {"written_cases": 0, "worst_cases": 0}


@dataclass
class Report:
    """What an evaluation has left."""

    folder: Path
    content: dict[str, Any]

    def row(self, case: str, size: int, method: str) -> dict[str, Any]:
        wanted = {"case": case, "size": size, "method": method}
        return next(row for row in self.content["cases"] if wanted.items() <= row.items())

    def volume(self, case: str, name: str) -> np.ndarray:
        return nibabel.load(self.folder / "cases" / case / f"{name}.nii.gz").get_fdata()


@pytest.fixture(scope="module")
def evaluate(dataset: Path, overlay: Path, trained: Trained) -> Callable[..., Report]:
    """Runs `evaluate.json` on the trained stages; arguments override."""

    def run(folder: Path, **overrides: Any) -> Report:
        configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json", str(overlay)]
        places = {"dataset_dir": dataset, "weights": trained.folder / "stage3_best.pth", "output_dir": folder}
        bundle_run_here("run", configs, **{**places, **overrides})
        return Report(folder, json.loads((folder / "metrics.json").read_text(), parse_constant=refuse))

    return run


def refuse(constant: str) -> None:
    """NaN and Infinity, which Python writes and reads, are no JSON."""
    raise AssertionError(f"{constant} in metrics.json")


@pytest.fixture(scope="module")
def report(evaluate: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return evaluate(tmp_path_factory.mktemp("evaluation"), written_cases=2, worst_cases=1, note="A phantom.")


def test_every_case_has_every_stage_and_its_baselines(report: Report):
    rows = [(row["case"], row["size"], row["method"]) for row in report.content["cases"]]
    assert rows == [(case, size, method) for case in CASES for size, method in METHODS]


def test_the_scores_are_those_of_the_networks_volumes(report: Report, trained: Trained, small_cascade):
    """Network, X-rays and ground truth brought together without the workflow."""
    model = small_cascade().eval()
    model.load_state_dict(torch.load(trained.folder / "stage3_best.pth", weights_only=True), strict=True)
    case = "phantom_6"
    xrays = [torch.tensor(report.volume(case, view)[..., 0].T) for view in ("frontal", "lateral")]
    with torch.no_grad():
        volumes = model(torch.stack(xrays)[None].float() / 8)
    truth = (torch.tensor(report.volume(case, "truth"))[None, None].float() + 1024) / 2048
    candidates = [(f"stage {k}", volume) for k, volume in enumerate(volumes, start=1)]
    candidates += [(f"upsampled stage {k}", upsample(volumes[k - 1])) for k in (1, 2)]
    candidates.append(("upsampled stage 1", interpolate(volumes[0], scale_factor=4, mode="trilinear")))
    for method, volume in candidates:
        row = report.row(case, volume.shape[-1], method)
        for name, value in volume_metrics(volume, truth_at(truth, volume.shape[-1]), chest_imaging()).items():
            assert row[name] == pytest.approx(value, rel=2e-3), (method, name)


@pytest.mark.parametrize("case", CASES[:2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_scores_are_those_of_the_files(report: Report, case: str, stage: int):
    """By formulas of its own on the NIfTI files, whose HU are rounded."""
    hu, truth = report.volume(case, f"stage{stage}"), report.volume(case, "truth")
    size = len(hu)
    truth = truth.reshape(*[part for _ in range(3) for part in (size, 64 // size)]).mean((1, 3, 5))
    row = report.row(case, size, f"stage {stage}")
    assert row["psnr_db"] == pytest.approx(20 * np.log10(2048 / np.sqrt(np.mean((hu - truth) ** 2))), abs=0.01)
    assert row["mae_hu"] == pytest.approx(np.abs(hu - truth).mean(), abs=0.5)
    assert row["mae_bone_hu"] == pytest.approx(np.abs(hu - truth)[truth > 150].mean(), rel=0.02)


def test_mean_and_nearest_volume_are_those_of_the_training_records(
    evaluate: Callable[..., Report], report: Report, tmp_path: Path
):
    """
    With two test cases as training, without augmentation: the mean errs in each by half of their difference; the
    nearest is the case itself, whose infinite PSNR is null in the report, and for the third case the second.
    """
    records = "$scripts.load_records(@datalist, 'test')"
    plain = {"augment": {"_target_": "Compose", "transforms": []}, "training_records": f"{records}[:2]"}
    plain |= {"test_records": f"$[{records[1:]}[number] for number in (2, 0, 1)]", "mean_volume_draws": 2}
    found = evaluate(tmp_path, **plain, written_cases=1, worst_cases=0)
    fifth, sixth = (report.volume(case, "truth") for case in CASES[:2])
    seventh = found.volume("phantom_7", "truth")
    row, difference = found.row("phantom_5", 64, "mean volume"), fifth - sixth
    assert row["mae_hu"] == pytest.approx(np.abs(difference).mean() / 2, abs=0.2)
    assert row["psnr_db"] == pytest.approx(20 * np.log10(2048 / np.sqrt(np.mean((difference / 2) ** 2))), abs=0.01)
    row = found.row("phantom_5", 64, "nearest training patient")
    assert (row["mae_hu"], row["psnr_db"]) == (0, None)
    row = found.row("phantom_7", 64, "nearest training patient")
    assert row["mae_hu"] == pytest.approx(np.abs(seventh - sixth).mean(), abs=0.2)
    assert found.content["mean_volume"] == "2 training CTs, 1 random deformation of each"


@pytest.mark.parametrize(("count", "draws"), [(1, 32), (6, 32), (33, 32), (5, 1)])
def test_every_training_ct_counts_alike_in_the_mean_volume(count: int, draws: int):
    """CTs of one value each, whose mean is that of the values, in whatever order they come."""
    values = torch.linspace(-900, 900, count)
    cts = [{"ct": torch.full((1, 8, 8, 8), float(value))} for value in values]
    for dataset in (cts, cts[::-1]):
        baselines = Baselines(dataset, None, draws, mean_volume_file="", imaging=chest_imaging(64))
        baselines.prepare()
        expected = torch.full((1, 1, 8, 8, 8), (float(values.mean()) + 1024) / 2048)
        torch.testing.assert_close(baselines.mean, expected, rtol=0, atol=1e-6)


def test_a_folder_without_a_datalist_is_scored_case_by_case_without_what_needs_training(
    evaluate: Callable[..., Report], report: Report, dataset: Path, tmp_path: Path
):
    for case in ("phantom_5", "phantom_7"):
        shutil.copyfile(dataset / f"{case}.nii.gz", tmp_path / f"{case}.nii.gz")
    with pytest.warns(UserWarning, match="no section 'training': there is no .*nowhere.nii.gz either: the rows 'm"):
        nowhere = {"mean_volume_file": tmp_path / "nowhere.nii.gz", **NO_FOLDERS}
        found = evaluate(tmp_path / "output", dataset_dir=tmp_path, **nowhere)
    without = [(size, method) for size, method in METHODS if method not in ("mean volume", "nearest training patient")]
    rows = [(row["case"], row["patient"], row["size"], row["method"]) for row in found.content["cases"]]
    cases = [("phantom_5", "patient_1"), ("phantom_7", "patient_2")]
    assert rows == [(*case, *method) for case in cases for method in without]
    for row in found.content["cases"]:
        assert row["psnr_db"] == pytest.approx(report.row(row["case"], row["size"], row["method"])["psnr_db"], abs=1e-4)
    assert {entry["group"] for entry in found.content["summary"]} == {"test"}
    assert found.content["mean_volume"] is None


def test_an_atlas_next_to_the_weights_has_its_rows_at_the_size_of_stage_2(
    evaluate: Callable[..., Report], report: Report, trained: Trained, tmp_path: Path
):
    """Without the switch, and of stage 1 alone, which has no row of that size but for them, too."""
    cts = torch.stack([phantom(32, shift)[None] for shift in (-0.1, 0.1, 0.14)])
    patients = [dict.fromkeys(FIELDS, patient) for patient in ("a", "b", "phantom_7")]
    weights = {stage: tmp_path / f"stage{stage}_best.pth" for stage in (1, 3)}
    for path in weights.values():
        shutil.copyfile(trained.folder / path.name, path)
        Atlas(cts, patients, 360.0).write(str(path))
    levels = [{"cells": 0, "size": 16, "steps": 10, "rate": 0.1}]
    quick = {"registration#levels": levels, "mean_volume_draws": 1, **NO_FOLDERS}
    one = {"test_records": "$scripts.load_records(@datalist, 'test')[2:3]"}
    found = evaluate(tmp_path / "3", weights=weights[3], **quick, **one)
    joined = ["joined with stage 1", "joined with stage 2", "joined with stage 2, second turn"]
    rows = ["mean of the neighbours", *joined, "shape model"]
    of_size = [row["method"] for row in found.content["cases"] if row["size"] == 32]
    assert of_size == [method for size, method in METHODS if size == 32] + rows
    plain = evaluate(tmp_path / "plain", weights=weights[3], anatomy_rows=False, **quick, **one)
    assert plain.content["cases"] == [row for row in found.content["cases"] if row["method"] not in rows]
    first = evaluate(tmp_path / "1", weights=weights[1], stage=1, **quick, **one)
    joined = ["joined with stage 1", "joined with stage 1, second turn"]
    of_size = [row["method"] for row in first.content["cases"] if row["size"] == 32]
    assert of_size == ["upsampled stage 1", "mean of the neighbours", *joined, "shape model"]


def test_without_training_the_mean_volume_is_that_of_its_file(
    evaluate: Callable[..., Report], dataset: Path, overlay: Path, tmp_path: Path
):
    """Written by its workflow from one training CT; one case, which has no interval."""
    configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json", str(overlay)]
    plain = {"augment": {"_target_": "Compose", "transforms": []}, "mean_volume_file": tmp_path / "mean.nii.gz"}
    one = "$scripts.load_records(@datalist, 'training')[:1]"
    bundle_run_here("mean_volume", configs, dataset_dir=dataset, training_records=one, **plain)
    (tmp_path / "data").mkdir()
    shutil.copyfile(dataset / "phantom_0.nii.gz", tmp_path / "data" / "phantom_0.nii.gz")
    with pytest.warns(UserWarning, match="the rows 'mean volume' are of .*mean.nii.gz, and the rows 'nearest"):
        found = evaluate(tmp_path / "output", dataset_dir=tmp_path / "data", **plain)
    assert found.content["mean_volume"] == str(tmp_path / "mean.nii.gz")
    assert found.row("phantom_0", 16, "mean volume")["mae_hu"] < 0.5  # rounded to whole HU
    mean = torch.tensor(nibabel.load(tmp_path / "mean.nii.gz").get_fdata())
    upsampled = interpolate(mean[None, None], 64, mode="trilinear")
    error = np.abs(upsampled[0, 0].numpy() - found.volume("phantom_0", "truth")).mean()
    assert found.row("phantom_0", 64, "mean volume")["mae_hu"] == pytest.approx(error, abs=0.5)
    entry = found.content["summary"][0]
    assert (entry["cases"], entry["patients"]) == (1, 1)
    assert entry["psnr_db"]["mean"] is not None and entry["psnr_db"]["low"] is None and entry["psnr_db"]["high"] is None


def test_every_case_is_measured_at_every_stage_and_its_ground_truth_at_the_same_size(report: Report):
    content = json.loads((report.folder / "measurement_errors.json").read_text(), parse_constant=refuse)
    rows = [(row["case"], row["size"], row["method"]) for row in content["cases"]]
    of_case = [
        (size, method) for stage, size in enumerate((16, 32, 64), 1) for method in (f"stage {stage}", "ground truth")
    ]
    assert rows == [(case, *row) for case in CASES for row in [*of_case, (64, "mean volume")]]
    for row in content["cases"]:
        if (row["size"], row["method"]) == (64, "ground truth"):
            assert row["body_l_error"] == 0 and row["bias_soft_hu"] == 0


def test_json_and_csv_agree(report: Report):
    with open(report.folder / "metrics.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(report.content["cases"])
    for written, row in zip(table, report.content["cases"]):
        assert list(written) == list(row)
        for name, value in row.items():
            if isinstance(value, float):
                assert float(written[name]) == value
            else:
                assert written[name] in (str(value), "nan" if value is None else None)


def test_two_processes_write_the_table_of_one_although_their_cases_are_uneven(
    report: Report, dataset: Path, overlay: Path, trained: Trained, tmp_path: Path
):
    """Three cases, of which the first, by one process, and the worst are written."""
    configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json", str(overlay)]
    places = {"dataset_dir": dataset, "weights": trained.folder / "stage3_best.pth", "output_dir": tmp_path}
    three, written = "$scripts.load_records(@datalist, 'test')[:3]", {"written_cases": 1, "worst_cases": 1}
    run = bundle_run("run", configs, processes=2, **places, test_records=three, **written)
    assert run.returncode == 0, run.stdout[-3000:]
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    expected = [row for row in report.content["cases"] if row["case"] in CASES[:3]]
    assert [(row["case"], row["method"]) for row in table] == [(row["case"], row["method"]) for row in expected]
    for found, row in zip(table, expected):
        for name, value in row.items():
            if isinstance(value, float):
                assert float(found[name]) == pytest.approx(value, rel=1e-3), name
    worst = min(CASES[:3], key=lambda case: report.row(case, 64, "stage 3")["psnr_db"])
    assert {path.name for path in (tmp_path / "cases").iterdir()} == {CASES[0], worst}


def test_the_worst_cases_of_the_last_stage_are_named(report: Report):
    scores = {case: report.row(case, 64, "stage 3")["psnr_db"] for case in CASES}
    worst = report.content["worst_cases"]
    assert [entry["case"] for entry in worst] == sorted(CASES, key=scores.get)[:1]
    assert [entry["psnr_db"] for entry in worst] == sorted(scores.values())[:1]


def test_every_score_has_its_definition(report: Report):
    assert report.content["definitions"] == {**DEFINITIONS, **INTERVAL_DEFINITION, **BASELINE_DEFINITIONS}
    assert report.content["hu_window"] == [-1024, 1024]
    defined = {name.strip() for names in DEFINITIONS for name in names.split(",")}
    tissues = ("air_and_lung", "soft", "bone")
    of_each = {name.replace("<tissue>", tissue) for name in defined for tissue in tissues}
    of_each = {name.replace("<part>", part) for name in of_each for part in ("body", *tissues)}
    scores = set(report.content["cases"][0]) - {"case", "patient", "group", "size", "method"}
    assert scores == of_each


def test_each_group_has_its_mean_and_its_students_interval(report: Report):
    """Two cases a group: the interval's half is 12.706 standard errors, each half the distance of the two."""
    summary = report.content["summary"]
    assert [(entry["group"], entry["size"], entry["method"]) for entry in summary] == [
        (group, size, method) for group in ("without radiographs", "with radiographs") for size, method in METHODS
    ]
    for entry in summary:
        cases = CASES[0::2] if entry["group"] == "without radiographs" else CASES[1::2]
        for name in ("psnr_db", "ssim", "mae_hu", "reprojection_mae"):
            first, second = (report.row(case, entry["size"], entry["method"])[name] for case in cases)
            half = 12.7062 * abs(first - second) / 2
            assert entry["cases"] == entry["patients"] == 2
            assert entry[name]["mean"] == pytest.approx((first + second) / 2)
            assert entry[name]["low"] == pytest.approx(entry[name]["mean"] - half, rel=1e-4, abs=1e-9)
            assert entry[name]["high"] == pytest.approx(entry[name]["mean"] + half, rel=1e-4, abs=1e-9)


def test_a_record_with_radiographs_is_scored_on_its_own(report: Report, dataset: Path):
    for view in ("frontal", "lateral"):
        radiograph = nibabel.load(dataset / f"phantom_6_{view}.nii.gz").get_fdata()
        np.testing.assert_allclose(report.volume("phantom_6", view), radiograph, rtol=1e-4, atol=1e-4)


def test_a_record_without_radiographs_is_scored_on_the_projections_of_its_ct(report: Report):
    """The frontal projection of a cone beam weighs as much as the CT: the sum over pixels, less the magnification."""
    mu = np.clip(report.volume("phantom_5", "truth") / 1000 + 1, 0, None) * 0.02059
    projection = report.volume("phantom_5", "frontal")
    magnification = 1800 / 1600
    assert projection.sum() * 3.75**2 / magnification**2 == pytest.approx(mu.sum() * 5.625**3, rel=0.05)


def test_written_cases_are_the_first_of_the_datalist_and_the_worst_and_whole(report: Report):
    folder = report.folder / "cases"
    worst = report.content["worst_cases"][0]["case"]
    assert {path.name for path in folder.iterdir()} == {*CASES[:2], worst}
    names = {"stage1.nii.gz", "stage2.nii.gz", "stage3.nii.gz", "truth.nii.gz"}
    names |= {"report.png", "report.html", "xrays.png", "measurements.json"}
    names |= {f"{view}.{suffix}" for view in ("frontal", "lateral") for suffix in ("nii.gz", "png")}
    for case in folder.iterdir():
        assert {path.name for path in case.iterdir()} == names


def test_the_page_of_a_case_holds_its_volumes_and_scores_and_marks_its_place_on_the_xrays(report: Report):
    folder = report.folder / "cases" / "phantom_5"
    page = view_of(folder / "report.html")
    assert page["note"] == "A phantom."
    assert [volume["name"] for volume in page["volumes"]] == ["ground truth", "stage 1", "stage 2", "stage 3"]
    files = [folder / f"{name}.nii.gz" for name in ("truth", "stage1", "stage2", "stage3")]
    assert [base64.b64decode(volume["file"]) for volume in page["volumes"]] == [file.read_bytes() for file in files]
    assert [(score["size"], score["method"]) for score in page["scores"]] == [
        (f"{size}³", name) for size, name in METHODS
    ]
    assert page["scores"][0]["PSNR, dB"] == f"{report.row('phantom_5', 16, 'stage 1')['psnr_db']:.2f}"
    truth = nibabel.load(folder / "truth.nii.gz")
    middle = truth.affine @ [*(np.array(truth.shape) / 2 - 0.5), 1]
    for xray in page["xrays"]:
        u, v, w = np.array(xray["projection"]) @ middle
        np.testing.assert_allclose([u / w, v / w], 0.5, atol=1e-6)


def test_every_written_volume_lies_where_its_ct_lies(report: Report):
    for name in ("stage1", "stage2", "stage3", "truth"):
        image = nibabel.load(report.folder / "cases" / "phantom_5" / f"{name}.nii.gz")
        size = image.shape[0]
        np.testing.assert_allclose(image.affine[:3, :3], np.diag([360 / size] * 3))
        np.testing.assert_allclose(image.affine[:3, 3], -180 + 180 / size)


def test_the_size_of_the_batch_changes_no_score(evaluate: Callable[..., Report], report: Report, tmp_path: Path):
    alike = "$[r for r in scripts.load_records(@datalist, 'test') if 'frontal' not in r]"
    batched = evaluate(tmp_path, **{"validate#dataset#data": alike, "validate#dataloader#batch_size": 2}, **NO_FOLDERS)
    assert [row["case"] for row in batched.content["cases"]] == [case for case in CASES[0::2] for _ in METHODS]
    for row in batched.content["cases"]:
        alone = report.row(row["case"], row["size"], row["method"])
        if row["method"] != "mean volume":
            assert row["psnr_db"] == pytest.approx(alone["psnr_db"], abs=1e-3)
            assert row["reprojection_mae"] == pytest.approx(alone["reprojection_mae"], rel=1e-3)


def test_one_xray_alone_is_given_compared_and_shown(evaluate: Callable[..., Report], report: Report, tmp_path: Path):
    first = {"validate#dataset#data": "$scripts.load_records(@datalist, 'test')[:1]", "measurements": False}
    with pytest.warns(UserWarning, match="were trained on pairs alone"):
        alone = evaluate(tmp_path, only="lateral", written_cases=1, worst_cases=0, **first)
    row = alone.row(CASES[0], 64, "stage 3")
    assert alone.content["only"] == "lateral" and "only" not in report.content
    assert row["psnr_db"] != report.row(CASES[0], 64, "stage 3")["psnr_db"]
    hu, lateral = (torch.from_numpy(alone.volume(CASES[0], name)).float() for name in ("stage3", "lateral"))
    projected = chest_imaging(128).project(hu[None, None])[0, 1] * 8
    assert row["reprojection_mae"] == pytest.approx((projected - lateral[..., 0].T).abs().mean().item(), rel=1e-2)
    names = {path.name for path in (tmp_path / "cases" / CASES[0]).iterdir()}
    assert {"lateral.nii.gz", "lateral.png"} <= names and not {"frontal.nii.gz", "frontal.png"} & names
    page = view_of(tmp_path / "cases" / CASES[0] / "report.html")
    assert page["note"].startswith("One view: of the lateral X-ray alone.") and len(page["xrays"]) == 1


def test_an_earlier_stage_is_scored_by_its_own_weights(
    evaluate: Callable[..., Report], report: Report, trained: Trained, tmp_path: Path
):
    early = evaluate(tmp_path, stage=2, weights=trained.folder / "stage2_best.pth", **NO_FOLDERS)
    assert {row["method"] for row in early.content["cases"]} == {method for size, method in METHODS if size < 64}
    for case in CASES:
        for size, method in ((16, "stage 1"), (32, "stage 2")):
            assert early.row(case, size, method)["psnr_db"] == pytest.approx(report.row(case, size, method)["psnr_db"])


def test_missing_weights_are_named(evaluate: Callable[..., Report], tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        evaluate(tmp_path / "output", weights=tmp_path / "nowhere.pth")
    assert cause_of(caught.value, CheckpointError).startswith(f"{tmp_path}/nowhere.pth: no such checkpoint")
    assert not list(tmp_path.rglob("metrics.*"))


def test_a_record_without_a_ct_is_refused_by_its_place(evaluate: Callable[..., Report], dataset: Path, tmp_path: Path):
    records = json.loads((dataset / "datalist.json").read_text())
    radiographs_only = {key: value for key, value in records["test"][1].items() if key != "ct"}
    for section in records.values():
        for record in section:
            record["ct"] = str(dataset / record["ct"])
    records["test"].append(radiographs_only)
    (tmp_path / "datalist.json").write_text(json.dumps(records))
    with pytest.raises(RuntimeError) as caught:
        evaluate(tmp_path / "output", datalist=tmp_path / "datalist.json")
    assert "test[4] lacks field 'ct', the truth" in cause_of(caught.value, InputError)
    assert not list(tmp_path.rglob("metrics.*"))


def test_the_files_hold_hu_of_the_window(report: Report):
    for name in ("stage1", "stage2", "stage3", "truth"):
        hu = report.volume("phantom_5", name)
        assert -1024 <= hu.min() < hu.max() <= 1024
    assert report.volume("phantom_5", "truth").max() == pytest.approx(700, abs=60)
