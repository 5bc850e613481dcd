from __future__ import annotations

import io
import json
import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bundle_runs import ROOT
from launch_fixtures import command, installed, places, weights  # noqa: F401  fixtures
from launcher import demo
from scripts.half_precision import write_half_precision


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which parts of the demo run, and what it asks, in their order; none does its work."""
    done = []
    for name, verb in {"demo_reconstruction": "reconstruct", "demo_training": "train"}.items():
        monkeypatch.setattr(demo, name, partial(lambda verb, output, computing: done.append(f"{verb} {output}"), verb))
    monkeypatch.setattr("builtins.input", lambda question: done.append("ask") or demo.answer)
    return done


@pytest.mark.parametrize(
    ("shipped", "options", "terminal", "answer", "expected"),
    [
        (True, [], True, "y", ["reconstruct demo", "ask", "train demo/training"]),
        (True, [], True, "", ["reconstruct demo", "ask"]),
        (True, [], True, "n", ["reconstruct demo", "ask"]),
        (True, [], False, "y", ["reconstruct demo"]),
        (True, ["--train"], True, "n", ["reconstruct demo", "train demo/training"]),
        (True, ["--no-train"], True, "y", ["reconstruct demo"]),
        (False, [], False, "n", ["train demo/training"]),
        (False, ["--no-train"], True, "y", []),
    ],
)
def test_the_demo_reconstructs_with_what_ships_and_trains_when_it_may(
    command, parts, monkeypatch, tmp_path, capfd, shipped, options, terminal, answer, expected
):
    monkeypatch.setattr(places, "WEIGHTS", Path(__file__) if shipped else tmp_path / "model.pt")
    monkeypatch.setattr(demo, "answer", answer, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    assert command("demo", "--output", tmp_path / "demo", *options) == 0
    assert [part.replace(f"{tmp_path}/", "") for part in parts] == expected
    printed = capfd.readouterr().out
    assert (f"{tmp_path}/model.pt: no such weights" in printed) is not shipped
    line = f"python launch.py demo --train --output {tmp_path}/demo"
    assert (line in printed) is not any(part.startswith("train") for part in expected)


def test_a_terminal_that_ends_is_no_yes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert demo.agreed() is False


def test_the_demo_scores_the_shipped_weights_on_its_ct_and_says_what_that_shows(
    command, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd
):
    write_half_precision(str(weights), str(tmp_path / "model.pt"))
    monkeypatch.setattr(places, "WEIGHTS", tmp_path / "model.pt")
    output = tmp_path / "demo"
    assert command("demo", "--no-train", "--output", output) == 0
    printed = capfd.readouterr().out
    assert "one of the six that the weights were trained on" in printed and "not\ngeneralisation" in printed
    assert str(ROOT / "bundle" / "docs" / "README.md") in printed and "Research use only" in printed
    assert "one of the six that the weights were trained on" in (output / "report.html").read_text(encoding="utf-8")
    cases = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["cases"]
    assert {row["case"] for row in cases} == {"original"}
    truth, found = (nibabel.load(output / f"{name}.nii.gz") for name in ("truth", "stage3"))
    assert found.shape == truth.shape == (64, 64, 64)
    error = np.abs(found.get_fdata() - truth.get_fdata()).mean()
    scored = next(row["mae_hu"] for row in cases if row["method"] == "stage 3")
    assert error == pytest.approx(scored, abs=0.5)  # HU are rounded to whole numbers in the files
    assert {"frontal.nii.gz", "lateral.nii.gz", "report.png", "xrays.png"} <= {path.name for path in output.iterdir()}
    assert not (output / "cases").exists() and not (output / "training").exists()
