"""What is found in a folder of studies, what is paired, and why the rest is excluded."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset

from scripts.data.folder_scan import find_radiograph_pairs, find_records
from scripts.data.study_pairing import RadiographPair
from scripts.io.dicom_headers import UNNAMED
from scripts.io.dicom_tags import MODALITIES
from study_files import write_dicom_radiograph, write_header, write_png, write_series, write_volume


def found(folder: Path) -> list[tuple[str, str, tuple[str, str] | None]]:
    return [(record.patient, record.ct, record.radiographs) for record in find_records(folder)[0]]


def reason(folder: Path, path: str) -> str:
    """Why a path is excluded; it has to be said once, and no record may name it."""
    records, excluded = find_records(folder)
    assert not any(path in (record.ct, *(record.radiographs or ())) for record in records)
    (entry,) = [entry for entry in excluded if entry.path == path]
    return entry.reason


def test_a_study_in_a_patients_folder_is_one_record(tmp_path: Path):
    write_volume(tmp_path / "anna" / "2020" / "scan.nii.gz")
    write_png(tmp_path / "anna" / "2020" / "chest-PA.png")
    write_png(tmp_path / "anna" / "2020" / "chest_Lat.jpg")
    radiographs = ("anna/2020/chest-PA.png", "anna/2020/chest_Lat.jpg")
    assert found(tmp_path) == [("anna", "anna/2020/scan.nii.gz", radiographs)]
    assert find_records(tmp_path)[1] == []


@pytest.mark.parametrize(("frontal", "lateral"), [("frontal", "lateral"), ("pa", "lat"), ("ap", "ll"), ("AP", "RL")])
def test_each_word_of_a_view_pairs(tmp_path: Path, frontal: str, lateral: str):
    write_volume(tmp_path / "p" / "ct.nii")
    write_png(tmp_path / "p" / f"x_{frontal}_1.tif")
    write_png(tmp_path / "p" / f"{lateral}.jpeg")
    assert found(tmp_path) == [("p", "p/ct.nii", (f"p/x_{frontal}_1.tif", f"p/{lateral}.jpeg"))]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("lidc_0001", "lidc_0001"),
        ("lungdx_A0001_s1", "lungdx_A0001"),
        ("p022_o10_ct", "p022_o10"),
        ("ct_007", "007"),
        ("CT-s2-007", "007"),
        ("spa_room", "spa_room"),
        ("actress", "actress"),
        ("ct", ""),
    ],
)
def test_the_patient_of_a_file_without_a_folder_is_its_name_up_to_what_it_is(tmp_path: Path, name: str, patient: str):
    write_volume(tmp_path / f"{name}.nii.gz")
    assert found(tmp_path) == [(patient, f"{name}.nii.gz", None)]


def test_files_without_folders_are_paired_by_patient_and_scan(tmp_path: Path):
    for scan in ("s1", "s2"):
        write_volume(tmp_path / f"p7_{scan}.nii.gz")
    write_png(tmp_path / "p7_frontal_PA_s2.png")
    write_png(tmp_path / "p7_lateral_L_s2.png")
    radiographs = ("p7_frontal_PA_s2.png", "p7_lateral_L_s2.png")
    assert found(tmp_path) == [("p7", "p7_s1.nii.gz", None), ("p7", "p7_s2.nii.gz", radiographs)]


def test_a_nifti_with_one_slice_is_a_radiograph(tmp_path: Path):
    write_volume(tmp_path / "p" / "ct.nii.gz")
    write_volume(tmp_path / "p" / "frontal.nii.gz", (4, 5, 1))
    write_volume(tmp_path / "p" / "lateral.nii.gz", (4, 5))
    assert found(tmp_path) == [("p", "p/ct.nii.gz", ("p/frontal.nii.gz", "p/lateral.nii.gz"))]


def test_nrrd_and_metaimage_are_cts_with_all_their_files(tmp_path: Path):
    names = ("a.mha", "b.mhd", "b.raw", "c.mhd", "c.zraw", "d.nrrd", "e.raw", "f.nhdr", "f.raw.gz", "g.nhdr", "g.raw")
    for name in names:
        (tmp_path / name).touch()
    image = sitk.GetImageFromArray(np.arange(-1000, -976, dtype=np.int16).reshape(4, 3, 2))
    for name in ("a.mha", "b.mhd", "d.nrrd"):
        sitk.WriteImage(image, tmp_path / name)
    sitk.WriteImage(image, tmp_path / "c.mhd", useCompression=True)
    header = (tmp_path / "d.nrrd").read_bytes().partition(b"\n\n")[0].replace(b"raw", b"gzip")
    for name, encoding, content in (("f", b"gzip", gzip.compress(bytes(range(48)))), ("g", b"raw", bytes(range(48)))):
        suffix = ".raw.gz" if encoding == b"gzip" else ".raw"
        lines = re.sub(rb"encoding: \w+", b"encoding: " + encoding, header)
        (tmp_path / f"{name}.nhdr").write_bytes(lines + f"\ndata file: {name}{suffix}\n".encode())
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    assert [ct for _, ct, _ in found(tmp_path)] == ["a.mha", "b.mhd", "c.mhd", "d.nrrd", "f.nhdr", "g.nhdr"]
    assert [entry.path for entry in find_records(tmp_path)[1]] == ["e.raw"]


def test_radiographs_of_an_incomplete_study_are_excluded_and_its_ct_stays(tmp_path: Path):
    write_volume(tmp_path / "p" / "ct.nii.gz")
    write_png(tmp_path / "p" / "pa.png")
    assert found(tmp_path) == [("p", "p/ct.nii.gz", None)]
    assert "1 frontal and 0 lateral" in reason(tmp_path, "p/pa.png")
    write_png(tmp_path / "p" / "ap.png")
    write_png(tmp_path / "p" / "lateral.png")
    assert found(tmp_path) == [("p", "p/ct.nii.gz", None)]
    for radiograph in ("pa", "ap", "lateral"):
        assert "2 frontal and 1 lateral" in reason(tmp_path, f"p/{radiograph}.png")


def test_radiographs_of_no_ct_or_two_are_excluded(tmp_path: Path):
    for view in ("pa", "lateral"):
        write_png(tmp_path / "p" / f"{view}.png")
    assert reason(tmp_path, "p/pa.png") == "its study has no CT"
    write_volume(tmp_path / "p" / "a.nii.gz")
    assert len(found(tmp_path)) == 1
    assert found(tmp_path)[0][2] is not None
    write_volume(tmp_path / "p" / "b.nii.gz")
    assert found(tmp_path) == [("p", "p/a.nii.gz", None), ("p", "p/b.nii.gz", None)]
    assert "2 CTs" in reason(tmp_path, "p/lateral.png")


def test_what_has_no_clear_kind_is_left_out_with_the_reason(tmp_path: Path):
    write_png(tmp_path / "papa.png")
    write_png(tmp_path / "pa_and_lateral.png")
    write_volume(tmp_path / "time.nii.gz", (2, 2, 2, 2))
    write_volume(tmp_path / "p_frontal.nii.gz", (4, 4, 4))
    write_volume(tmp_path / "lung_mask.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no gzip")
    (tmp_path / "slice.dcm").write_bytes(bytes(200))
    (tmp_path / "notes.txt").write_text("notes")
    assert found(tmp_path) == []
    assert "no view as a word" in reason(tmp_path, "papa.png")
    assert "both views" in reason(tmp_path, "pa_and_lateral.png")
    assert "4 dimensions" in reason(tmp_path, "time.nii.gz")
    assert "its name says frontal" in reason(tmp_path, "p_frontal.nii.gz")
    assert "'mask'" in reason(tmp_path, "lung_mask.nii.gz")
    assert "header cannot be read" in reason(tmp_path, "broken.nii.gz")
    assert "no DICOM file" in reason(tmp_path, "slice.dcm")
    assert "no image file of a known kind" in reason(tmp_path, "notes.txt")


def test_dicom_is_known_by_its_content_whatever_its_name_looks_like(tmp_path: Path):
    write_series(tmp_path / "p" / "ct")
    for name, view in (("1.2.840.99.tif", "PA"), ("1.2.840.99.100", "LL")):
        write_dicom_radiograph(tmp_path / "p" / name, view)
    assert found(tmp_path) == [("P", "p/ct", ("p/1.2.840.99.tif", "p/1.2.840.99.100"))]
    assert find_records(tmp_path)[1] == []


def test_links_that_lead_out_are_excluded_with_a_reason(tmp_path: Path):
    write_volume(tmp_path / "outside" / "ct.nii.gz")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.nii.gz").symlink_to(tmp_path / "outside" / "ct.nii.gz")
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / ".hidden.nii.gz").write_bytes(b"")
    assert found(folder) == []
    assert str(tmp_path / "outside" / "ct.nii.gz") in reason(folder, "link.nii.gz")
    assert "missing" in reason(folder, "gone.nii.gz")
    assert "not followed" in reason(folder, "folder")
    assert not any("hidden" in entry.path for entry in find_records(folder)[1])


def test_a_file_counts_once_however_many_links_lead_to_it(tmp_path: Path):
    write_volume(tmp_path / "anna" / "ct.nii.gz")
    write_volume(tmp_path / ".store" / "object.nii.gz")
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "ct.nii.gz").symlink_to(tmp_path / "anna" / "ct.nii.gz")
    (tmp_path / "carl.nii.gz").symlink_to(tmp_path / ".store" / "object.nii.gz")
    assert found(tmp_path) == [("anna", "anna/ct.nii.gz", None), ("carl", "carl.nii.gz", None)]
    assert "counts itself" in reason(tmp_path, "bob/ct.nii.gz")


def test_a_dicom_study_is_paired_by_its_headers_and_not_by_its_folders(tmp_path: Path):
    write_series(tmp_path / "a" / "series")
    write_dicom_radiograph(tmp_path / "b" / "1", "AP")
    write_dicom_radiograph(tmp_path / "c" / "22.dcm", "LL")
    assert found(tmp_path) == [("P", "a/series", ("b/1", "c/22.dcm"))]
    assert find_records(tmp_path)[1] == []


def test_dicom_radiographs_of_another_patient_or_study_are_not_paired(tmp_path: Path):
    write_series(tmp_path / "series")
    for patient, study in (("Q", "1.1"), ("P", "1.2")):
        write_dicom_radiograph(
            tmp_path / f"{patient}{study}" / "pa.dcm", "PA", PatientID=patient, StudyInstanceUID=study
        )
        write_dicom_radiograph(
            tmp_path / f"{patient}{study}" / "rl.dcm", "RL", PatientID=patient, StudyInstanceUID=study
        )
    assert found(tmp_path) == [("P", "series", None)]
    for place in ("Q1.1", "P1.2"):
        assert reason(tmp_path, f"{place}/pa.dcm") == "its study has no CT"


@pytest.mark.parametrize(("day", "is_paired"), [("20240131", True), ("20240201", False), ("", False)])
def test_a_patients_studies_of_ct_and_radiographs_are_paired_on_one_day_alone(
    tmp_path: Path, day: str, is_paired: bool
):
    write_series(tmp_path / "series", StudyDate="20240131")
    write_dicom_radiograph(tmp_path / "radiographs" / "pa.dcm", "PA", StudyInstanceUID="1.2", StudyDate=day)
    write_dicom_radiograph(tmp_path / "radiographs" / "lat.dcm", "LATERAL", StudyInstanceUID="1.2", StudyDate=day)
    assert found(tmp_path) == [("P", "series", ("radiographs/pa.dcm", "radiographs/lat.dcm") if is_paired else None)]


def test_a_day_with_two_studies_of_ct_pairs_nothing(tmp_path: Path):
    for study in ("1.1", "1.3"):
        write_series(tmp_path / study, StudyDate="20240131", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1")
    for view in ("PA", "LL"):
        write_dicom_radiograph(tmp_path / "radiographs" / view, view, StudyInstanceUID="1.2", StudyDate="20240131")
    assert found(tmp_path) == [("P", "1.1", None), ("P", "1.3", None)]
    assert reason(tmp_path, "radiographs/PA") == "its study has no CT"


def test_dicom_series_that_no_folder_can_name_are_excluded(tmp_path: Path):
    write_series(tmp_path / "shared", SeriesInstanceUID="1.1.1")
    write_series(tmp_path / "shared" / "x", SeriesInstanceUID="1.1.9")
    for path in (tmp_path / "shared" / "x").iterdir():
        path.rename(tmp_path / "shared" / f"other_{path.name}")
    write_series(tmp_path / "half_a", SeriesInstanceUID="1.1.2")
    write_series(tmp_path / "half_b", SeriesInstanceUID="1.1.2")
    write_series(tmp_path / "scout", SeriesInstanceUID="1.1.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "single", 1, SeriesInstanceUID="1.1.4")
    write_series(tmp_path, SeriesInstanceUID="1.1.5")
    assert found(tmp_path) == []
    shared = [entry.reason for entry in find_records(tmp_path)[1] if entry.path == "shared"]
    assert len(shared) == 2 and all("(2 files) shares its folder with 1 other series" in reason for reason in shared)
    assert "spread over 2 folders" in reason(tmp_path, "half_a")
    assert reason(tmp_path, "scout/0.dcm") == reason(tmp_path, "scout/1.dcm") == "is a localizer image"
    assert "single file" in reason(tmp_path, "single/0.dcm")
    assert "directly in the searched folder" in reason(tmp_path, ".")


def test_dicom_files_without_a_view_are_excluded(tmp_path: Path):
    write_dicom_radiograph(tmp_path / "a.dcm", "")
    write_dicom_radiograph(tmp_path / "b.dcm", "LLO")
    write_header(tmp_path / "d.dcm", Modality="SC")
    assert "View Position is ''" in reason(tmp_path, "a.dcm")
    assert "View Position is 'LLO'" in reason(tmp_path, "b.dcm")
    assert "View Position is ''" in reason(tmp_path, "d.dcm")
    write_dicom_radiograph(tmp_path / "e.dcm", "PA", Modality="MR")
    assert "modality is 'MR', expected CT, CR, DX, RG, RF, XA, SC, OT" in reason(tmp_path, "e.dcm")


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_radiograph_of_any_modality_that_the_reader_takes_is_paired(tmp_path: Path, modality: str):
    """The lateral radiograph has its view in a code alone."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399173006", "SCT", "left lateral"
    write_series(tmp_path / "ct")
    write_dicom_radiograph(tmp_path / "a.dcm", "AP", Modality=modality)
    write_dicom_radiograph(tmp_path / "b.dcm", "", Modality=modality, ViewCodeSequence=[code])
    assert found(tmp_path) == [("P", "ct", ("a.dcm", "b.dcm"))]


def uids(number: int) -> dict[str, str]:
    """Of a study of its own."""
    return {"StudyInstanceUID": f"1.{number}", "SeriesInstanceUID": f"1.{number}.1"}


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_a_folder_without_a_patient_id_is_a_patient_of_its_own(tmp_path: Path, empty: str | None):
    """Also next to patients who are called as the folders are."""
    for number, folder in enumerate(("a", "b", "deep/er/a")):
        write_series(tmp_path / folder, PatientID=empty, **uids(number))
    write_series(tmp_path / "d", PatientID="a", **uids(7))
    write_series(tmp_path / "e", PatientID="b", **uids(8))
    patients = [patient for patient, _, _ in found(tmp_path)]
    assert len(set(patients)) == len(patients) == 5
    assert sorted(ct for _, ct, _ in found(tmp_path)) == ["a", "b", "d", "deep/er/a", "e"]
    assert find_records(tmp_path)[1] == []


@pytest.mark.parametrize("shared", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_folders_of_one_study_or_frame_of_reference_are_of_one_patient(tmp_path: Path, shared: str):
    """The third folder has the second one's study: all three belong together, the fourth does not."""
    write_series(tmp_path / "a", PatientID="", **{**uids(1), shared: "1.99"})
    write_series(tmp_path / "b", PatientID="", **{**uids(2), shared: "1.99", "StudyInstanceUID": "1.99"})
    write_series(tmp_path / "c", PatientID="", **{**uids(3), "StudyInstanceUID": "1.99"})
    write_series(tmp_path / "d", PatientID="", **uids(4))
    patients = {ct: patient for patient, ct, _ in found(tmp_path)}
    assert patients["a"] == patients["b"] == patients["c"] != patients["d"]


def test_what_is_tied_to_a_patient_id_is_of_that_patient(tmp_path: Path):
    write_series(tmp_path / "a" / "1", **uids(1))
    write_series(tmp_path / "b" / "2", PatientID="", **{**uids(2), "StudyInstanceUID": "1.1"})
    assert found(tmp_path) == [("P", "a/1", None), ("P", "b/2", None)]
    write_series(tmp_path / "c" / "3", PatientID="Q", **{**uids(3), "StudyInstanceUID": "1.1"})
    assert found(tmp_path) == [("P", "a/1", None), ("Q", "c/3", None)]
    for number in range(2):
        assert "PatientID is empty" in reason(tmp_path, f"b/2/{number}.dcm")
        assert "2 patients; whose it is is not known" in reason(tmp_path, f"b/2/{number}.dcm")


def test_radiographs_without_a_patient_id_are_paired_with_the_ct_of_their_study(tmp_path: Path):
    write_series(tmp_path / "x" / "ct", PatientID="")
    write_dicom_radiograph(tmp_path / "x" / "radiographs" / "pa", "PA", PatientID="")
    write_dicom_radiograph(tmp_path / "x" / "radiographs" / "ll", "LL", PatientID="")
    write_volume(tmp_path / "x" / "more.nii.gz")
    ((first, *ct), (second, *more)) = found(tmp_path)
    assert (ct, more) == (["x/ct", ("x/radiographs/pa", "x/radiographs/ll")], ["x/more.nii.gz", None])
    assert first == second and first.startswith(UNNAMED)


@pytest.mark.parametrize("patient", ["", "P"])
@pytest.mark.parametrize("empty", ["", None])
def test_a_study_uid_is_not_needed_and_its_date_still_pairs(tmp_path: Path, empty: str | None, patient: str):
    """Without a Patient ID either, the frame of reference says that folders are of one patient."""
    common = {"PatientID": patient, "StudyInstanceUID": empty, "StudyDate": "20240131", "FrameOfReferenceUID": "1.5"}
    write_series(tmp_path / "ct", **common)
    write_dicom_radiograph(tmp_path / "radiographs" / "pa", "PA", **common)
    write_dicom_radiograph(tmp_path / "radiographs" / "ll", "LL", **common)
    ((_, *record),) = found(tmp_path)
    assert record == ["ct", ("radiographs/pa", "radiographs/ll")]


def test_without_a_study_uid_a_series_of_two_folders_is_still_one(tmp_path: Path):
    for folder in ("half_a", "half_b"):
        write_series(tmp_path / folder, PatientID="", StudyInstanceUID="", SeriesInstanceUID="1.2")
    assert found(tmp_path) == []
    assert "spread over 2 folders" in reason(tmp_path, "half_a")


def test_a_ct_needs_a_series_uid_and_a_radiograph_does_not(tmp_path: Path):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "other", SeriesInstanceUID="")
    write_dicom_radiograph(tmp_path / "pa", "PA", SeriesInstanceUID="")
    write_dicom_radiograph(tmp_path / "ll", "LL", SeriesInstanceUID=None)
    assert found(tmp_path) == [("P", "ct", ("pa", "ll"))]
    assert "SeriesInstanceUID is empty" in reason(tmp_path, "other/1.dcm")


def write_slices(folder: Path, acquisitions: list[int | None], places: list[float]) -> None:
    for number, (acquisition, place) in enumerate(zip(acquisitions, places)):
        position = {"ImagePositionPatient": [0, 0, place], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write_header(folder / f"{number}.dcm", AcquisitionNumber=acquisition, **position)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_series_of_several_acquisitions_is_left_out_with_their_numbers(tmp_path: Path, shift: float):
    places = [5 * i + shift * a for a in range(3) for i in range(4)]
    write_slices(tmp_path / "ct", [1] * 4 + [2] * 4 + [10] * 4, places)
    assert found(tmp_path) == []
    assert "holds 3 acquisitions (Acquisition Number 1: 4 slices, 2: 4 slices, 10: 4 slices)" in reason(tmp_path, "ct")


@pytest.mark.parametrize("acquisitions", [[1] * 6, [None] * 6, [1, 2] * 3, [1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6]])
def test_acquisitions_that_make_one_stack_are_one_ct(tmp_path: Path, acquisitions: list[int | None]):
    write_slices(tmp_path / "ct", acquisitions, [5.0 * i for i in range(6)])
    assert found(tmp_path) == [("P", "ct", None)]


@pytest.mark.parametrize("place", ["", ["0", "", "5"], ["0", "0"]])
def test_a_series_with_a_slice_without_a_place_is_excluded_by_its_tag(tmp_path: Path, place):
    write_slices(tmp_path / "ct", [1, 1, 1, 1], [0.0, 5.0, 10.0, 15.0])
    assert found(tmp_path) == [("P", "ct", None)]
    write_header(tmp_path / "ct" / "0.dcm", ImagePositionPatient=place)
    assert found(tmp_path) == []
    assert "ImagePositionPatient" in reason(tmp_path, "ct")


def test_files_next_to_dicom_files_and_namesakes_of_their_folder_are_of_the_same_patient(tmp_path: Path):
    write_series(tmp_path / "folder" / "series")
    write_volume(tmp_path / "folder" / "copy.nii.gz")
    write_volume(tmp_path / "folder_s2.nii.gz")
    assert [patient for patient, _, _ in found(tmp_path)] == ["P", "P", "P"]
    write_series(tmp_path / "folder" / "other", PatientID="Q", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    assert "2 patients" in reason(tmp_path, "folder/copy.nii.gz")
    assert "2 patients" in reason(tmp_path, "folder_s2.nii.gz")


def test_the_order_of_the_file_system_has_no_part_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for patient in ("c", "a", "b"):
        write_volume(tmp_path / patient / "ct.nii.gz")
        write_png(tmp_path / patient / "pa.png")
    straight, walk = find_records(tmp_path), os.walk

    def backwards(folder, **options):
        entries = [(place, names, files[::-1]) for place, names, files in walk(folder, **options)]
        return reversed(entries)

    monkeypatch.setattr(os, "walk", backwards)
    assert find_records(tmp_path) == straight


def test_radiograph_pairs_need_no_ct_and_name_it_where_it_is_alone(tmp_path: Path):
    for name in ("a_pa.png", "a_ll.png", "b_pa.png", "b_ll.png", "c_pa.png", "d_pa.png", "d_ll.png", "d_lat.png"):
        write_png(tmp_path / name)
    for name in ("b_ct.nii.gz", "c_ct.nii.gz"):
        write_volume(tmp_path / name)
    alone, with_ct = RadiographPair("a_pa.png", "a_ll.png", None), RadiographPair("b_pa.png", "b_ll.png", "b_ct.nii.gz")
    assert find_radiograph_pairs(tmp_path) == [alone, with_ct]
    write_volume(tmp_path / "b_ct_2.nii.gz")
    assert find_radiograph_pairs(tmp_path)[1] == RadiographPair("b_pa.png", "b_ll.png", None)


def test_radiograph_pairs_are_found_by_dicom_tags(tmp_path: Path):
    write_dicom_radiograph(tmp_path / "x" / "1.dcm", "PA")
    write_dicom_radiograph(tmp_path / "x" / "2.dcm", "LL")
    assert find_radiograph_pairs(tmp_path) == [RadiographPair("x/1.dcm", "x/2.dcm", None)]
