"""An evaluation in shards: what they leave together is what one evaluation leaves."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle_runs import bundle_run_here, cause_of
from phantoms import chest_imaging
from scripts import Baselines, CaseReport, EvaluationReport, InputError

CONFIGS = ["bundle/configs/train.json", "bundle/configs/evaluate.json"]
OF_A_ROW = {"patient": "p", "group": "test", "size": 64, "method": "stage 1"}
CHANGES = [
    {"_target_": "scripts.perturbations.photon_noise", "change": "noise", "imaging": "@imaging", "photons": [1e4]}
]


@pytest.fixture(scope="module")
def evaluate(dataset: Path, overlay: Path, tiny_bundle: Path) -> Callable[..., None]:
    """Runs a workflow of `evaluate.json` and further configs on two cases, of which the first gets a folder."""

    def run(workflow: str, folder: Path, *further: str, **overrides: Any) -> None:
        two = "$scripts.load_records(@datalist, 'test')[:2]"
        chosen = {"dataset_dir": dataset, "weights": tiny_bundle / "models" / "model.pt", "output_dir": folder}
        chosen |= {"test_records": two, "written_cases": 1, "worst_cases": 0, "mean_volume_draws": 2}
        bundle_run_here(workflow, [*CONFIGS, *further, str(overlay)], **{**chosen, **overrides})

    return run


@pytest.fixture(scope="module")
def whole(evaluate: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    evaluate("run", folder)
    return folder


@pytest.fixture(scope="module")
def parts(evaluate: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two shards leave, the second run before the first."""
    folder = tmp_path_factory.mktemp("parts")
    for shard in ("2/2", "1/2"):
        evaluate("run", folder, shard=shard)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    of_shards = folder / "shards"
    found = [path for path in folder.rglob("*") if path.is_file() and of_shards not in path.parents]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def copy(parts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parts, tmp_path / "copy"))


def test_merged_tables_and_case_folders_are_those_of_one_evaluation(evaluate, whole: Path, copy: Path):
    """To the byte, and by a second merge too; a shard alone leaves no table that could pass for the whole."""
    assert not [path for path in copy.iterdir() if path.is_file()]
    for _ in range(2):
        evaluate("merge", copy)
        merged = files(copy)
        assert sorted(merged) == sorted(files(whole))
        assert [name for name, content in files(whole).items() if merged[name] != content] == []
    assert {name.split("/")[0] for name in merged} == {
        "cases",
        *(f"{name}.{kind}" for name in ("metrics", "measurement_errors") for kind in ("json", "csv")),
    }


def test_what_is_random_under_perturbations_is_that_of_one_evaluation(evaluate, tmp_path: Path):
    further, chosen = "bundle/configs/robustness.json", {"changes": CHANGES, "stop_after": 1}
    evaluate("run", tmp_path / "whole", further, **chosen)
    for shard in ("1/2", "2/2"):
        evaluate("run", tmp_path / "parts", further, **chosen, shard=shard)
    evaluate("merge", tmp_path / "parts", further, **chosen)
    assert set(files(tmp_path / "whole")) == {"robustness.json", "robustness.csv", "robustness.png"}
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_of_the_folders_that_shards_have_kept_the_first_and_the_worst_of_all_stay(tmp_path: Path):
    """Of six cases in three shards, each with its own worst one: the NaN of the fifth is worse than any number."""
    psnr_db = [9.0, 20.0, 19.0, 21.0, math.nan, 10.0]
    records = [[{"case": f"case_{i}", **OF_A_ROW, "psnr_db": each}] for i, each in enumerate(psnr_db)]
    for i in (0, 1, 2, 3, 4, 5):
        (tmp_path / "cases" / f"case_{i}").mkdir(parents=True)
    imaging = chest_imaging(64)
    report = EvaluationReport(CaseReport(str(tmp_path), imaging), Baselines([], None, 1, "", imaging), 1, 2)
    report.merge(records, {"mean_volume": None})
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["case_0", "case_4"]
    worst = json.loads((tmp_path / "metrics.json").read_text())["worst_cases"]
    assert [case["case"] for case in worst] == ["case_4", "case_0"]


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "metrics_1_of_2.json").unlink(), "shards of 'metrics' lack 1/2"),
        (lambda folder: shutil.rmtree(folder), "shards of 'metrics' are none"),
        (
            lambda folder: shutil.copyfile(folder / "metrics_1_of_2.json", folder / "metrics_1_of_3.json"),
            "are of 2 and of 3, expected those of one number",
        ),
        (
            lambda folder: shutil.copyfile(folder / "metrics_1_of_2.json", folder / "metrics_2_of_2.json"),
            r"metrics_2_of_2.json: is of other weights, records or settings; run `--shard 2/2` again",
        ),
        (lambda folder: changed(folder / "metrics_1_of_2.json", weights_sha256="0"), "is of other weights"),
        (
            lambda folder: changed(folder / "metrics_1_of_2.json", records=["a"]),
            "is of other weights, records or settings",
        ),
        (lambda folder: changed(folder / "metrics_1_of_2.json", settings={"stage": 2}), "records or settings"),
        (lambda folder: changed(folder / "metrics_1_of_2.json", common={"mean_volume": "x"}), "other baselines"),
        (lambda folder: (folder / "metrics_2_of_2.json").write_text('{"rows": 1'), "_2_of_2.json: cannot be read"),
    ],
)
def test_shards_that_do_not_make_one_evaluation_are_refused(evaluate, copy: Path, spoil, said: str):
    spoil(copy / "shards")
    with pytest.raises(Exception) as caught:
        evaluate("merge", copy)
    assert re.search(said, cause_of(caught.value, InputError))
    assert not (copy / "metrics.json").exists()


def test_more_shards_than_records_are_refused_before_any_work(evaluate, tmp_path: Path):
    with pytest.raises(Exception) as caught:
        evaluate("run", tmp_path, shard="1/3")
    assert "of 2 record(s), expected at most as many shards as records" in cause_of(caught.value, InputError)
