"""`launch.py assess`, on one pair and on a folder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from launch_fixtures import command, installed, pair_options, random_weights  # noqa: F401  fixtures


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "pairs.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_pair_gets_a_table_with_the_verdicts_of_its_file(command, random_weights, dataset: Path, tmp_path, capfd):
    assert command("assess", *pair_options(dataset), "--weights", random_weights, "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "assessment.json").read_text(encoding="utf-8"))
    lines = capfd.readouterr().out.splitlines()
    rules = content["checklist"]["rules"]
    verdicts = [line.split()[0] for line in lines if line.startswith(("passed ", "FAILED "))]
    assert verdicts == ["passed" if rule["passed"] else "FAILED" for rule in rules]
    assert f"Checklist: {content['checklist']['passed']} of 19 rules hold" in lines
    assert {"ct.nii.gz", "assessment.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_broken_pair_of_a_folder_is_listed_the_others_are_assessed_and_an_assessment_is_made_once(
    command, random_weights, dataset: Path, tmp_path: Path, capfd
):
    pairs, output = tmp_path / "pairs", tmp_path / "out"
    for name in ("broken", "half", "whole"):
        (pairs / name).mkdir(parents=True)
        for view in ("frontal", "lateral"):
            shutil.copyfile(dataset / f"phantom_6_{view}.nii.gz", pairs / name / f"{view}.nii.gz")
    (pairs / "broken" / "lateral.nii.gz").write_bytes(b"no image")
    (pairs / "half" / "lateral.nii.gz").unlink()
    line = ["--pairs", pairs, "--weights", random_weights, "--output", output]
    assert command("infer", *line) == 1  # whose results have no assessment, and so are none here
    assert command("assess", *line) == 1
    printed, rows = capfd.readouterr(), rows_of(output)
    assert {name: row["status"] for name, row in rows.items()} == {
        "broken": "failed",
        "half": "failed",
        "whole": "done",
    }
    assert "lateral" in rows["half"]["reason"] and "lateral" in rows["broken"]["reason"]
    assert "2 of 3 pairs failed" in printed.err
    content = json.loads((output / "whole" / "assessment.json").read_text(encoding="utf-8"))
    failed = [rule["key"] for rule in content["checklist"]["rules"] if not rule["passed"]]
    assert int(rows["whole"]["rules_passed"]) == content["checklist"]["passed"]
    assert rows["whole"]["rules_failed"].split() == failed and rows["half"]["rules_failed"] == ""
    assert float(rows["whole"]["lung_dice"] or "nan") == pytest.approx(content["lung_fields"]["dice"], nan_ok=True)
    assert all(f"The rule {rule} fails in 1 of 3 pairs." in printed.out for rule in failed)

    single = tmp_path / "single"
    pair = [part for view in ("frontal", "lateral") for part in (f"--{view}", pairs / "whole" / f"{view}.nii.gz")]
    assert command("assess", *pair, "--weights", random_weights, "--output", single) == 0
    for name in ("assessment.json", "ct.nii.gz"):
        assert (single / name).read_bytes() == (output / "whole" / name).read_bytes()
    written = (output / "whole" / "assessment.json").stat().st_mtime_ns
    assert command("assess", *line) == 1
    assert rows_of(output)["whole"]["status"] == "done before"
    assert rows_of(output)["whole"]["rules_passed"] == rows["whole"]["rules_passed"]
    assert (output / "whole" / "assessment.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("content", ["nothing", "no folder"])
def test_another_folder_is_refused_by_a_sentence(command, random_weights, tmp_path: Path, capfd, content: str):
    folder = tmp_path / "pairs"
    if content == "nothing":
        folder.mkdir()
    assert command("assess", "--pairs", folder, "--weights", random_weights, "--output", tmp_path / "out") == 1
    said = {"nothing": "no pair of radiographs found", "no folder": "no such file or folder"}
    assert said[content] in capfd.readouterr().err


def test_a_pair_and_a_folder_are_not_asked_for_at_once_and_half_a_pair_not_either(command, tmp_path: Path, capfd):
    views = ["--frontal", "a.png", "--lateral", "b.png"]
    for options in ([], views[:2], ["--pairs", tmp_path, *views]):
        assert command("assess", *options, "--output", tmp_path) == 1
        assert "--frontal and --lateral, or --pairs" in capfd.readouterr().err
