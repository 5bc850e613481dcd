from __future__ import annotations

import json
from pathlib import Path

import pytest

from phantoms import phantom
from scripts import InputError
from scripts.data.evaluation_records import evaluation_records, training_records
from scripts.io.image_writer import cube_affine, write_ct
from study_files import write_series

SPLIT = {"training": [{"ct": "a.nii.gz"}], "test": [{"ct": "b.nii.gz"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans of one patient, one of another."""
    folder = tmp_path / "data"
    for path in ("a.nii.gz", "b.nii.gz", "p9/s1.nii.gz", "p9/s2.nii.gz", "notes.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
        if path.endswith(".nii.gz"):
            write_ct(str(folder / path), phantom(8, 0.0), cube_affine(8, 360.0))
    return folder


def test_without_a_datalist_every_ct_of_the_folder_is_a_case_and_patients_are_numbered(folder: Path, capsys):
    records = evaluation_records(str(folder / "datalist.json"), "test", str(folder))
    assert [(record["name"], record["patient"], record["group"]) for record in records] == [
        ("a", "patient_1", "test"),
        ("b", "patient_2", "test"),
        ("p9_s1", "patient_3", "test"),
        ("p9_s2", "patient_3", "test"),
    ]
    assert [record["ct"] for record in records[:2]] == [str(folder / "a.nii.gz"), str(folder / "b.nii.gz")]
    printed = capsys.readouterr().out
    assert "each of the 4 CTs found there is a case" in printed and "notes.txt" in printed
    assert training_records(str(folder / "datalist.json"), str(folder)) == []


def test_cts_without_a_patient_id_are_patients_by_folder_and_told(folder: Path, capsys):
    for series, study in (("x", "1.1"), ("y", "1.2"), ("z", "1.2")):
        write_series(folder / series, PatientID="", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.{ord(series)}")
    records = evaluation_records(str(folder / "datalist.json"), "test", str(folder))
    patients = {record["name"]: record["patient"] for record in records}
    assert patients["y"] == patients["z"] and len(set(patients.values())) == 5
    assert all(patient.startswith("patient_") for patient in patients.values())
    printed = capsys.readouterr().out
    assert "Without a Patient ID" in printed and "  x: one patient\n  y, z: one patient\n" in printed


def test_a_datalist_elsewhere_names_files_of_the_folder(folder: Path, tmp_path: Path):
    datalist = tmp_path / "split.json"
    datalist.write_text(json.dumps(SPLIT))
    (tested,) = evaluation_records(str(datalist), "test", str(folder))
    (trained,) = training_records(str(datalist), str(folder))
    assert (tested["ct"], trained["ct"]) == (str(folder / "b.nii.gz"), str(folder / "a.nii.gz"))


def test_the_folders_own_datalist_goes_before_a_search(folder: Path):
    (folder / "datalist.json").write_text(json.dumps({"test": SPLIT["test"]}))
    assert len(evaluation_records(str(folder / "datalist.json"), "test", str(folder))) == 1
    assert training_records(str(folder / "datalist.json"), str(folder)) == []


def test_a_datalist_that_was_asked_for_is_not_replaced_by_a_search(folder: Path):
    asked = str(folder / "nowhere.json")
    with pytest.raises(InputError, match="nowhere.json: no such datalist"):
        evaluation_records(asked, "test", str(folder))
    with pytest.raises(InputError, match="nowhere.json: no such datalist"):
        training_records(asked, str(folder))


def test_a_folder_with_neither_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds neither datalist.json nor a CT, expected one of them"):
        evaluation_records(str(tmp_path / "datalist.json"), "test", str(tmp_path))
