"""A PACS and a modality for the tests of the node: DCMTK's programs, and a pair of radiographs to send."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ComputedRadiographyImageStorage

from bundle_runs import OVERLAY, ROOT
from label_server import free_port, write_weights
from phantoms import phantom
from radiograph_files import LATERAL, write_line_integrals
from scripts import BiplanarGeometry, hu_to_attenuation, project
from scripts.io.shared_overlay import shared_part
from warm_python import warm_python

STUDY = "1.2.826.0.1.3680043.8.498.1"
PATIENT = {"PatientName": "Secret^Name", "PatientID": "SECRET-7", "PatientBirthDate": "19700102", "PatientSex": "F"}
NODE, ARCHIVE, MODALITY = "CTNODE", "ARCHIVE", "MODALITY"


def needs(*programs: str) -> None:
    """Skips a test where a program is missing; in continuous integration it has to be there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        assert "CI" not in os.environ, f"{missing[0]} is missing; .ci/run installs it."
        pytest.skip(f"{', '.join(missing)}: no such program here")


def write_pair(folder: Path, study: str = STUDY, **tags: Any) -> list[Path]:
    """A frontal and a lateral CR image of one study, 128 pixels a side."""
    folder.mkdir(parents=True, exist_ok=True)
    radiographs = project(hu_to_attenuation(phantom(24, 0.0)[None, None]), BiplanarGeometry(detector_pixels=128))[0]
    common = {"Modality": "CR", "StudyInstanceUID": study, "StudyDate": "20260102", **PATIENT, **tags}
    paths = []
    for number, (radiograph, view) in enumerate(zip(radiographs.numpy(), ({}, LATERAL))):
        series = {"SeriesInstanceUID": f"{study}.{number}", "SOPInstanceUID": f"{study}.{number}.1"}
        path = folder / f"{number}.dcm"
        write_line_integrals(path, radiograph, SOPClassUID=ComputedRadiographyImageStorage, **common, **series, **view)
        with_file_meta(path)
        paths.append(path)
    return paths


def with_file_meta(path: Path) -> None:
    """Makes a file's header say the SOP class and instance that its data set has."""
    dataset = dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)


def write_served_weights(folder: Path) -> Path:
    """Random weights of a cascade of 16, 32 and 64 voxels, with their sizes beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overlay.json").write_text(json.dumps(shared_part(OVERLAY)))
    write_weights(folder / "model.pt")
    return folder / "model.pt"


def send(port: int, *files: Path, title: str = MODALITY, called: str = NODE) -> str:
    """What `storescu` says of each file."""
    line = ["storescu", "-v", "-aet", title, "-aec", called, "127.0.0.1", str(port), *map(str, files)]
    run = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return run.stdout.decode(errors="replace")


@contextmanager
def archive(folder: Path, port: int) -> Iterator[None]:
    """`storescp`, which writes what it receives into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    line = ["storescp", "-aet", ARCHIVE, "-od", str(folder), str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@dataclass
class Orthanc:
    """A PACS, asked by its own HTTP interface."""

    url: str
    dicom_port: int

    def ask(self, path: str, body: bytes | None = None, method: str | None = None) -> Any:
        request = Request(self.url + path, body, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """A PACS that keeps what it has in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    http_port, dicom_port = free_port(), free_port()
    places = {"StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "index")}
    ports = {"HttpPort": http_port, "DicomPort": dicom_port, "DicomAet": ARCHIVE, "DicomAlwaysAllowStore": True}
    (folder / "orthanc.json").write_text(json.dumps({**places, **ports, "Plugins": []}))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    pacs = Orthanc(f"http://127.0.0.1:{http_port}", dicom_port)
    try:
        wait_for(lambda: _answers(pacs))
        yield pacs
    finally:
        process.kill()
        process.wait()


def _answers(pacs: Orthanc) -> bool:
    try:
        return bool(pacs.ask("/system"))
    except OSError:
        return False


def received(folder: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted(folder.iterdir())]


def wait_for(is_so: Callable[[], Any], timeout_s: float = 300.0) -> Any:
    """What a condition gives once it holds; the time is for a machine with much else to do."""
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, "this did not come to be in time"
        time.sleep(0.05)
    return found


@dataclass
class RunningNode:
    """A node in a process of its own."""

    port: int
    queue: Path
    log: Path
    process: subprocess.Popen

    def kill(self) -> None:
        """At once, as a power cut does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_node(queue: Path, weights: Path, target_port: int, *options: str) -> Iterator[RunningNode]:
    """The node as `python launch.py node` starts it, killed afterwards."""
    port, log = free_port(), queue.parent / f"{free_port()}.log"
    line = [warm_python(), "-m", "dicom_node", "--host", "127.0.0.1", "--port", port, "--aet", NODE]
    line += ["--allow", f"{MODALITY}=127.0.0.1", ARCHIVE, "--most-objects", "20", "--most-gib", "1"]
    line += ["--store", f"{ARCHIVE}@127.0.0.1:{target_port}", "--queue", queue, "--weights", weights]
    line += ["--quiet", "1", "--retry", "1", "--device", "cpu", *options]
    with log.open("wb") as output:
        how = {"cwd": ROOT, "stdout": output, "stderr": output}
        process = subprocess.Popen(list(map(str, line)), env={**os.environ, "OMP_NUM_THREADS": "1"}, **how)
    node = RunningNode(port, queue, log, process)
    try:
        wait_for(lambda: process.poll() is not None or "listens on" in log.read_text())
        assert process.poll() is None, log.read_text()
        yield node
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
