"""The benchmark of stages 2 and 3 with other people's bodies and without, at sizes that take seconds."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

from bundle_runs import OVERLAY, read_configs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import refining  # noqa: E402

QUICK = [{"cells": 0, "size": 16, "steps": 5, "rate": 0.1}]


@pytest.mark.slow
def test_a_stage_is_trained_with_other_bodies_and_compared_with_the_upsampled_one_by_patient(
    dataset: Path, tmp_path: Path, capsys
):
    overlay, weights, output = tmp_path / "overlay.json", tmp_path / "stage1.pth", tmp_path / "out"
    overlay.write_text(json.dumps({**OVERLAY, "vgg": 0, "registration#levels": QUICK}))
    network = read_configs(["bundle/configs/train.json", "bundle/configs/anatomy.json", str(overlay)])
    torch.save(network.get_parsed_content("network_def").up_to(1).state_dict(), weights)
    options = ["--dataset_dir", str(dataset), "--split", str(dataset / "datalist.json"), "--output", str(output)]
    options += ["--weights", str(weights), "--overlay", str(overlay), *"--epochs 1 --repeats 1 --crop 16".split()]
    refining.main([*options, "--markdown", "--variants", "with anatomy"])
    rows = [cells(line) for line in capsys.readouterr().out.splitlines()]
    folder = output / "with_anatomy_seed0"
    assert any((folder / "anatomy").iterdir())
    with open(folder / "validation_stage2" / "metrics.csv", newline="") as file:
        psnr = {(row["patient"], row["method"]): float(row["psnr_db"]) for row in csv.DictReader(file)}
    patients = sorted({patient for patient, _ in psnr})
    gains = [psnr[patient, "stage 2"] - psnr[patient, "upsampled stage 1"] for patient in patients]
    (shown,) = (row for row in rows if row[:3] == ["2", "stage 2 with anatomy", "PSNR dB"])
    assert all(gains) and shown[3].split()[0] == f"{fmean(gains):.4g}"
    assert shown[4] == ", ".join(f"{patient} {gain:+.3g}" for patient, gain in zip(patients, gains))
    refining.main([*options, "--markdown", "--variants", "with anatomy"])
    again = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert [row for row in again if row[0] == "2"] == [row for row in rows if row[0] == "2"]


def test_the_datalist_is_the_split_with_whole_paths(tmp_path: Path):
    split = {
        "training": [{"ct": "a.nii.gz", "licence": "CC0"}],
        "test": [{"ct": "b.nii.gz"}],
        "collections": {"c": "d"},
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    refining.write_datalist(Path("/data"), tmp_path / "split.json", tmp_path / "made")
    training = [{"ct": str(Path("/data/a.nii.gz")), "licence": "CC0"}]
    whole = split | {"training": training, "test": [{"ct": str(Path("/data/b.nii.gz"))}]}
    assert json.loads((tmp_path / "made" / "datalist.json").read_text()) == whole


def test_gains_are_those_of_each_patient_over_the_seeds(capsys):
    def run(seed: int, variant: str, psnr: dict[str, float]) -> dict:
        values = {"upsampled stage 1": {"a": 20.0, "b": 22.0}, "stage 2": psnr}
        rows = [
            {"patient": patient, "size": "128", "method": method, **dict.fromkeys(refining.METRICS, str(value))}
            for method, of_patients in values.items()
            for patient, value in of_patients.items()
        ]
        other = {"patient": "a", "size": "64", "method": "stage 1", **dict.fromkeys(refining.METRICS, "30.0")}
        return {
            "variant": variant,
            "seed": seed,
            "stages": {2: {"steps": 7, "seconds_per_step": 1.0, "rows": [*rows, other]}},
        }

    runs = [
        run(0, "without anatomy", {"a": 20.5, "b": 22.5}),
        run(0, "with anatomy", {"a": 21.0, "b": 24.0}),
        run(1, "with anatomy", {"a": 22.0, "b": 23.0}),
    ]
    refining.print_table(runs, argparse.Namespace(stages=[2], markdown=True))
    rows = [cells(line) for line in capsys.readouterr().out.splitlines()]
    shown = {row[1]: row for row in rows if row[2] == "PSNR dB"}
    assert shown["stage 2 with anatomy"][4] == "a +1.5, b +1.5"
    assert shown["stage 2 without anatomy"][3:] == ["0.5 (0.5 to 0.5)", "a +0.5, b +0.5"]
    assert not any("stage 1" == cell for row in rows for cell in row)
    means = {row[1]: row[5].split()[0] for row in rows if len(row) > 6 and row[0] == "2"}
    assert means == {"upsampled stage 1": "21", "stage 2 without anatomy": "21.5", "stage 2 with anatomy": "22.5"}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
