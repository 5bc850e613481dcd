"""
From a bucket of radiographs and CTs to the scores of a folder of volumes, by the verbs that a user types. The manifest
is one of this server: that of `--pairs` names 19 GB.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import pytest
import torch
from pydicom import Dataset

from chest_phantom import FOV_MM, HEIGHT_MM, chest
from ct_series_files import INTERCEPT, write_series
from launch_fixtures import command, installed, next_arguments  # noqa: F401  fixtures
from object_server import COLLECTION, Bucket, bucket
from radiograph_files import LATERAL, TAGS, write_line_integrals
from scripts import BiplanarGeometry, hu_to_attenuation, project
from scripts.errors import OutputError
from scripts.io.folder_lock import hold_folder, leave_folder
from scripts.io.image_writer import cube_affine, write_ct
from unwritable import on_posix

MET, BLIND, SCORED = PATIENTS = [f"LIDC-IDRI-{number:04d}" for number in (1, 6, 7)]
"""One whom the shipped weights have met, one without a lateral radiograph, and one that is scored."""
VOXELS, SLICES = 72, slice(15, 65)
"""Of 5 mm; slices from 105 mm below the isocentre to 145 mm above it, which hold the lungs."""
BREATH = 1.1
"""How much higher the lungs are in the prediction than in the CT."""
SECONDS_TO_WAIT = 60


def uuid(*parts: object) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(map(str, parts))))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Bucket]:
    """The same chest of all patients; the met one's radiographs and the scored one's are a pair."""
    attenuation = hu_to_attenuation(torch.from_numpy(chest(64))[None, None])
    frontal, lateral = project(attenuation, BiplanarGeometry(detector_pixels=128))[0].numpy()
    ct = write_chest(tmp_path / "ct")
    objects: dict[str, bytes] = {}
    for patient in PATIENTS:
        second = (frontal, {}) if patient == BLIND else (lateral, LATERAL)
        for number, (image, tags) in enumerate([(frontal, {}), second]):
            path = tmp_path / "radiograph.dcm"
            write_line_integrals(path, image, InstanceNumber=number + 1, **tags)
            objects[key(patient, "radiographs", number)] = path.read_bytes()
        objects |= {key(patient, "ct", path.name): path.read_bytes() for path in sorted(ct.iterdir())}
    with bucket(objects) as server:
        yield server


def key(patient: str, kind: str, file: object) -> str:
    return f"{uuid(patient, kind)}/{uuid(patient, kind, file)}.dcm"


def write_chest(folder: Path) -> Path:
    """A CT series of the phantom, of columns to the patient's left and rows to posterior."""
    stored = (chest(VOXELS)[::-1, ::-1, SLICES] - INTERCEPT).astype("<i2")

    def fill(image: Dataset, index: int) -> None:
        image.PixelData, image.PatientID = stored[..., index].T.tobytes(), TAGS["PatientID"]

    return write_series(folder, fill, shape=stored.shape, spacing=(FOV_MM / VOXELS,) * 3)


def write_manifest(server: Bucket, path: Path) -> Path:
    def entry(patient: str, kind: str) -> dict[str, object]:
        series = uuid(patient, kind)
        sizes = [len(content) for name, content in server.objects.items() if name.startswith(series)]
        return {"series": series, "objects": len(sizes), "bytes": sum(sizes)}

    patients = [{"patient": each, **{kind: entry(each, kind) for kind in ("radiographs", "ct")}} for each in PATIENTS]
    path.write_text(json.dumps({**COLLECTION, "address": "https://bucket.example", "patients": patients}))
    return path


def write_prediction(folder: Path) -> Path:
    """On another grid than the CT's, breathed in."""
    grown = torch.diag(torch.tensor([1.0, 1.0, BREATH, 1.0], dtype=torch.float64))
    write_ct(str(folder / f"{SCORED}.nii.gz"), torch.from_numpy(chest(80)), grown @ cube_affine(80, FOV_MM))
    return folder


def wait_for_end_of(folder: Path) -> None:
    """Until nobody fetches into a folder."""
    end = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < end:
        try:
            hold_folder(str(folder))
        except OutputError:
            time.sleep(0.01)
        else:
            return leave_folder(str(folder))
    raise AssertionError(f"{folder} is in use.")


@on_posix
def test_a_fetch_that_was_killed_ends_in_pairs_on_which_a_folder_of_volumes_is_scored(
    command, server: Bucket, tmp_path: Path, capfd
):
    data, output = tmp_path / "data", tmp_path / "scores"
    options = ("--manifest", write_manifest(server, tmp_path / "manifest.json"), "--address", server.address)
    fetch = ("fetch", *options, "--dir", data)

    server.stop[key(MET, "ct", "30.dcm")] = 500
    child = os.fork()
    if child == 0:
        try:
            command(*fetch)
        finally:
            os._exit(0)
    assert server.stopped.wait(SECONDS_TO_WAIT)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    wait_for_end_of(data)
    assert not (data / "datalist.json").exists()
    damaged = data / SCORED / "ct" / key(SCORED, "ct", "7.dcm").partition("/")[2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    server.asked.clear()
    capfd.readouterr()

    assert command(*fetch) == 0
    printed = capfd.readouterr()
    assert f"{damaged}: is damaged, fetched again" in printed.out + printed.err
    assert damaged.read_bytes() == server.objects[key(SCORED, "ct", "7.dcm")]
    again = [number for number in range(9) if server.starts_of(key(SCORED, "ct", f"{number}.dcm"))]
    assert again == [7], "what is whole is not asked for again"

    scored = (*next_arguments(printed.out), "--predictions", write_prediction(tmp_path / "volumes"))
    assert command(*scored, "--output", output) == 0
    content = json.loads((output / "pairs.json").read_text())
    assert (content["scored"], content["failed"], content["met"]) == (1, {}, [MET])
    assert [(each["patient"], each["reason"][:21]) for each in content["excluded"]] == [
        (BLIND, "no lateral radiograph")
    ]
    with open(output / "pairs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["patient"] == SCORED and float(row["dice_lungs_affine"]) > 0.95
    assert float(row["lungs_l_error"]) / float(row["lungs_l_ct"]) == pytest.approx(BREATH - 1, abs=0.02)
    assert float(row["thorax_height_mm_error"]) == pytest.approx((BREATH - 1) * HEIGHT_MM, abs=6)
    assert "1 of 1 pairs are scored." in capfd.readouterr().out
