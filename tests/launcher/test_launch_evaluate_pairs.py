"""`launch.py evaluate --pairs`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch_fixtures import command, installed, lines, option_of, random_weights  # noqa: F401  fixtures


def test_a_broken_pair_is_listed_and_the_others_are_reconstructed_and_scored(
    command, random_weights, dataset: Path, tmp_path: Path, capfd
):
    record = {view: str(dataset / f"phantom_6_{view}.nii.gz") for view in ("frontal", "lateral")}
    ct = str(dataset / "phantom_6.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    broken = {**record, "lateral": "broken.nii.gz", "ct": ct, "name": "second", "patient": "broken"}
    sections = {"pairs": [{**record, "ct": ct, "name": "first", "patient": "whole"}, broken], "met": []}
    (tmp_path / "datalist.json").write_text(json.dumps(sections))
    output = tmp_path / "out"
    options = ("--dataset_dir", tmp_path, "--weights", random_weights, "--output", output)
    assert command("evaluate", "--pairs", *options) == 1
    content, printed = json.loads((output / "pairs.json").read_text()), capfd.readouterr()
    assert content["system"]["kind"] == "weights" and list(content["failed"]) == ["second"]
    prediction = content["cases"][0]
    assert prediction["patient"] == "whole" and prediction["lungs_l_ct"] is not None
    assert 0 < prediction["dice_body_affine"] <= 1
    assert "1 of 2 pairs are scored." in printed.out and "Lungs, Dice, smooth" in printed.out
    assert "1 of 2 pairs failed" in printed.err and "broken.nii.gz" in printed.err


def test_a_folder_of_predictions_is_scored_without_any_weights(lines, tmp_path: Path):
    from launcher.evaluation import evaluate_pairs

    (tmp_path / "volumes").mkdir()
    evaluate_pairs(tmp_path, tmp_path / "out", tmp_path / "none.pt", tmp_path / "volumes")
    (line,) = lines()
    assert line[line.index("monai.bundle") + 2] == "run_folder" and "--weights" not in line
    assert option_of(line, "predictions") == (tmp_path / "volumes").as_posix()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--predictions", "volumes"], "--predictions needs --pairs"),
        (["--pairs", "--predictions", "volumes"], "volumes: no such folder"),
        (["--pairs", "--gpus", "2"], "--gpus 2: --pairs runs in one process"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(lines, command, tmp_path, capfd, options, said):
    assert command("evaluate", "--dataset_dir", tmp_path, "--output", tmp_path / "out", *options) == 1
    assert said in capfd.readouterr().err
