"""The DICOM node, by DCMTK's programs as modality and archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from highdicom import sr
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from bundle_runs import bundle_run
from dicom_node import reception
from dicom_node.identity import give_identity, without_identity
from dicom_node.peers import Sender, check_reach, is_allowed, sender
from dicom_node.reception import Reception
from dicom_node.report import measurement_report
from dicom_node.study_queue import MOST_ATTEMPTS, REASON, StudyQueue
from dicom_node.worker import Worker
from dicom_peers import (
    ARCHIVE,
    MODALITY,
    NODE,
    PATIENT,
    STUDY,
    archive,
    needs,
    received,
    running_node,
    send,
    wait_for,
    with_file_meta,
    write_pair,
    write_served_weights,
)
from label_server import free_port
from phantoms import phantom
from scripts import LoadCTd
from scripts.errors import InputError
from scripts.evaluation.measurement_intervals import content_with_intervals
from scripts.evaluation.measurements import measure

GIB = 2**30


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_served_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@dataclass
class Delivered:
    """What has become of a pair that was sent."""

    folder: Path
    """Where the archive has put what it received."""
    log: str
    sent: str
    queue: Path

    def of(self, modality: str) -> list[Dataset]:
        return [each for each in received(self.folder) if each.Modality == modality]


@pytest.fixture(scope="module")
def delivered(weights: Path, pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    needs("storescu", "storescp")
    folder, port = tmp_path_factory.mktemp("node"), free_port()
    with archive(folder / "archive", port), running_node(folder / "queue", weights, port) as node:
        said = send(node.port, *pair)
        wait_for(lambda: "stored to" in node.log.read_text())
        return Delivered(folder / "archive", node.log.read_text(), said, folder / "queue")


@pytest.fixture(scope="module")
def reconstructed(weights: Path, pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `infer` writes of the same pair."""
    folder = tmp_path_factory.mktemp("infer")
    configs = ["bundle/configs/inference.json", str(weights.parent / "overlay.json")]
    frontal, lateral = pair
    run = bundle_run("run", configs, weights=weights, output_dir=folder, frontal=frontal, lateral=lateral)
    assert run.returncode == 0, run.stdout[-2000:]
    return folder


def test_the_archive_gets_the_ct_that_infer_writes(delivered: Delivered, reconstructed: Path, tmp_path: Path):
    assert delivered.sent.count("Received Store Response (Success)") == 2
    expected = nibabel.load(reconstructed / "ct.nii.gz")
    series = tmp_path / "series"
    series.mkdir()
    for each in delivered.of("CT"):
        each.save_as(series / f"{each.InstanceNumber}.dcm")
    found = LoadCTd("ct")({"ct": str(series)})["ct"]
    to_expected = np.linalg.inv(expected.affine) @ found.affine.numpy()
    indices = np.indices(found.shape[1:]).reshape(3, -1)
    places = to_expected[:3, :3] @ indices + to_expected[:3, 3:]
    np.testing.assert_allclose(places, np.rint(places), atol=1e-4)
    same = np.asanyarray(expected.dataobj)[tuple(np.rint(places).astype(int))]
    np.testing.assert_array_equal(found[0].numpy().reshape(-1), same)
    assert found[0].numel() == np.prod(expected.shape)


def test_results_are_of_the_study_and_say_what_they_are(delivered: Delivered, pair: list[Path]):
    sources = [dcmread(path).SOPInstanceUID for path in pair]
    for each in received(delivered.folder):
        assert {name: each[name].value for name in PATIENT} == PATIENT
        assert each.StudyInstanceUID == STUDY
        assert each.SeriesInstanceUID not in [dcmread(path).SeriesInstanceUID for path in pair]
        assert "not for diagnosis" in each.SeriesDescription
        if each.Modality == "SR":
            continue
        assert list(each.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert [item.ReferencedSOPInstanceUID for item in each.SourceImageSequence] == sources


def test_the_archive_gets_a_report_of_the_measurements(delivered: Delivered):
    (document,) = delivered.of("SR")
    report = sr.srread(BytesIO(as_file(document)))
    assert document.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurementReport.value
    (group,) = report.content.get_image_measurement_groups()
    sources = {item.referenced_sop_instance_uid for item in group.source_images}
    assert sources == {each.SOPInstanceUID for each in delivered.of("CT")}
    said = [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]
    assert {"Research use only, not for diagnosis.", "Out-of-distribution detection: not assessed."} <= set(said)


def test_the_archive_gets_the_picture_of_the_page(delivered: Delivered, reconstructed: Path):
    (picture,) = delivered.of("OT")
    expected = np.asarray(Image.open(reconstructed / "preview.png").convert("RGB"))
    np.testing.assert_array_equal(picture.pixel_array, expected)


def as_file(dataset: Dataset) -> bytes:
    content = BytesIO()
    dataset.save_as(content)
    return content.getvalue()


def test_a_report_has_the_figures_with_their_units_and_the_ends_of_their_intervals(delivered: Delivered):
    figures = content_with_intervals(measure(phantom(64, 0.0), 5.6), None)
    lungs = next(row for row in figures["measurements"] if row["key"] == "lungs_l")
    low, high = lungs["value"] - 0.25, lungs["value"] + 0.5
    lungs |= {"interval": [low, high], "interval_level": 0.9, "interval_patients": 12}
    slices = [without_identity(each) for each in delivered.of("CT")]
    written = measurement_report(figures, slices, ["A remark."])
    (group,) = sr.srread(BytesIO(as_file(written))).content.get_image_measurement_groups()
    found = {each.name.value: each for each in group.get_measurements()}
    taken = {row["key"]: row for row in figures["measurements"] if row["value"] is not None}
    assert len(taken) > 5 and {name: each.value for name, each in found.items()} == pytest.approx(
        {name: row["value"] for name, row in taken.items()}
    )
    units = {"L": "l", "mm": "mm", "HU": "[hnsf'U]", "": "1"}
    assert {name: each.unit.value for name, each in found.items()} == {
        name: units[row["unit"]] for name, row in taken.items()
    }
    ends = [float(item.MeasuredValueSequence[0].NumericValue) for item in found["lungs_l"][0].ContentSequence]
    assert sorted(ends) == pytest.approx([0.25, 0.5])


def test_a_patients_name_keeps_its_letters_and_odd_tags_are_no_obstacle(delivered: Delivered):
    header = without_identity(delivered.of("CT")[0])
    header.SpecificCharacterSet, header.PatientName, header.PatientSex = "ISO_IR 100", "Müller^Jörg", "U"
    header.PatientBirthDate = "nope"
    header = dcmread(BytesIO(as_file(header)))
    nothing = {"statement": "Nothing was measured.", "measurements": []}
    document = measurement_report(nothing, [without_identity(header)], ["64³"])
    give_identity(document, header)
    found = dcmread(BytesIO(as_file(document)))
    assert (str(found.PatientName), found.PatientSex, found.StudyInstanceUID) == ("Müller^Jörg", "U", STUDY)
    assert found.ContentSequence[-1].TextValue == "64³"


def test_the_log_names_no_patient_and_no_study(delivered: Delivered):
    for value in (*PATIENT.values(), STUDY, "Secret"):
        assert len(value) < 3 or value not in delivered.log


def test_nothing_stays_in_the_queue_of_what_was_delivered(delivered: Delivered):
    assert [path for path in delivered.queue.rglob("*") if path.is_file()] == [delivered.queue / "in_use.lock"]


def test_every_object_is_one_of_its_class(delivered: Delivered):
    needs("dciodvfy")
    kinds = {path.name[:2]: path for path in delivered.folder.iterdir()}
    for path in kinds.values():
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60)
        assert "Error" not in said.stderr, said.stderr


def test_a_killed_node_goes_on_where_it_was(weights: Path, pair: list[Path], tmp_path: Path):
    """Killed when it had received the pair, killed again when no archive was there for the result."""
    needs("storescu", "storescp")
    port = free_port()
    with running_node(tmp_path / "queue", weights, port, "--quiet", "600") as node:
        assert send(node.port, *pair).count("(Success)") == 2
        node.kill()
    with running_node(tmp_path / "queue", weights, port) as node:
        wait_for(lambda: "did not take 66 results" in node.log.read_text() or "not sent" in node.log.read_text())
        node.kill()
    with archive(tmp_path / "archive", port), running_node(tmp_path / "queue", weights, port) as node:
        wait_for(lambda: f"stored to {ARCHIVE}" in node.log.read_text())
        assert "reconstructed" not in node.log.read_text()
    assert Counter(each.Modality for each in received(tmp_path / "archive")) == {"CT": 64, "SR": 1, "OT": 1}


@dataclass
class Receiving:
    """A reception in this process, of which the queue stays as it is."""

    port: int
    queue: StudyQueue

    def objects(self) -> list[Path]:
        return sorted(self.queue.studies.rglob("*.dcm"))


@pytest.fixture
def receiving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiving]:
    needs("storescu", "echoscu")
    monkeypatch.setattr(tempfile, "tempdir", None)  # which a reception sets
    queue = StudyQueue(tmp_path / "queue", most_objects=3, most_bytes=GIB)
    receiver = Reception(queue, NODE, [Sender(MODALITY), Sender("FAR", frozenset({"192.0.2.1"}))], ("127.0.0.1", 0))
    thread = threading.Thread(target=receiver.run)
    thread.start()
    yield Receiving(receiver.port, queue)
    receiver.close()
    thread.join()


def echo(port: int, title: str = MODALITY, called: str = NODE) -> bool:
    line = ["echoscu", "-aet", title, "-aec", called, "127.0.0.1", str(port)]
    return subprocess.run(line, capture_output=True, timeout=60).returncode == 0


def test_who_is_not_allowed_is_rejected(receiving: Receiving, pair: list[Path]):
    assert echo(receiving.port)
    assert not echo(receiving.port, "STRANGER")
    assert not echo(receiving.port, "FAR")  # whose name is known, from elsewhere
    assert not echo(receiving.port, called="OTHER")
    said = send(receiving.port, *pair, title="STRANGER")
    assert "Calling AE Title Not Recognized" in said
    assert receiving.objects() == []


def test_an_object_lies_under_a_name_that_is_no_senders(receiving: Receiving, tmp_path: Path):
    files = write_pair(tmp_path / "sent", "1.2.3")
    assert send(receiving.port, *files).count("(Success)") == 2
    study = hashlib.sha256(b"1.2.3").hexdigest()[:32]
    assert {path.parent.name for path in receiving.objects()} == {study}
    assert not any(receiving.queue.arriving.iterdir())


def changed(path: Path, target: Path, **tags: object) -> Path:
    """A copy with other tags; None takes one out."""
    dataset = dcmread(path)
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(target)
    with_file_meta(target)
    return target


@pytest.mark.parametrize(
    ("tags", "answer"),
    [
        ({"PixelData": b"\0" * 100}, "CannotUnderstand"),
        ({"Modality": "MR"}, "DataSetDoesNotMatchSOPClass"),
        ({"StudyInstanceUID": None}, "DataSetDoesNotMatchSOPClass"),
        ({"StudyInstanceUID": "../../../etc/passwd"}, "DataSetDoesNotMatchSOPClass"),
        ({"SamplesPerPixel": 3}, "DataSetDoesNotMatchSOPClass"),
        ({"Rows": 60000, "Columns": 60000}, "OutOfResources"),
        ({"PatientBirthDate": "x" * 60000}, None),
    ],
)
def test_a_broken_object_is_answered_and_not_kept(receiving: Receiving, pair, tmp_path: Path, tags, answer):
    said = send(receiving.port, changed(pair[0], tmp_path / "broken.dcm", **tags))
    if answer is None:  # odd, and whole
        assert "(Success)" in said and len(receiving.objects()) == 1
        return
    assert answer in said.replace(" ", ""), said
    assert receiving.objects() == []
    assert send(receiving.port, pair[0]).count("(Success)") == 1


@pytest.mark.parametrize("uid", ["../../../tmp/evil", "/etc/passwd", "1.2\0.3", "$(reboot)", "1.2.3" + ".4" * 40])
def test_no_instance_is_a_path(receiving: Receiving, pair: list[Path], uid: str):
    """By a client that sends UIDs as they are, which DCMTK's does not, or not at all."""
    dataset = dcmread(pair[0])
    dataset.SOPInstanceUID = uid
    client = AE(MODALITY)
    client.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = client.associate("127.0.0.1", receiving.port, ae_title=NODE)
    with suppress(ValueError):  # longer than this client sends
        assert association.send_c_store(dataset).get("Status") in (0xA900, None)
    association.abort()
    assert echo(receiving.port)
    assert [path for path in receiving.queue.folder.rglob("*.dcm") if path.parent != receiving.queue.arriving] == []


def test_a_sender_is_cut_off_when_it_sends_more_than_an_object_may_have(receiving: Receiving, pair, monkeypatch):
    monkeypatch.setattr(reception, "MOST_UNANSWERED", 20_000)  # the radiograph has 33 kB
    assert "(Success)" not in send(receiving.port, pair[0])
    assert receiving.objects() == [] and echo(receiving.port)
    (left,) = receiving.queue.arriving.iterdir()
    assert left.stat().st_size < 20_000
    os.utime(left, (0, 0))  # long ago
    assert receiving.queue.has_room() and not left.exists()


def test_another_sop_class_finds_no_presentation_context(receiving: Receiving, pair: list[Path], tmp_path: Path):
    ct = changed(pair[0], tmp_path / "ct.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    said = send(receiving.port, ct)
    assert "No valid Presentation Context ID" in said
    assert receiving.objects() == []


def test_a_full_queue_says_so_and_takes_more_when_there_is_room(receiving: Receiving, tmp_path: Path):
    files = write_pair(tmp_path / "a", "1.2.3") + write_pair(tmp_path / "b", "1.2.4")
    said = [send(receiving.port, path) for path in files]
    assert ["(Success)" in each for each in said] == [True, True, True, False]
    assert "OutOfResources" in said[-1].replace(" ", "")
    shutil.rmtree(receiving.objects()[0].parent)
    assert "(Success)" in send(receiving.port, files[-1])


@pytest.mark.parametrize(
    "sent",
    [
        b"\x04\0\xff\xff\xff\xff" + b"\0" * 2**20,
        b"\x01\0\xff\xff\xff\xff" + b"\0" * 2**20,
        b"\x04\0\0\0\0\x06\0\0\0\x02\x01\x03",
        b"\x01\0\0\0\0\x44" + b"\xff" * 68,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x77" * 5000,
    ],
    ids=["data", "request", "data without a request", "request of nothing", "http", "unknown"],
)
def test_no_bytes_end_the_node_or_fill_its_memory(receiving: Receiving, sent: bytes, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # a connection's thread may end by them
    with socket.create_connection(("127.0.0.1", receiving.port), timeout=5) as connection:
        try:
            connection.sendall(sent)
            connection.settimeout(0.5)
            while connection.recv(1000):
                pass
        except (ConnectionError, TimeoutError):
            pass
    assert echo(receiving.port)


def in_queue(queue: StudyQueue, files: list[Path]) -> None:
    """As if they had been received just now, long ago."""
    for path in files:
        place = queue.studies / hashlib.sha256(dcmread(path).StudyInstanceUID.encode()).hexdigest()[:32]
        place.mkdir(exist_ok=True)
        shutil.copyfile(path, place / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.dcm")


@pytest.fixture
def queue(tmp_path: Path) -> StudyQueue:
    return StudyQueue(tmp_path / "queue", 100, GIB)


def reasons(queue: StudyQueue) -> list[str]:
    return [(place / REASON).read_text() for place in sorted(queue.failed.iterdir())]


def test_what_has_no_partner_waits_with_the_reason_until_it_comes(queue: StudyQueue, pair: list[Path], caplog):
    worker = Worker(queue, None, 0.0)
    in_queue(queue, pair[:1])
    assert worker.work()
    assert "its study has 1 frontal and 0 lateral radiographs, expected one of each" in reasons(queue)[0]
    assert "not reconstructed" in caplog.text
    assert not [value for value in (STUDY, PATIENT["PatientID"], "Secret") if value in caplog.text]
    in_queue(queue, pair[1:])
    job = queue.claim(0.0)
    assert len(list(job.radiographs.iterdir())) == 2 and not any(queue.failed.iterdir())


def test_two_patients_of_one_study_are_no_pair(queue: StudyQueue, pair: list[Path], tmp_path: Path):
    in_queue(queue, [pair[0], changed(pair[1], tmp_path / "other.dcm", PatientID="another")])
    assert Worker(queue, None, 0.0).work()
    assert "1 frontal and 0 lateral" in reasons(queue)[0] and "0 frontal and 1 lateral" in reasons(queue)[0]


def test_a_study_is_left_alone_while_more_of_it_comes(queue: StudyQueue, pair: list[Path]):
    in_queue(queue, pair[:1])
    assert queue.claim(60.0) is None
    time.sleep(0.05)
    assert queue.claim(0.04) is not None


def test_a_folder_of_somebodys_own_is_no_queue(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(InputError, match="holds letter.txt, which is no queue's"):
        StudyQueue(tmp_path, 100, GIB)


def test_a_study_that_ends_the_node_is_not_tried_for_ever(queue: StudyQueue, pair: list[Path]):
    in_queue(queue, pair)
    job = queue.claim(0.0)
    for _ in range(MOST_ATTEMPTS):
        job.start()
    assert Worker(queue, None, 0.0).work()
    assert reasons(queue) == ["2 times the node ended while it reconstructed this study.\n"]
    assert len(list(queue.failed.rglob("*.dcm"))) == 2 and queue.jobs() == []


def test_nothing_is_reconstructed_into_a_queue_that_is_full(queue: StudyQueue, pair: list[Path]):
    in_queue(queue, pair)
    queue.most_bytes = 1000
    assert not Worker(queue, None, 0.0).work()
    assert len(list(queue.jobs()[0].radiographs.iterdir())) == 2


def test_beyond_this_machine_a_sender_has_to_come_from_a_known_place():
    assert is_allowed([sender("A=192.0.2.1")], "A", "::ffff:192.0.2.1")
    assert not is_allowed([sender("A=192.0.2.1")], "A", "192.0.2.2")
    check_reach("127.0.0.1", [sender("A")])
    check_reach("0.0.0.0", [sender("A=192.0.2.1")])
    with pytest.raises(InputError, match="--allow A=HOST"):
        check_reach("0.0.0.0", [sender("A")])
