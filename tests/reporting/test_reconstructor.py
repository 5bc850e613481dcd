"""Reconstructions from Python are those of `infer`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from bundle_runs import ROOT, bundle_run_here
from launch_fixtures import random_weights  # noqa: F401  fixture
from scripts import InputError, Reconstructor
from scripts.io.image_writer import write_ct, write_greyscale
from scripts.io.sidecar import sha256_of


def pair_of(dataset: Path, number: int) -> list[Path]:
    return [dataset / f"phantom_{number}_{view}.nii.gz" for view in ("frontal", "lateral")]


def declare_sidecar(name: str, weights: Path) -> None:
    """Puts a sidecar file that ships next to other weights, as if it were theirs."""
    content = json.loads((ROOT / "bundle" / "models" / f"model_{name}.json").read_text(encoding="utf-8"))
    content["weights_sha256"] = sha256_of(str(weights))
    weights.with_name(f"model_{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_the_volume_is_that_of_infer_byte_by_byte_from_files_and_from_arrays(
    random_weights, overlay, dataset: Path, tmp_path: Path
):
    """Also after another pair, and when the file of weights is gone, which is read once."""
    frontal, lateral = pair_of(dataset, 6)
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here(
        "run", configs, weights=random_weights, output_dir=tmp_path / "infer", frontal=frontal, lateral=lateral
    )
    reconstruct = Reconstructor(random_weights, device="cpu")
    random_weights.unlink()
    other = reconstruct(*pair_of(dataset, 3))
    arrays = [nibabel.load(path).get_fdata(dtype=np.float32)[..., 0].T for path in (frontal, lateral)]
    pixel_mm = float(nibabel.load(frontal).header.get_zooms()[0])
    for name, found in (
        ("files", reconstruct(frontal, str(lateral))),
        ("arrays", reconstruct(*arrays, pixel_mm=pixel_mm)),
    ):
        write_ct(str(tmp_path / name / "ct.nii.gz"), found.volume[0], found.volume.affine)
        assert (tmp_path / name / "ct.nii.gz").read_bytes() == (tmp_path / "infer" / "ct.nii.gz").read_bytes()
        measured = json.loads((tmp_path / "infer" / "measurements.json").read_text(encoding="utf-8"))
        assert json.loads(json.dumps(found.measurements)) == {k: v for k, v in measured.items() if k != "notice"}
    assert not torch.equal(other.volume, found.volume)
    assert [stage.shape[-1] for stage in found.stages] == [16, 32, 64] and found.stages[-1] is found.volume
    assert [stage.affine[0, 0].item() for stage in found.stages] == [22.5, 11.25, 5.625]
    assert (found.half_width, found.calibration, found.out_of_distribution) == (None, None, None)


def test_a_geometry_is_that_of_the_acquisition_and_not_another_volume(random_weights, dataset: Path, geometry):
    pair, further = pair_of(dataset, 6), {"source_to_isocentre_mm": 1200.0, "source_to_detector_mm": 1350.0}
    reconstruct = Reconstructor(random_weights, device="cpu")
    found, nominal = reconstruct(*pair, geometry=replace(geometry, **further)), reconstruct(*pair)
    configured = Reconstructor(random_weights, device="cpu", **{f"geometry#{k}": v for k, v in further.items()})
    assert torch.equal(found.volume, configured(*pair).volume)
    assert not torch.equal(found.volume, nominal.volume)
    assert found.geometry == configured.geometry and nominal.geometry == geometry
    with pytest.raises(InputError, match="fov_mm is 300.0, expected 360.0"):
        reconstruct(*pair, geometry=replace(geometry, fov_mm=300.0))


def test_what_is_no_radiograph_is_refused_by_its_field_and_the_next_pair_is_not_harmed(random_weights, dataset: Path):
    reconstruct = Reconstructor(random_weights, device="cpu")
    expected = reconstruct(*pair_of(dataset, 6))
    for wrong in (np.zeros((8, 8, 8)), np.zeros((8, 8), complex)):
        with pytest.raises(InputError, match="the array: field 'lateral' has shape"):
            reconstruct(np.eye(8), wrong)
    with pytest.raises(InputError, match="nothing.png: field 'frontal' names a file that does not exist"):
        reconstruct(dataset / "nothing.png", np.eye(8))
    assert torch.equal(reconstruct(*pair_of(dataset, 6)).volume, expected.volume)


def test_the_lines_of_the_quickstart_run(random_weights, dataset: Path, tmp_path: Path, monkeypatch, capsys):
    text = (ROOT / "bundle" / "docs" / "quickstart.md").read_text(encoding="utf-8")
    lines = [line[4:] for line in text.partition("## From Python")[2].partition("\n## ")[0].splitlines()]
    code = "\n".join(line for line in lines if re.match(r"(from scripts|reconstruct =|case =|result =|print)", line))
    (tmp_path / "output" / "train").mkdir(parents=True)
    random_weights.rename(tmp_path / "output" / "train" / "stage3_best.pth")
    random_weights.with_name("overlay.json").rename(tmp_path / "output" / "train" / "overlay.json")
    case = tmp_path / "output" / "evaluation" / "cases" / "original"
    case.mkdir(parents=True)
    for view, path in zip(("frontal", "lateral"), pair_of(dataset, 6)):
        (case / f"{view}.nii.gz").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "quickstart.md", "exec"), {})
    assert len(code.splitlines()) == 5
    assert "64, 64, 64" in capsys.readouterr().out


def test_sidecar_files_next_to_the_weights_give_what_infer_writes_of_them(
    random_weights, overlay, dataset: Path, tmp_path: Path
):
    """Those that ship, declared to be of these weights: their numbers mean nothing here, and are the same for both."""
    for name in ("uncertainty", "familiarity", "projections"):
        declare_sidecar(name, random_weights)
    pair = {"frontal": tmp_path / "pa.png", "lateral": tmp_path / "ll.png"}
    for path, source in zip(pair.values(), pair_of(dataset, 6)):
        write_greyscale(str(path), torch.from_numpy(nibabel.load(source).get_fdata()[..., 0].T))
    asked = dict.fromkeys(("uncertainty", "familiarity", "calibration"), True)
    configs, output = ["bundle/configs/inference.json", str(overlay)], tmp_path / "infer"
    bundle_run_here("run", configs, weights=random_weights, output_dir=output, **pair, **asked)
    found = Reconstructor(random_weights, device="cpu")(*pair.values())
    write_ct(str(tmp_path / "half.nii.gz"), found.half_width[0], found.half_width.affine)
    assert (tmp_path / "half.nii.gz").read_bytes() == (output / "uncertainty.nii.gz").read_bytes()
    assert json.loads(json.dumps(found.out_of_distribution)) == json.loads(
        (output / "familiarity.json").read_text(encoding="utf-8")
    )
    written = json.loads((output / "calibration.json").read_text(encoding="utf-8"))
    assert found.calibration == {key: value for key, value in written.items() if key != "notice"}
    without = Reconstructor(random_weights, device="cpu", uncertainty=False, calibration=False)(*pair.values())
    assert without.half_width is None and without.calibration is None and without.out_of_distribution


def test_the_cells_of_the_notebook_run(random_weights, tmp_path: Path, monkeypatch, capsys):
    """On weights of 64³ voxels, with the sidecar files that ship; lines that only Jupyter knows are left out."""
    for name in ("uncertainty", "familiarity", "measurements"):
        declare_sidecar(name, random_weights)
    notebook = json.loads((ROOT / "bundle" / "docs" / "reconstruct.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    monkeypatch.chdir(ROOT / "bundle" / "docs")
    monkeypatch.setattr(sys, "path", sys.path[:])
    names: dict[str, object] = {}
    for number, cell in enumerate(cells, start=1):
        source = cell.removeprefix("%matplotlib inline\n").replace(
            "Reconstructor()", f"Reconstructor({str(random_weights)!r})"
        )
        exec(compile(source, f"cell {number}", "exec"), names)
    assert names["result"].volume.shape == names["truth"].shape == (1, 64, 64, 64)
    printed = capsys.readouterr().out
    assert "dB at 64³" in printed and "Body" in printed and "flagged above" in printed
