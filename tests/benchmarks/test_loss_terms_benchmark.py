"""The benchmark of the losses' terms, at sizes that take seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bundle_runs import OVERLAY
from phantoms import phantom
from scripts.io.image_writer import cube_affine, write_ct

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import loss_terms  # noqa: E402


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Holds the datalist of four patients, of whom the second is left out."""
    for number in range(4):
        path = tmp_path / "cts" / f"patient_{number}.nii.gz"
        write_ct(str(path), phantom(24, 0.03 * number), cube_affine(24, 360.0))
    loss_terms.write_datalist(tmp_path / "cts", 1, tmp_path / "out" / "data")
    return tmp_path / "out"


def test_who_is_scored_is_not_trained_on(output: Path):
    datalist = json.loads((output / "data" / "datalist.json").read_text())
    assert [Path(record["ct"]).name for record in datalist["test"]] == ["patient_1.nii.gz"]
    assert len(datalist["training"]) == 3 and not {r["ct"] for r in datalist["training"]} & {
        r["ct"] for r in datalist["test"]
    }


@pytest.mark.slow
def test_a_stage_is_trained_without_a_term_and_scored_on_patients_that_were_left_out(
    output: Path, tmp_path: Path, capsys
):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({**OVERLAY, "epochs": 1}))
    summary = loss_terms.trained_without(1, "ssim", output, overlay, repeats=1)
    epoch = json.loads((output / "stage1_without_ssim" / "stage1_epochs.jsonl").read_text())
    assert "ssim" not in epoch and epoch["loss"] == epoch["l1"]
    capsys.readouterr()
    loss_terms.print_table({(1, "ssim"): summary}, markdown=True)
    head, _, cells = capsys.readouterr().out.splitlines()
    row = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, cells))))
    psnr = next(entry for entry in summary if entry["method"] == "stage 1")["psnr_db"]["mean"]
    assert row["left out"] == "ssim" and float(row["PSNR dB"]) == float(f"{psnr:.4g}")
