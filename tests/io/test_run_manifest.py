"""`run.json`: whose it is, and that it names nobody."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from radiograph_files import LATERAL, write_dicom
from scripts import BiplanarGeometry, RunManifest
from scripts.io.run_manifest import RUN, read_run

SETTINGS = {"dicom": False, "geometry": BiplanarGeometry(detector_pixels=64), "slabs": 1}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """Radiographs of somebody who has a name, in a folder that has it, too."""
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8)
    named = {"PatientName": "Doe^Jane", "PatientID": "4711"}
    return {
        "frontal": write_dicom(folder / "pa.dcm", stored, **named),
        "lateral": write_dicom(folder / "ll.dcm", stored, **named, **LATERAL),
    }


def manifest(folder: Path, inputs: dict[str, str], **changed) -> RunManifest:
    weights = folder / "model.pt"
    weights.write_bytes(b"weights")
    return RunManifest(str(weights), "cpu", {**SETTINGS, **changed}, inputs)


def test_it_has_the_checksums_and_not_the_patient(tmp_path: Path, inputs):
    manifest(tmp_path, inputs).write(str(tmp_path / RUN))
    text = (tmp_path / RUN).read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["weights"] == {"name": "model.pt", "sha256": sha256(b"weights").hexdigest()}
    for field, path in inputs.items():
        expected = sha256(Path(path).read_bytes()).hexdigest()
        assert content["inputs"][field] == {"name": os.path.basename(path), "sha256": expected}
    assert content["settings"]["geometry"]["detector_pixels"] == 64
    assert not any(word in text for word in ("Doe", "Jane", "4711", str(tmp_path)))
    assert content["device"] == "cpu" and set(content["versions"]) == {"bundle", "torch", "monai", "python"}


def test_it_is_of_the_same_files_and_settings_alone(tmp_path: Path, inputs):
    manifest(tmp_path, inputs).write(str(tmp_path / RUN))
    assert manifest(tmp_path, inputs).is_of(read_run(tmp_path))
    assert not manifest(tmp_path, inputs, slabs=2).is_of(read_run(tmp_path))
    own = manifest(tmp_path, inputs)
    own.start(inputs, {"views": ("AP", "LL")})
    assert not own.is_of(read_run(tmp_path))
    (tmp_path / "model_projections.json").write_text("{}")
    assert not manifest(tmp_path, inputs).is_of(read_run(tmp_path))
    (tmp_path / "model_projections.json").unlink()
    with open(inputs["lateral"], "ab") as file:
        file.write(b"\0")
    assert not manifest(tmp_path, inputs).is_of(read_run(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{", '{"versions": 3}', "{}"])
def test_what_is_no_manifest_is_of_nothing(tmp_path: Path, inputs, text: str):
    (tmp_path / RUN).write_text(text)
    assert not manifest(tmp_path, inputs).is_of(read_run(tmp_path) or {})
