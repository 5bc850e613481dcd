"""The archive for a model zoo, and the bundle that comes out of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.apps.utils import HashCheckError
from monai.bundle import ConfigParser, download_large_files

from bundle_runs import ROOT, network_of
from scripts import CheckpointError, InputError, package, sidecar_path
from scripts.data.known_views import write_known_views
from scripts.evaluation.out_of_distribution import detector_of
from scripts.half_precision import write_half_precision
from scripts.io.nifti import add_json
from scripts.io.sidecar import write_sidecar

NAME = "biplanar_xray_ct_reconstruction"
VERSION = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
ARCHIVE = f"{NAME}_v{VERSION}.zip"


def monai_bundle(folder: Path, *line: str) -> str:
    """`python -m monai.bundle ...` with a folder as the working folder and nothing of the repository on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", *line]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout + run.stderr


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("source") / NAME)


@pytest.fixture
def packed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Packs that copy."""
    monkeypatch.setattr(package, "BUNDLE", bundle)
    return package.write_package


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path / "served"`; returns its address."""
    (tmp_path / "served").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_the_same_bundle_gives_the_same_bytes(packed, bundle: Path, tmp_path: Path):
    first = packed(tmp_path / "first").read_bytes()
    for path in bundle.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (bundle / "configs" / "train.json").chmod(0o600)
    assert packed(tmp_path / "second").read_bytes() == first


def test_the_checksum_next_to_it_is_read_by_sha256sum(packed, tmp_path: Path):
    archive = packed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARCHIVE, f"{ARCHIVE}.sha256"]
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (tmp_path / f"{ARCHIVE}.sha256").read_text() == f"{sha256}  {ARCHIVE}\n"
    check = ["sha256sum", "-c", f"{ARCHIVE}.sha256"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, encoding="utf-8").stdout == f"{ARCHIVE}: OK\n"
    archive.write_bytes(archive.read_bytes() + b"\0")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 1


def test_the_archive_holds_what_belongs_to_the_bundle_and_nothing_else(packed, bundle, tmp_path: Path, capsys):
    strays = ["models/stage3_best.pth", "models/resume/stage1_epoch1.pth", "output/ct.nii.gz"]
    strays += ["configs/.unfinished-1-train.json", "scripts/notes~"]
    for name in strays:
        (bundle / name).parent.mkdir(exist_ok=True, parents=True)
        (bundle / name).write_text("stray")
    archive = packed(tmp_path)
    names = zipfile.ZipFile(archive).namelist()
    assert names == sorted(names)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "bundle"]
    kept = subprocess.run(listed, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    of_other_weights = (".pt", ".pth", "model_familiarity.json", "model_uncertainty.json", "model_projections.json")
    of_other_weights += ("model_measurements.json",)
    kept = [name.replace("bundle", NAME, 1) for name in kept if not name.endswith(of_other_weights)]
    assert names == sorted([*kept, f"{NAME}/models/model.pt"])
    assert f"Excluded, since they are no part of the bundle: {', '.join(sorted(strays))}\n" in capsys.readouterr().out


def test_what_ships_is_tracked_and_what_a_training_leaves_is_not():
    names = ["model.pt", "stage1_best.pth", "stage2_best.pth", "model_training.json", "mean_volume.nii.gz"]
    left = ["stage3_best.pth", "resume/stage1_epoch1.pth", "other.pt"]
    asked = [f"bundle/models/{name}" for name in names + left]
    check = ["git", "check-ignore", "--no-index", *asked]
    ignored = subprocess.run(check, cwd=ROOT, capture_output=True, encoding="utf-8").stdout.splitlines()
    assert ignored == [f"bundle/models/{name}" for name in left]
    assert all(any(fnmatch(f"models/{name}", pattern) for pattern in package.CONTENT) for name in names)


@pytest.fixture
def write_part(bundle: Path) -> Callable[..., Path]:
    """Writes the first part of the bundle's weights as those of an earlier stage, changed and in half precision."""

    def write(stage: int, change: float = 0.0) -> Path:
        weights, network = bundle / "models" / "model.pt", network_of(bundle)
        write_half_precision(str(weights), str(weights))
        network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
        part = network.up_to(stage).state_dict()
        torch.save({name: tensor + change for name, tensor in part.items()}, bundle / "models" / "whole.pth")
        path = bundle / "models" / f"stage{stage}_best.pth"
        write_half_precision(str(bundle / "models" / "whole.pth"), str(path))
        (bundle / "models" / "whole.pth").unlink()
        return path

    return write


def test_half_precision_and_its_parts_are_packed_with_their_sidecars(packed, bundle, write_part, tmp_path: Path):
    parts = [write_part(stage) for stage in (1, 2)]
    (bundle / "models" / "model_training.json").write_text("{}")
    archive = zipfile.ZipFile(packed(tmp_path / "with"))
    for path in (*parts, bundle / "models" / "model.pt", bundle / "models" / "model_training.json"):
        assert archive.read(f"{NAME}/models/{path.name}") == path.read_bytes()
    names = zipfile.ZipFile(packed(tmp_path / "without", without_weights=True)).namelist()
    of_no_weights = [f"{NAME}/models/{name}" for name in ("README.md", "view_classifier.json")]
    assert [name for name in names if name.startswith(f"{NAME}/models/")] == of_no_weights


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_of_an_earlier_stage_that_are_of_another_training_are_not_packed(packed, write_part, tmp_path, stage):
    path = write_part(stage, change=0.01)
    with pytest.raises(CheckpointError) as caught:
        packed(tmp_path)
    assert str(caught.value).startswith(f"{path}: is not the first part of {path.parent}/model.pt")
    assert not list(tmp_path.iterdir())


def test_the_archive_meets_the_zoos_checklist(packed, tmp_path: Path):
    """What the zoo's CONTRIBUTING.md asks of a bundle: files, sizes, keys, changelog and headings of its page."""
    zipfile.ZipFile(packed(tmp_path)).extractall(tmp_path)
    bundle = tmp_path / NAME
    files = ["LICENSE", "docs/README.md", "docs/data_license.txt"]
    for name in [*files, "configs/metadata.json", "configs/inference.json", "models/model.pt"]:
        assert (bundle / name).is_file(), name
    assert all(path.stat().st_size <= 25_000_000 for path in bundle.rglob("*"))
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", NAME)
    metadata, inference, train = (
        ConfigParser(json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8")))
        for name in ("metadata", "inference", "train")
    )
    assert metadata["name"] and metadata["version"] in metadata["changelog"]
    assert not [
        key for key in ("bundle_root", "device", "network_def", "inferer", "output_dir") if key not in inference
    ]
    keys = ["bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "train#inferer"]
    keys += [f"train#{key}" for key in ("trainer", "trainer#max_epochs", "dataset", "dataset#data", "handlers")]
    keys += [f"validate#{key}" for key in ("evaluator", "handlers", "dataset", "dataset#data", "key_metric")]
    assert not [key for key in keys if key not in train]
    validation = [handler for handler in train["train#handlers"] if handler["_target_"] == "ValidationHandler"]
    assert [handler["interval"] for handler in validation] == ["@val_interval"]
    for name in ("inference", "train"):
        assert str(ROOT) not in (bundle / "configs" / f"{name}.json").read_text(encoding="utf-8")
    page = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    headings = ["Model Overview", "Data", "Training configuration", "Input", "Output", "Performance"]
    headings += ["MONAI bundle commands", "References", "License"]
    found = re.findall(r"^#+ (.+)$", page, re.M)
    assert [heading for heading in found if heading in headings] == headings


@pytest.fixture
def sidecars(bundle: Path) -> list[Path]:
    """Of the bundle's weights."""
    weights = str(bundle / "models" / "model.pt")
    known = detector_of(torch.rand(60, 2, 64, 64), [str(pair // 20) for pair in range(60)], quantile=0.9)
    write_sidecar(sidecar_path(weights, "familiarity"), weights, known.as_content())
    write_known_views(weights, [("PA", "LL")])
    return [bundle / "models" / f"model_{name}.json" for name in ("familiarity", "views")]


def test_the_json_files_of_the_weights_go_with_them(packed, bundle: Path, sidecars, tmp_path: Path):
    whole, without = (packed(tmp_path / str(left_out), without_weights=left_out) for left_out in (False, True))
    in_archive = {f"{NAME}/models/{path.name}" for path in sidecars}
    assert in_archive < set(zipfile.ZipFile(whole).namelist())
    assert not in_archive & set(zipfile.ZipFile(without).namelist())


@pytest.mark.parametrize("name", ["familiarity", "measurements", "projections", "training", "uncertainty", "views"])
def test_json_files_of_other_weights_are_not_packed(packed, bundle: Path, name: str, tmp_path: Path):
    write_sidecar(str(bundle / "models" / f"model_{name}.json"), str(bundle / "LICENSE"), {})
    with pytest.raises(CheckpointError, match=f"model_{name}.json.*other weights"):
        packed(tmp_path)
    assert not list(tmp_path.iterdir())


NOT_SHAREABLE = {"ct": "b.nii.gz", "collection": "NSCLC-Radiomics", "licence": "CC BY-NC 3.0"}


@pytest.mark.parametrize("section", ["training", "validation", "met", "test"])
def test_weights_of_records_that_may_not_be_shared_are_not_packed(packed, bundle: Path, tmp_path: Path, section: str):
    """What was scored alone has left nothing in them."""
    log = bundle / "models" / "model_training.json"
    content = json.loads(log.read_text())
    log.write_text(json.dumps({**content, section: [*content.get(section, []), NOT_SHAREABLE]}))
    if section == "test":
        packed(tmp_path)
        return
    with pytest.raises(InputError) as caught:
        packed(tmp_path)
    expected = f"{log}: section '{section}': derives from record 'b.nii.gz' of licence 'CC BY-NC 3.0', expected CC BY"
    assert str(caught.value).startswith(expected) and not list(tmp_path.iterdir())
    packed(tmp_path, without_weights=True)


def test_an_atlas_of_records_that_may_not_be_shared_is_not_packed(packed, bundle: Path, tmp_path: Path):
    atlas = bundle / "models" / "model_atlas.nii.gz"

    def write(records: list[dict]) -> None:
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
        add_json(image, {"records": records})
        nibabel.save(image, atlas)

    write([{"name": "a", "licence": "CC BY 3.0"}])
    assert f"{NAME}/models/{atlas.name}" in zipfile.ZipFile(packed(tmp_path / "a")).namelist()
    write([{"name": "a", "licence": "CC BY 3.0"}, {**NOT_SHAREABLE, "name": "b"}])
    with pytest.raises(InputError, match=f"{atlas}: derives from record 'b' of licence 'CC BY-NC 3.0'"):
        packed(tmp_path / "b")
    write([])
    with pytest.raises(InputError, match="lists no 'records'"):
        packed(tmp_path / "b")


def test_missing_weights_are_named_with_both_ways_out(packed, bundle: Path, tmp_path: Path):
    weights = bundle / "models" / "model.pt"
    archive = packed(tmp_path / "without", without_weights=True)
    weights.unlink()
    with pytest.raises(InputError) as caught:
        packed(tmp_path / "with")
    assert packed(tmp_path / "again", without_weights=True).read_bytes() == archive.read_bytes()
    assert str(caught.value).startswith(
        f"{weights}: no such weights. Train the three stages and make it of stage3_best"
    )
    assert "--without-weights" in str(caught.value)
    assert not (tmp_path / "with").exists()
    assert not any(name.endswith(".pt") for name in zipfile.ZipFile(archive).namelist())


def test_weights_that_do_not_fit_the_configs_are_not_packed(packed, bundle, small_cascade, tmp_path: Path):
    torch.save(small_cascade(hidden_size=32).state_dict(), bundle / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="does not fit the network of this configuration"):
        packed(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_large_file_is_listed_and_excluded_and_comes_back_whole(packed, bundle, server, tmp_path, monkeypatch):
    weights = bundle / "models" / "model.pt"
    monkeypatch.setattr(package, "LARGEST_FILE", weights.stat().st_size - 1)
    archive = packed(tmp_path / "package", large_files_url=f"{server}/{{version}}/{{path}}")
    zipfile.ZipFile(archive).extractall(tmp_path)
    assert not (tmp_path / NAME / "models" / "model.pt").exists()
    listed = ConfigParser.load_config_file(str(tmp_path / NAME / "large_files.yml"))
    assert listed == {
        "large_files": [
            {
                "path": "models/model.pt",
                "url": f"{server}/{VERSION}/models/model.pt",
                "hash_val": hashlib.sha256(weights.read_bytes()).hexdigest(),
                "hash_type": "sha256",
            }
        ]
    }
    served = tmp_path / "served" / VERSION / "models" / "model.pt"
    served.parent.mkdir(parents=True)
    served.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(HashCheckError, match="check of downloaded file failed"):
        download_large_files(str(tmp_path / NAME))
    shutil.rmtree(tmp_path / NAME / "models")
    served.write_bytes(weights.read_bytes())
    download_large_files(str(tmp_path / NAME))
    assert (tmp_path / NAME / "models" / "model.pt").read_bytes() == weights.read_bytes()


def test_a_large_file_without_a_place_is_refused(packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "LARGEST_FILE", 25_000)
    with pytest.raises(InputError, match=r"models/model.pt\b.*: above .* MB, which the zoo does.*--large-files-url"):
        packed(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_is_downloaded_reconstructs_and_trains_alone(packed, server: str, dataset: Path, tmp_path: Path):
    """Over HTTP by `monai.bundle download`, then from the downloaded folder alone, at the sizes of its own configs."""
    packed(tmp_path / "served")
    url = f"{server}/{ARCHIVE}"
    (tmp_path / "empty").mkdir()
    monai_bundle(tmp_path, "download", "--name", NAME, "--url", url, "--bundle_dir", "empty")
    copy = tmp_path / "empty" / NAME
    paths = {view: str(dataset / f"phantom_6_{view}.nii.gz") for view in ("frontal", "lateral")}
    radiographs = [part for view, path in paths.items() for part in (f"--{view}", path)]
    monai_bundle(copy, "run", "--config_file", "configs/inference.json", *radiographs)
    network = network_of(copy)
    network.load_state_dict(torch.load(copy / "models" / "model.pt", weights_only=True), strict=True)
    xrays = np.stack([nibabel.load(path).get_fdata()[..., 0].T for path in paths.values()])
    with torch.no_grad():
        expected = network(torch.tensor(xrays)[None].float() / 8)[0, 0].clamp(0, 1) * 2048 - 1024
    found = nibabel.load(copy / "output" / "ct.nii.gz").get_fdata()
    np.testing.assert_allclose(found, expected.numpy(), atol=0.51)
    line = ["--config_file", "configs/train.json", "--dataset_dir", str(dataset), "--epochs", "1", "--repeats", "1"]
    assert "psnr_db" in monai_bundle(copy, "run", *line)  # training is what a run does by default
    assert (copy / "models" / "stage1_best.pth").is_file()
