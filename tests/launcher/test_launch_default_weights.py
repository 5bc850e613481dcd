"""Weights of one's own that are taken where none are named, by the lines of the page."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from bundle_runs import ROOT, read_configs
from launch_fixtures import command, installed, lines, option_of, pair_options, places, weights  # noqa: F401  fixtures
from unwritable import on_posix

PAGE = ROOT / "bundle" / "docs" / "training.md"


@on_posix
def test_weights_that_take_the_place_of_those_that_ship_are_the_default(
    command, lines, weights: Path, dataset: Path, tmp_path: Path, monkeypatch
):
    """Of other sizes, which their overlay has; nothing of the weights that ship is left next to them."""
    models = tmp_path / "repository" / "bundle" / "models"
    ignored = shutil.ignore_patterns("__pycache__")  # where another process may write meanwhile
    shutil.copytree(ROOT / "bundle" / "scripts", models.parent / "scripts", ignore=ignored)
    models.mkdir()
    for name in ("model_familiarity.json", "mean_volume.nii.gz", "stage1_best.pth", "overlay.json", "README.md"):
        (models / name).write_text("of the weights that ship")
    (block,) = re.findall(
        r"^    cd bundle\n(?:    .*\n)+", PAGE.read_text(encoding="utf-8").split("## One GPU")[0], re.M
    )
    script = block.replace("OUT", shlex.quote(str(weights.parent))).replace(
        "python ", f"{shlex.quote(sys.executable)} "
    )
    subprocess.run(script, shell=True, cwd=tmp_path / "repository", check=True, capture_output=True)
    assert sorted(path.name for path in models.iterdir()) == ["README.md", "model.pt", "overlay.json"]

    monkeypatch.setattr(places, "WEIGHTS", models / "model.pt")
    assert command("infer", *pair_options(dataset), "--output", tmp_path / "result") == 0
    (line,) = lines()
    assert option_of(line, "weights") == str(models / "model.pt") and "--familiarity" not in line
    network = read_configs(ast.literal_eval(option_of(line, "config_file"))).get_parsed_content("network_def")
    network.load_state_dict(torch.load(models / "model.pt", weights_only=True), strict=True)
