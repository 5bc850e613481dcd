from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from bundle_runs import bundle_run_here

CHANGES = [
    {
        "_target_": "scripts.evaluation.perturbations.source_distance",
        "change": "distance",
        "geometry": "@geometry",
        "percent": [-5, 5],
    },
    {
        "_target_": "scripts.evaluation.perturbations.photon_noise",
        "change": "noise",
        "imaging": "@imaging",
        "photons": [1e4],
    },
    {"_target_": "scripts.evaluation.perturbations.swapped_views", "change": "swapped"},
]
PERTURBATIONS = [("nominal", None), ("distance", -5), ("distance", 5), ("noise", 1e4), ("swapped", None)]
CASES = ["phantom_5", "phantom_6"]


@pytest.fixture(scope="module")
def weights(tiny_bundle: Path) -> Path:
    """Random ones, whose volumes depend on the X-rays."""
    return tiny_bundle / "models" / "model.pt"


@pytest.fixture(scope="module")
def run(dataset: Path, overlay: Path, weights: Path) -> Callable[..., dict]:
    def run(folder: Path, *further: str, **overrides) -> dict:
        configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json", *further, str(overlay)]
        two = "$scripts.load_records(@datalist, 'test')[:2]"
        places = {"dataset_dir": dataset, "weights": weights, "output_dir": folder, "test_records": two}
        bundle_run_here("run", configs, **{**places, **overrides})
        return json.loads((folder / f"{'robustness' if further else 'metrics'}.json").read_text())

    return run


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robustness")
    run(folder, "bundle/configs/robustness.json", changes=CHANGES)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict:
    return json.loads((folder / "robustness.json").read_text())


def scores(report: dict) -> dict[tuple, float]:
    return {(row["case"], row["change"], row["value"], row["stage"]): row["psnr_db"] for row in report["cases"]}


def test_every_case_has_every_stage_under_every_perturbation(report: dict):
    rows = [(row["case"], row["change"], row["value"], row["stage"], row["size"]) for row in report["cases"]]
    stages = [(1, 16), (2, 32), (3, 64)]
    assert rows == [
        (case, *perturbation, *stage) for case in CASES for perturbation in PERTURBATIONS for stage in stages
    ]


def test_nominal_scores_are_those_of_the_evaluation_and_those_of_swapped_views_of_swapped_files(
    run, report: dict, dataset: Path, weights: Path, small_cascade, tmp_path: Path
):
    """The evaluation's own rows, and the network on its written X-rays swapped, of a case without radiographs."""
    evaluated = run(tmp_path, mean_volume_draws=1, written_cases=1, worst_cases=0)
    found = scores(report)
    for row in evaluated["cases"]:
        if row["case"] == "phantom_5" and row["method"].startswith("stage"):
            nominal = found["phantom_5", "nominal", None, int(row["method"][-1])]
            assert nominal == pytest.approx(row["psnr_db"], abs=1e-3)
    case = tmp_path / "cases" / "phantom_5"
    files = (nibabel.load(case / f"{view}.nii.gz") for view in ("lateral", "frontal"))
    xrays = [torch.tensor(file.get_fdata()[..., 0].T) for file in files]
    model = small_cascade().eval()
    model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    with torch.no_grad():
        volume = model(torch.stack(xrays)[None].float() / 8)[-1][0, 0].clamp(0, 1).numpy()
    truth = (nibabel.load(case / "truth.nii.gz").get_fdata() + 1024) / 2048
    expected = -10 * np.log10(np.mean((volume - truth) ** 2))
    assert found["phantom_5", "swapped", None, 3] == pytest.approx(expected, abs=1e-4)
    assert abs(expected - found["phantom_5", "nominal", None, 3]) > 4e-4


def test_a_change_is_the_difference_from_the_nominal_row_of_the_same_case(report: dict):
    found = scores(report)
    for row in report["cases"]:
        nominal = found[row["case"], "nominal", None, row["stage"]]
        assert row["psnr_change_db"] == pytest.approx(row["psnr_db"] - nominal)
    for entry in report["summary"]:
        wanted = [found[case, entry["change"], entry["value"], entry["stage"]] for case in CASES]
        assert entry["psnr_db"]["mean"] == pytest.approx(np.mean(wanted))
    changes = [row["psnr_change_db"] for row in report["cases"] if row["change"] == "noise"]
    assert all(changes)


def test_fewer_perturbations_and_stages_change_no_score(run, report: dict, tmp_path: Path):
    """Also the noise, whose seed is the case's."""
    configs = "bundle/configs/robustness.json"
    alone = scores(run(tmp_path, configs, changes=CHANGES[1:2], stop_after=2))
    assert {key[3] for key in alone} == {1, 2}
    assert {key[1] for key in alone} == {"nominal", "noise"}
    found = scores(report)
    for key, value in alone.items():
        assert value == pytest.approx(found[key], abs=1e-4), key


def test_the_table_is_of_the_same_rows_and_the_figure_is_drawn(report: dict, folder: Path):
    with open(folder / "robustness.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["psnr_db"]) for row in table] == [row["psnr_db"] for row in report["cases"]]
    assert {path.name for path in folder.iterdir()} == {"robustness.json", "robustness.csv", "robustness.png"}
    figure = np.asarray(Image.open(folder / "robustness.png").convert("RGB"))
    assert len(np.unique(figure.reshape(-1, 3), axis=0)) > 50
