"""Building a datalist from a folder, by its functions and by its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import InputError, load_records
from scripts.data.datalist_builder import split_by_patient
from scripts.datalist import main
from study_files import write_png, write_series, write_volume

SECTIONS = ("training", "validation", "test")
EQUAL = (1.0, 1.0, 1.0)


def read(folder: Path) -> dict[str, list[dict[str, str]]]:
    return json.loads((folder / "datalist.json").read_text())


def write_patients(folder: Path, names: str) -> None:
    for name in names:
        write_volume(folder / name / "ct.nii.gz")


@pytest.mark.parametrize(
    ("patients", "fractions", "sizes"),
    [
        (1, (0.7, 0.15, 0.15), [1, 0, 0]),
        (2, (0.7, 0.15, 0.15), [1, 1, 0]),
        (3, (0.7, 0.15, 0.15), [1, 1, 1]),
        (8, (0.7, 0.15, 0.15), [6, 1, 1]),
        (100, (0.7, 0.15, 0.15), [70, 15, 15]),
        (100, (70, 15, 15), [70, 15, 15]),
        (10, (0.8, 0.2, 0.0), [8, 2, 0]),
        (2, (0.5, 0.0, 0.5), [1, 0, 1]),
        (5, (1.0, 0.0, 0.0), [5, 0, 0]),
    ],
)
def test_sizes_of_a_split(patients: int, fractions: tuple[float, ...], sizes: list[int]):
    names = [f"p{i}" for i in range(patients)]
    split = split_by_patient(names, fractions, seed=0)
    assert [len(split[section]) for section in SECTIONS] == sizes
    assert sorted(name for section in SECTIONS for name in split[section]) == sorted(names)


def test_a_split_follows_from_the_seed_and_the_set_of_patients_alone():
    names = [f"p{i}" for i in range(20)]
    split = split_by_patient(names, EQUAL, seed=0)
    assert split_by_patient([*reversed(names), "p3", "p3"], EQUAL, seed=0) == split
    assert split_by_patient(names, EQUAL, seed=1) != split


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.0, 0.5, 0.5), (0.5, -0.1, 0.6), (float("nan"), 1.0, 1.0)])
def test_fractions_that_make_no_sense_are_refused(fractions: tuple[float, ...]):
    with pytest.raises(InputError, match="expected three numbers"):
        split_by_patient(["a", "b", "c"], fractions, seed=0)


def test_two_studies_of_a_patient_stay_in_one_section(tmp_path: Path):
    for patient in "abcdef":
        for study in ("first", "second"):
            write_volume(tmp_path / patient / study / "ct.nii.gz")
        write_volume(tmp_path / f"{patient}_s3.nii.gz")
        write_series(tmp_path / patient / "series", PatientID=patient, StudyInstanceUID="1", SeriesInstanceUID="1.1")
    assert main([str(tmp_path), "--fractions", *map(str, EQUAL)]) == 0
    sections = {name: sorted({record["ct"][0] for record in records}) for name, records in read(tmp_path).items()}
    assert [len(patients) for patients in sections.values()] == [2, 2, 2]
    assert sorted(sum(sections.values(), [])) == list("abcdef")
    records = [record for section in read(tmp_path).values() for record in section]
    assert len(records) == 24
    named = {(record["ct"][0], record["patient"]) for record in records}
    assert len(named) == len({name for _, name in named}) == 6


def test_the_datalist_is_read_as_it_is_written(tmp_path: Path, capsys):
    write_patients(tmp_path, "abc")
    write_series(tmp_path / "d" / "series", PatientID="d")
    for view in ("frontal", "lateral"):
        write_png(tmp_path / "a" / f"{view}.png")
    (tmp_path / "notes.txt").write_text("notes")
    assert main([str(tmp_path)]) == 0
    records = [record for section in SECTIONS for record in load_records(str(tmp_path / "datalist.json"), section)]
    cts = sorted(Path(record["ct"]).relative_to(tmp_path).as_posix() for record in records)
    assert cts == ["a/ct.nii.gz", "b/ct.nii.gz", "c/ct.nii.gz", "d/series"]
    (paired,) = [record for record in records if "frontal" in record]
    assert [Path(paired[view]).name for view in ("frontal", "lateral")] == ["frontal.png", "lateral.png"]
    assert Path(paired["ct"]).parent.name == "a"
    printed = capsys.readouterr().out
    assert "Excluded: 1\n  notes.txt: is no image file of a known kind\n" in printed
    assert str(tmp_path / "datalist.json") in printed
    assert [line.split() for line in printed.splitlines() if line.startswith(("training", "validation", "test"))] == [
        [section, *map(str, (len(found), len(found), sum("frontal" in record for record in found)))]
        for section, found in read(tmp_path).items()
    ]


def test_folders_without_a_patient_id_are_told_and_stay_in_one_section(tmp_path: Path, capsys):
    for number in range(6):
        for kernel, series in enumerate(("lung", "soft")):
            uids = {"StudyInstanceUID": f"1.{number}", "SeriesInstanceUID": f"1.{number}.{kernel}"}
            write_series(tmp_path / str(number) / series, PatientID="", **uids)
    write_series(tmp_path / "named", PatientID="0", StudyInstanceUID="1.7", SeriesInstanceUID="1.7.1")
    assert main([str(tmp_path), "--fractions", *map(str, EQUAL)]) == 0
    sections = {name: {record["ct"][0] for record in records} for name, records in read(tmp_path).items()}
    assert [len(patients) for patients in sections.values()] == [3, 2, 2]
    assert sorted(patient for patients in sections.values() for patient in patients) == [*"012345", "n"]
    printed = capsys.readouterr().out
    assert "Without a Patient ID, a patient for each folder, study and frame of reference: 6\n" in printed
    assert "\n  0/lung, 0/soft: one patient\n" in printed
    assert "named" not in printed


def test_many_files_left_out_of_a_folder_for_one_reason_are_one_line(tmp_path: Path, capsys):
    write_patients(tmp_path, "a")
    for number in range(20):
        (tmp_path / "a" / f"{number:02d}.txt").touch()
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Excluded: 20\n  a/ (20 files such as 00.txt): is no image" in printed
    assert "01.txt" not in printed
    assert "The section 'validation' is empty; training needs" in printed


def test_a_datalist_that_is_there_is_replaced_on_demand_alone(tmp_path: Path, capsys):
    write_patients(tmp_path, "abc")
    (tmp_path / "datalist.json").write_text("kept")
    assert main([str(tmp_path)]) == 1
    assert (tmp_path / "datalist.json").read_text() == "kept"
    error = capsys.readouterr().err
    assert f"{tmp_path / 'datalist.json'}: is there already" in error
    assert "--overwrite" in error
    assert main([str(tmp_path), "--overwrite"]) == 0
    assert len(read(tmp_path)["training"]) == 1
    assert "Excluded: nothing" in capsys.readouterr().out


def test_the_same_folder_gives_the_same_bytes_and_another_seed_others(tmp_path: Path):
    write_patients(tmp_path, "abcdefghij")
    texts = []
    for seed in ("0", "0", "1"):
        assert main([str(tmp_path), "--seed", seed, "--overwrite"]) == 0
        texts.append((tmp_path / "datalist.json").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_datalist_above_the_folder_has_relative_paths_and_one_elsewhere_absolute(tmp_path: Path):
    write_patients(tmp_path / "data", "a")
    for place, expected in (("", "data/a/ct.nii.gz"), ("elsewhere", f"{tmp_path.as_posix()}/data/a/ct.nii.gz")):
        assert main([str(tmp_path / "data"), "--datalist", str(tmp_path / place / "datalist.json")]) == 0
        assert read(tmp_path / place)["training"] == [{"ct": expected}]


@pytest.mark.parametrize("content", ["nothing", "radiographs"])
def test_a_folder_without_a_ct_ends_in_an_error_and_no_file(tmp_path: Path, capsys, content: str):
    if content == "radiographs":
        write_png(tmp_path / "p_pa.png")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"error: {tmp_path}: no CT found" in printed.err
    assert ("p_pa.png: its study has 1 frontal" in printed.out) == (content == "radiographs")
    assert not (tmp_path / "datalist.json").exists()


def test_a_folder_that_is_none_is_named(tmp_path: Path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert f"error: {tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err


def test_a_folder_around_all_patients_is_named(tmp_path: Path, capsys):
    write_patients(tmp_path / "export of monday", "abc")
    assert main([str(tmp_path)]) == 0
    assert "All CTs lie below 'export of monday' and count as one patient's" in capsys.readouterr().out
    assert main([str(tmp_path / "export of monday")]) == 0
    assert "count as one patient's" not in capsys.readouterr().out
    assert [len(records) for records in read(tmp_path / "export of monday").values()] == [1, 1, 1]
