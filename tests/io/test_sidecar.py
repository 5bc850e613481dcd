"""Files of numbers next to weights, and what may lie in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import CheckpointError
from scripts.io.sidecar import Sidecar


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        ("<!DOCTYPE html><title>Sign in</title>", "a web page"),
        ("", "an empty file"),
        ('{"weights_sha256": ', "Expecting value"),
    ],
)
def test_what_lies_in_the_place_of_a_sidecar_is_named(tmp_path: Path, content: str, told: str):
    path = tmp_path / "model_uncertainty.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=rf"model_uncertainty\.json: cannot be read as JSON \({told}.* Make it\."):
        Sidecar(str(path), str(tmp_path / "model.pt"), "Make it.")
