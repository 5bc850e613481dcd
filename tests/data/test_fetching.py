"""A manifest's series come into a folder, whole, and nothing else does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from object_server import COLLECTION, Bucket, bucket, killed_at_its_stop
from scripts.data.manifest import LIDC_PAIRS, read_manifest
from scripts.data.met_patients import met_patients
from scripts.errors import InputError
from scripts.fetch import main
from unwritable import on_posix

SERIES = {name: f"{number:08x}-0000-0000-0000-000000000000" for number, name in enumerate(("x1", "c1", "x2", "c2"))}
SOURCE = {**COLLECTION, "address": "https://127.0.0.1"}


def key(series: str, number: int) -> str:
    return f"{SERIES[series]}/{number:08x}-1111-1111-1111-111111111111.dcm"


def content(series: str, number: int) -> bytes:
    return f"{series} {number} ".encode() * 40_000


@pytest.fixture
def server():
    with bucket({key(name, number): content(name, number) for name in SERIES for number in range(3)}) as server:
        yield server


@pytest.fixture
def manifest(server: Bucket, tmp_path: Path) -> Path:
    def entry(name: str) -> dict:
        return {"series": SERIES[name], "objects": 3, "bytes": sum(len(content(name, i)) for i in range(3))}

    patients = [{"patient": f"LIDC-IDRI-000{i}", "radiographs": entry(f"x{i}"), "ct": entry(f"c{i}")} for i in (1, 2)]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**SOURCE, "patients": patients}))
    return path


def fetch(server: Bucket, manifest: Path, folder: Path, *options: str) -> int:
    return main(["--manifest", str(manifest), "--dir", str(folder), "--address", server.address, *options])


def files(folder: Path) -> dict[str, bytes]:
    """What was fetched, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.dcm*")}


def expected(patient: int) -> dict[str, bytes]:
    places = {"radiographs": f"x{patient}", "ct": f"c{patient}"}
    return {
        f"LIDC-IDRI-000{patient}/{kind}/{key(name, i).partition('/')[2]}": content(name, i)
        for kind, name in places.items()
        for i in range(3)
    }


def test_every_patient_has_a_folder_and_the_licence_lies_with_them(server: Bucket, manifest: Path, tmp_path: Path):
    assert fetch(server, manifest, tmp_path / "d") == 0
    assert files(tmp_path / "d") == expected(1) | expected(2)
    source = json.loads((tmp_path / "d" / "source.json").read_text())
    assert source["licence"] == "CC BY 3.0" and source["doi"] == SOURCE["doi"]


def test_patients_whom_the_weights_have_met_come_last(server: Bucket, manifest: Path, tmp_path: Path):
    assert met_patients()["LIDC-IDRI-0001"] == "training"
    assert fetch(server, manifest, tmp_path / "d", "--patients", "1") == 0
    assert files(tmp_path / "d") == expected(2)


def test_what_is_whole_is_not_fetched_again_and_what_is_damaged_is_named(
    server: Bucket, manifest: Path, tmp_path: Path, capsys
):
    assert fetch(server, manifest, tmp_path / "d") == 0
    server.asked.clear()
    damaged = tmp_path / "d" / next(iter(expected(2)))
    damaged.write_bytes(b"X" + damaged.read_bytes()[1:])
    assert fetch(server, manifest, tmp_path / "d") == 0
    assert [path for path, _ in server.asked if path != "/"] == [f"/{key('x2', 0)}"]
    assert f"{damaged}: is damaged, fetched again" in capsys.readouterr().out
    assert files(tmp_path / "d") == expected(1) | expected(2)


@on_posix
def test_a_killed_process_is_gone_on_from_where_it_was(server: Bucket, manifest: Path, tmp_path: Path):
    server.stop[key("c2", 1)] = 120_000
    part = tmp_path / "d" / "LIDC-IDRI-0002" / "ct" / f"{key('c2', 1).partition('/')[2]}.part"
    with killed_at_its_stop(server, lambda: fetch(server, manifest, tmp_path / "d")):
        end = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size) and time.monotonic() < end:  # it is written a little later
            time.sleep(0.01)
    came = part.stat().st_size
    assert not part.with_suffix("").exists() and 0 < came < len(content("c2", 1))
    assert fetch(server, manifest, tmp_path / "d") == 0
    assert files(tmp_path / "d") == expected(1) | expected(2)
    assert server.starts_of(key("c2", 1)) == [0, came] and server.starts_of(key("x2", 0)) == [0]


@pytest.mark.parametrize("name", ["../../outside.dcm", "a/b.dcm", "x.dcm", ".dcm", "\x1b[2J.dcm", "..\\outside.dcm"])
def test_a_key_that_leaves_its_folder_is_refused(server: Bucket, manifest: Path, tmp_path: Path, capsys, name: str):
    folder = tmp_path / "above" / "d"
    server.objects[f"{SERIES['x2']}/{name}"] = server.objects.pop(key("x2", 2))
    if "\x1b" in name:  # which XML does not hold
        assert fetch(server, manifest, folder) == 1 and "no XML" in capsys.readouterr().err
    else:
        assert fetch(server, manifest, folder) == 1
        assert "expected 00000002-0000-0000-0000-000000000000/UUID.dcm" in capsys.readouterr().err
    assert not files(folder) and not list(tmp_path.glob("**/outside*"))


def test_a_series_of_more_bytes_than_the_manifest_says_is_refused(
    server: Bucket, manifest: Path, tmp_path: Path, capsys
):
    server.objects[key("x2", 0)] += b"more"
    assert fetch(server, manifest, tmp_path / "d") == 1
    assert "as the manifest says" in capsys.readouterr().err and not files(tmp_path / "d")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patient", "../a"), ("patient", ""), ("ct", {"series": "../x", "objects": 1, "bytes": 1}), ("ct", None),
        ("ct", {"series": SERIES["c1"], "objects": 1, "bytes": 2**60}),
    ],
)  # fmt: skip
def test_a_manifest_that_names_what_it_may_not_is_refused(manifest: Path, field: str, value: object):
    wrong = json.loads(manifest.read_text())
    wrong["patients"][0][field] = value
    manifest.write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=rf"patients\[0\]: field '{field}'"):
        read_manifest(manifest)


def test_the_shipped_manifest_has_a_ct_and_two_radiographs_or_more_of_each_patient():
    manifest = read_manifest(LIDC_PAIRS)
    assert len(manifest.patients) == 199 and manifest.address.startswith("https://")
    assert all(each.series["radiographs"].objects >= 2 and each.series["ct"].objects > 50 for each in manifest.patients)
    assert {patient.name for patient in manifest.patients} >= {"LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028"}
    unmet = manifest.chosen(196, last=tuple(met_patients()))
    assert not {patient.name for patient in unmet} & set(met_patients())
