"""A public collection becomes a folder of CTs and the datalist of a training; who is left out has a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from ct_series_files import write_series
from object_server import COLLECTION, Bucket, bucket, killed_at_its_stop
from scripts import InputError, load_records
from scripts.data.chest_ct import check_chest_ct, check_chest_series
from scripts.data.collection import LEAST_SLICES, SHIPPED, chosen_ct, manifest_content
from scripts.data.datalist_check import check_records, training_transforms
from scripts.data.idc_index import INSTALL, IndexedCollection, IndexedSeries, collection_id, indexed_collection
from scripts.data.manifest import LIDC_PAIRS, as_manifest, read_manifest
from scripts.data.met_patients import met_patients
from scripts.fetch import main
from unwritable import on_posix

SLICES = {f"LIDC-IDRI-{number}": 41 for number in ("0001", "0005", "0006", "0007", "0008")} | {"LIDC-IDRI-0010": 20}
"""Of 5 mm: CTs of 205 mm, and a shorter one. The weights have met LIDC-IDRI-0001."""
EXCLUDED = [{"patient": "LIDC-IDRI-0003", "reason": "too few slices: 12, expected at least 40"},
            {"patient": "LIDC-IDRI-0090", "reason": "no CT of the chest: HEAD, expected the chest"}]  # fmt: skip


def uuid(*parts: object) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(map(str, parts))))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Objects of all patients, by key."""
    folder, objects = tmp_path_factory.mktemp("made"), {}
    for number, (patient, slices) in enumerate(SLICES.items()):

        def name_and_tell_apart(image: Any, index: int, patient: str = patient, number: int = number) -> None:
            image.PatientID, image.RescaleIntercept = patient, -1024 - 10 * number

        write_series(folder / patient, name_and_tell_apart, shape=(21, 21, slices), spacing=(12.0, 12.0, 5.0))
        for path in (folder / patient).iterdir():
            objects[f"{uuid(patient)}/{uuid(patient, path.name)}.dcm"] = path.read_bytes()
    return objects


@pytest.fixture
def server(contents: dict[str, bytes]) -> Iterator[Bucket]:
    with bucket(dict(contents)) as server:
        yield server


@pytest.fixture
def manifest(server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a collection that comes with the bundle as "made"."""

    def entry(patient: str) -> dict[str, Any]:
        sizes = [len(content) for key, content in server.objects.items() if key.startswith(uuid(patient))]
        return {"patient": patient, "ct": {"series": uuid(patient), "objects": len(sizes), "bytes": sum(sizes)}}

    content = {**COLLECTION, "address": "https://bucket.example", "citation": "Somebody and others, 2015"}
    path = tmp_path / "made.json"
    path.write_text(json.dumps({**content, "patients": [*map(entry, SLICES)], "excluded": EXCLUDED}))
    monkeypatch.setitem(SHIPPED, "made", path)
    return path


def fetch(server: Bucket, folder: Path, patients: str = "all", *options: str) -> int:
    return main(["Made", "--dir", str(folder), "--address", server.address, "--patients", patients, *options])


def fetched(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "datalist.json").read_text(encoding="utf-8"))


@on_posix
def test_a_fetch_that_was_killed_goes_on_and_ends_with_what_training_reads(
    server: Bucket, manifest: Path, tmp_path: Path, capsys
):
    folder, key = tmp_path / "d", f"{uuid('LIDC-IDRI-0010')}/{uuid('LIDC-IDRI-0010', '3.dcm')}.dcm"
    server.stop[key] = 500
    with killed_at_its_stop(server, lambda: fetch(server, folder)):
        pass
    assert not (folder / "datalist.json").exists()
    damaged = min((folder / "LIDC-IDRI-0005" / "ct").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    server.asked.clear()
    assert fetch(server, folder) == 0
    assert f"{damaged}: is damaged, fetched again" in capsys.readouterr().out
    whole = [path for path, _ in server.asked if path.startswith(f"/{uuid('LIDC-IDRI-0005')}/")]
    assert whole == [f"/{uuid('LIDC-IDRI-0005')}/{damaged.name}"]

    made = fetched(folder)
    assert [entry["patient"] for entry in made["excluded"]] == ["LIDC-IDRI-0003", "LIDC-IDRI-0010", "LIDC-IDRI-0090"]
    assert made["excluded"][0] == EXCLUDED[0]
    assert made["excluded"][1]["reason"].startswith("CT too small for a chest: 20 slices, 252 x 252 x 100 mm")
    records = {record["patient"]: record for name in ("training", "validation", "test") for record in made[name]}
    assert sorted(records) == sorted(SLICES)[:-1] and all(made[name] for name in ("training", "validation", "test"))
    assert records["LIDC-IDRI-0001"] in made["training"] and records["LIDC-IDRI-0001"]["source"]["met"] == "training"
    ordinary = records["LIDC-IDRI-0006"]
    assert (ordinary["ct"], ordinary["collection"], ordinary["licence"]) == (
        "LIDC-IDRI-0006/ct", "LIDC-IDRI", "CC BY 3.0",
    )  # fmt: skip
    assert ordinary["source"] == {
        "ct": f"https://bucket.example/{uuid('LIDC-IDRI-0006')}/",
        **{name: COLLECTION[name] for name in ("doi", "licence_url", "attribution")},
    }
    assert json.loads((folder / "source.json").read_text())["citation"] == "Somebody and others, 2015"
    for name in ("training", "validation", "test"):
        assert len(load_records(str(folder / "datalist.json"), name)) == len(made[name])
    small = training_transforms(volume_size=32, **{"geometry#detector_pixels": 32})
    problems, count = check_records(str(folder / "datalist.json"), small)
    assert count == 5 and not [problem for problem in problems if problem.is_error]


def test_the_first_patients_are_fetched_and_those_passed_over_are_named(
    server: Bucket, manifest: Path, tmp_path: Path, capsys
):
    assert fetch(server, tmp_path / "d", "2") == 0
    made = fetched(tmp_path / "d")
    assert [record["patient"] for record in made["training"]] == ["LIDC-IDRI-0001", "LIDC-IDRI-0005"]
    assert made["excluded"] == EXCLUDED[:1] and not made["validation"]
    out = capsys.readouterr().out
    assert "The section 'validation' is empty; fetch more patients." in out
    assert fetch(server, tmp_path / "d", "3") == 0, "one more is added to the same folder"
    made = fetched(tmp_path / "d")
    assert [len(made[name]) for name in ("training", "validation", "test")] == [2, 1, 0]


def test_what_would_be_fetched_is_said_without_asking_for_it(server: Bucket, manifest: Path, tmp_path: Path, capsys):
    assert fetch(server, tmp_path / "d", "all", "--dry-run") == 0
    files, size = len(server.objects), sum(map(len, server.objects.values()))
    assert f"6 patients, {files} files, {size / 1e9:.2f} GB" in capsys.readouterr().out
    assert not server.asked and not (tmp_path / "d").exists()


def test_a_whole_collection_is_fetched_only_by_saying_so(server: Bucket, manifest: Path, tmp_path: Path, capsys):
    assert main(["Made", "--dir", str(tmp_path / "d"), "--address", server.address]) == 1
    assert "give --patients N, or --patients all" in capsys.readouterr().err and not server.asked


def test_a_licence_that_does_not_allow_any_use_has_to_be_asked_for(
    server: Bucket, manifest: Path, tmp_path: Path, capsys
):
    manifest.write_text(manifest.read_text().replace("CC BY 3.0", "CC BY-NC 3.0"))
    assert fetch(server, tmp_path / "d", "1") == 1
    assert "its licence is CC BY-NC 3.0, expected CC BY or CC0" in capsys.readouterr().err and not server.asked
    assert fetch(server, tmp_path / "d", "1", "--any-licence") == 0
    assert fetched(tmp_path / "d")["training"][0]["licence"] == "CC BY-NC 3.0"


def test_a_datalist_of_something_else_is_not_replaced(server: Bucket, manifest: Path, tmp_path: Path, capsys):
    (tmp_path / "datalist.json").write_text('{"training": [{"ct": "mine.nii.gz"}]}')
    assert fetch(server, tmp_path, "1") == 1
    assert "move it, or choose another folder" in capsys.readouterr().err and not server.asked


def test_a_ct_whose_files_name_somebody_else_is_left_out(server: Bucket, manifest: Path, tmp_path: Path):
    content = json.loads(manifest.read_text())
    content["patients"][2]["patient"] = "LIDC-IDRI-0009"
    manifest.write_text(json.dumps(content))
    assert fetch(server, tmp_path / "d", "3") == 0
    assert fetched(tmp_path / "d")["excluded"][-1] == {
        "patient": "LIDC-IDRI-0009",
        "reason": "CT of another patient: its Patient ID is 'LIDC-IDRI-0006', expected 'LIDC-IDRI-0009'.",
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"spacing": (12.0, 12.0, 6.0)}, "CT too coarse: its slices are 6.0 mm apart"),
        ({"spacing": (9.0, 12.0, 5.0)}, "CT too small for a chest: 41 slices, 189 x 252 x 205 mm"),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)}, "CT not axial: its slices are coronal"),
        ({"name": lambda index: f"{20 if index == 40 else index}.dcm"}, "CT cannot be read: .* uneven steps"),
    ],
)
def test_headers_alone_tell_the_reason_that_the_whole_ct_would(tmp_path: Path, changes: dict[str, Any], reason):
    series = {"shape": (21, 21, 41), "spacing": (12.0, 12.0, 5.0), **changes}
    folder = str(write_series(tmp_path / "ct", **series))
    found = []
    for check in (check_chest_series, check_chest_ct):
        try:
            found.append(check(folder))
        except InputError as error:
            found.append(str(error))
    assert found[0] == found[1] and (re.match(reason, found[0]) if reason else found[0] is None)


def series(uid: str, objects: int = 100, **changes: Any) -> IndexedSeries:
    fields = {"patient": "P", "kind": "CT Image Storage", "body_part": "CHEST", "licence": "CC BY 4.0", "doi": "10.1/x"}
    where = {"uid": uid, "name": uuid(uid), "bucket": "b", "objects": objects, "size": 1000 * objects}
    return IndexedSeries(**{**fields, **where, **changes})


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([series("1.9", 3), series("1.8", 200)], "1.8"),
        ([series("1.1", 200), series("1.2", 200)], "1.1"),
        ([series("1.3", 900, body_part="ABDOMEN"), series("1.4", 900, body_part=""), series("1.5")], "1.5"),
        ([series("1.3", 900, body_part="CHESTABDPELVIS"), series("1.4", body_part="CHEST (THORAX) W")], "1.4"),
        ([series("1.6", 900, kind="Secondary Capture Image Storage"), series("1.7", 4000), series("1.8")], "1.8"),
        (
            [series("1.3", body_part="ABDOMEN"), series("1.4", body_part="")],
            "no CT of the chest: ABDOMEN, none said, expected a Body Part Examined of CHEST, LUNG or THORAX",
        ),
        (
            [series("1.3", body_part="HEAD"), series("1.4", LEAST_SLICES - 1)],
            "too few slices: 39, expected at least 40",
        ),
        ([series("1.3", 4000)], "too many slices: 4000, expected at most 2048"),
        ([series("1.3", patient="../x")], "no name for a folder: "),
    ],
)
def test_of_the_cts_of_the_chest_that_with_the_most_slices_is_chosen(others: list[IndexedSeries], reason: str):
    for order in (others, others[::-1]):
        found = chosen_ct(order)
        assert found.startswith(reason) if isinstance(found, str) else found.uid == reason


def test_a_manifest_of_an_index_has_each_patient_once_and_is_read_as_one():
    indexed = [series("1.2", patient="b.2"), series("1.1", 50, patient="b.2"), series("1.3", 5, patient="a")]
    texts = {name: COLLECTION[name] for name in ("doi", "licence", "licence_url", "attribution")}
    collection = IndexedCollection(
        "Made", **texts, citation="", index="made", address="https://x.y", series=indexed, others=0
    )
    read = as_manifest(manifest_content(collection), "made", kinds=("ct",))
    assert [(patient.name, patient.series["ct"].name) for patient in read.patients] == [("b.2", uuid("1.2"))]
    assert read.excluded == [{"patient": "a", "reason": "too few slices: 5, expected at least 40"}]


def test_two_manifests_of_lidc_say_the_same_of_the_patients_that_they_share():
    collection, pairs = read_manifest(SHIPPED["lidc_idri"], kinds=("ct",)), read_manifest(LIDC_PAIRS)
    found = {patient.name: patient.series["ct"] for patient in collection.patients}
    assert len(found) == 1010 and list(found) == sorted(found) and collection.address == pairs.address
    assert all(found[patient.name] == patient.series["ct"] for patient in pairs.patients)


def test_patients_of_other_collections_have_been_met_too():
    assert met_patients("Lung-PET-CT-Dx") == {"Lung_Dx-A0001": "training"}
    assert set(met_patients("4D-Lung")) == {"113_HM10395"} and set(met_patients("TCGA-THCA")) == {"TCGA-DE-A4MA"}
    assert "LIDC-IDRI-0350" not in met_patients() and not met_patients("NLST")


def test_without_the_index_another_collection_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "idc_index_data", None)
    with pytest.raises(InputError, match="is not installed") as error:
        indexed_collection("NLST")
    assert INSTALL in str(error.value)


def test_the_shipped_manifest_is_what_the_index_gives(tmp_path: Path):
    pytest.importorskip("pyarrow")
    if pytest.importorskip("idc_index_data").__version__ != "25.0.5":
        pytest.skip("another version of the index")
    assert main(["LIDC-IDRI", "--write-manifest", str(tmp_path / "made.json")]) == 0
    assert (tmp_path / "made.json").read_bytes() == SHIPPED["lidc_idri"].read_bytes()
    assert collection_id("NSCLC Radiogenomics") == "nsclc_radiogenomics"
    with pytest.raises(InputError, match="has none of that name"):
        indexed_collection("no such collection")
