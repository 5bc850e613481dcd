"""`launch.py assess`, on one pair and on a folder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from launch_fixtures import command, installed, pair_options, random_weights  # noqa: F401  fixtures


def test_a_pair_gets_a_table_with_the_verdicts_of_its_file(command, random_weights, dataset: Path, tmp_path, capfd):
    assert command("assess", *pair_options(dataset), "--weights", random_weights, "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "assessment.json").read_text(encoding="utf-8"))
    lines = capfd.readouterr().out.splitlines()
    rules = content["checklist"]["rules"]
    verdicts = [line.split()[0] for line in lines if line.startswith(("passed ", "FAILED "))]
    assert verdicts == ["passed" if rule["passed"] else "FAILED" for rule in rules]
    assert f"Checklist: {content['checklist']['passed']} of 19 rules hold" in lines
    assert {"ct.nii.gz", "assessment.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_broken_pair_of_a_folder_is_listed_and_the_others_are_done(
    command, random_weights, dataset: Path, tmp_path: Path, capfd
):
    pairs = tmp_path / "pairs"
    for name in ("broken", "half", "whole"):
        (pairs / name).mkdir(parents=True)
        for view in ("frontal", "lateral"):
            shutil.copyfile(dataset / f"phantom_6_{view}.nii.gz", pairs / name / f"{view}.nii.gz")
    (pairs / "broken" / "lateral.nii.gz").write_bytes(b"no image")
    (pairs / "half" / "lateral.nii.gz").unlink()
    assert command("assess", "--pairs", pairs, "--weights", random_weights, "--output", tmp_path / "out") == 1
    with open(tmp_path / "out" / "assessments.csv", newline="", encoding="utf-8") as file:
        rows = {row["pair"]: row for row in csv.DictReader(file)}
    summary = json.loads((tmp_path / "out" / "assessments.json").read_text(encoding="utf-8"))
    assert list(rows) == ["broken", "half", "whole"]
    assert set(summary["failed"]) == {"broken", "half"} and summary["assessed"] == 1
    assert "0 files lateral.*" in rows["half"]["error"] and "lateral" in rows["broken"]["error"]
    content = json.loads((tmp_path / "out" / "whole" / "assessment.json").read_text(encoding="utf-8"))
    assert int(rows["whole"]["rules_passed"]) == content["checklist"]["passed"]
    failed = [rule["key"] for rule in content["checklist"]["rules"] if not rule["passed"]]
    assert rows["whole"]["rules_failed"].split() == failed
    assert set(summary["failed_rules"]) == set(failed)
    printed = capfd.readouterr()
    assert "[3 of 3] whole" in printed.out and "2 of 3 pairs failed" in printed.err


@pytest.mark.parametrize("content", ["nothing", "a file", "no folder"])
def test_another_folder_is_refused_by_a_sentence(command, random_weights, tmp_path: Path, capfd, content: str):
    folder = tmp_path / "pairs"
    if content != "no folder":
        folder.mkdir()
    if content == "a file":
        (folder / "frontal.png").touch()
    assert command("assess", "--pairs", folder, "--weights", random_weights, "--output", tmp_path / "out") == 1
    said = {"nothing": "is empty", "a file": "holds the file frontal.png", "no folder": "no such folder"}
    assert said[content] in capfd.readouterr().err


def test_a_pair_and_a_folder_are_not_asked_for_at_once_and_half_a_pair_not_either(command, tmp_path: Path, capfd):
    for options in ([], ["--frontal", "a.png"], ["--pairs", tmp_path, "--frontal", "a.png", "--lateral", "b.png"]):
        assert command("assess", *options, "--output", tmp_path) == 1
        assert "--frontal and --lateral, or --pairs" in capfd.readouterr().err
