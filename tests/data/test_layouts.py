"""Public collections as they unpack, in miniature: `scripts.datalist` lists what a curator would, and it loads."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import SegmentationStorage

from ct_series_files import write_series
from phantoms import phantom
from scripts import LoadCTd, load_records
from scripts.data.folder_scan import find_radiograph_pairs, find_records
from scripts.datalist import main
from study_files import write_dicom_radiograph, write_header, write_png

SECTIONS = ("training", "validation", "test")


def hu(number: int) -> np.ndarray:
    """A chest of its own for each number, `(X, Y, Z)`."""
    return phantom(12, 0.02 * number).numpy().astype(np.int16)


def labels(number: int) -> np.ndarray:
    """Its lungs and its spine, as labels of 0, 3 and 4."""
    return (3 * (hu(number) == -800) + 4 * (hu(number) == 700)).astype(np.uint8)


def write_nifti(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([30.0, 30.0, 30.0, 1.0]))
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)


def write_meta_image(path: Path, values: np.ndarray, is_compressed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing([30.0] * 3)
    sitk.WriteImage(image, path, useCompression=is_compressed)


def listed(folder: Path) -> dict[str, list[str]]:
    """The CTs of each section of the datalist that is written for a folder; each of them loads."""
    assert main([str(folder)]) == 0
    content = json.loads((folder / "datalist.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for section in (section for section in SECTIONS if content[section]):
            for record in load_records(str(folder / "datalist.json"), section):
                LoadCTd("ct")({"ct": record["ct"]})
    return {section: sorted(record["ct"] for record in records) for section, records in content.items()}


def sizes(sections: dict[str, list[str]]) -> list[int]:
    return [len(sections[section]) for section in SECTIONS]


def patients(folder: Path) -> dict[str, set[str]]:
    """The CTs of each patient."""
    found: dict[str, set[str]] = {}
    for record in find_records(folder)[0]:
        found.setdefault(record.patient, set()).add(record.ct)
    return found


@pytest.mark.parametrize("below", ["", "Task06_Lung"])
def test_the_medical_segmentation_decathlon(tmp_path: Path, below: str):
    """`labelsTr` has the names of `imagesTr`, and macOS a `._` file for each; a file is a patient."""
    root, cts = tmp_path / below, []
    for number in range(1, 7):
        section, name = "imagesTr" if number < 5 else "imagesTs", f"lung_{number:03d}.nii.gz"
        write_nifti(root / section / name, hu(number))
        (root / section / f"._{name}").write_bytes(b"\0\5\x16\7")
        cts.append((Path(below) / section / name).as_posix())
        if number < 5:
            write_nifti(root / "labelsTr" / name, labels(number))
            (root / "labelsTr" / f"._{name}").write_bytes(b"\0\5\x16\7")
    (root / "dataset.json").write_text("{}")
    found = listed(tmp_path)
    assert sorted(sum(found.values(), [])) == cts and sizes(found) == [4, 1, 1]


def test_luna16(tmp_path: Path):
    cts = []
    for number in range(6):
        uid, subset = f"1.3.6.1.4.1.14519.5.2.1.6279.6001.10{number}", f"subset{number % 3}"
        write_meta_image(tmp_path / subset / f"{uid}.mhd", hu(number))
        write_meta_image(tmp_path / "seg-lungs-LUNA16" / f"{uid}.mhd", labels(number), is_compressed=True)
        cts.append(f"{subset}/{uid}.mhd")
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n")
    found = listed(tmp_path)
    assert sorted(sum(found.values(), [])) == sorted(cts) and sizes(found) == [4, 1, 1]
    excluded = {entry.path: entry.reason for entry in find_records(tmp_path)[1]}
    assert len([path for path in excluded if path.startswith("seg-lungs") and path.endswith(".mhd")]) == 6


def test_totalsegmentator(tmp_path: Path):
    for number in range(3):
        subject = tmp_path / "Totalsegmentator_dataset_v201" / f"s000{number}"
        write_nifti(subject / "ct.nii.gz", hu(number))
        for organ in ("heart", "lung_upper_lobe_left", "vertebrae_T5"):
            write_nifti(subject / "segmentations" / f"{organ}.nii.gz", (labels(number) > 0).astype(np.uint8))
    assert patients(tmp_path) == {
        f"s000{number}": {f"Totalsegmentator_dataset_v201/s000{number}/ct.nii.gz"} for number in range(3)
    }
    assert sizes(listed(tmp_path)) == [1, 1, 1]


def test_lidc_idri(tmp_path: Path):
    """A CT and a pair of radiographs of a patient in studies of their own, with XML, a licence and checksums."""
    for number in (1, 2, 3):
        patient = f"LIDC-IDRI-{number:04d}"
        series = tmp_path / "LIDC-IDRI" / patient / "01-01-2000-30178" / "3000566.000000-03192"
        write_series(series, lambda image, _, patient=patient: setattr(image, "PatientID", patient))
        (series / "069.xml").write_text("<LidcReadMessage/>")
        (series / "LICENSE").write_text("CC BY 3.0")
        (series / "checksums.md5").write_text("0" * 32)
        for view, name in (("PA", "1-1.dcm"), ("LL", "1-2.dcm")):
            place = tmp_path / "LIDC-IDRI" / patient / "01-01-2000-35511" / f"{view}-62357" / name
            uids = {"StudyInstanceUID": f"2.{number}", "SeriesInstanceUID": f"2.{number}.1"}
            write_dicom_radiograph(place, view, PatientID=patient, **uids)
    found = listed(tmp_path)
    assert sizes(found) == [1, 1, 1]
    assert patients(tmp_path).keys() == {"LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003"}
    assert len(find_radiograph_pairs(tmp_path)) == 3


def test_covid_ct_md(tmp_path: Path):
    """Slices without suffix or Patient ID, by disease; no two patients are one."""
    groups = {"COVID-19 Cases": "P", "Cap Cases": "cap", "Normal Cases": "normal"}
    for group, letters in groups.items():
        for number in (1, 2):
            folder = tmp_path / "COVID-CT-MD" / group / f"{letters}{number:03d}"
            write_series(folder, lambda image, _: setattr(image, "PatientID", ""), name="IM{:04d}".format)
    found = patients(tmp_path)
    assert len(found) == 6 and all(len(cts) == 1 for cts in found.values())
    assert sizes(listed(tmp_path)) == [4, 1, 1]


def test_qin_lung_ct(tmp_path: Path):
    """A segmentation in a series folder of its own, and one among the slices."""
    for number in (1, 2, 3):
        patient = f"QIN-LSC-{number:04d}"
        study = tmp_path / "QIN LUNG CT" / patient / "04-01-2015-1-CT Thorax wContrast-41946"
        write_series(study / "2.000000-THORAX W  3.0  B41-71225", lambda i, _, p=patient: setattr(i, "PatientID", p))
        uids = {"StudyInstanceUID": f"3.{number}", "SeriesInstanceUID": f"3.{number}.9", "PatientID": patient}
        no_slice = {"Modality": "SEG", "SOPClassUID": SegmentationStorage, "PixelData": None, **uids}
        for place in ("100.000000-Segmentation-1", "2.000000-THORAX W  3.0  B41-71225"):
            write_header(study / place / "1-1.dcm", **no_slice)
    assert sizes(listed(tmp_path)) == [1, 1, 1]


def test_mimic_cxr(tmp_path: Path):
    """Radiographs alone: pairs by study for the server, and no CT to train on."""
    for number, patient in enumerate(("10000032", "10000764")):
        study = tmp_path / "files" / "p10" / f"p{patient}" / f"s5041426{number}"
        uids = {"PatientID": patient, "StudyInstanceUID": f"4.{number}"}
        write_dicom_radiograph(study / "02aa804e-bde0afdd.dcm", "PA", SeriesInstanceUID=f"4.{number}.1", **uids)
        write_dicom_radiograph(study / "174413ec-4ec4c1f7.dcm", "LATERAL", SeriesInstanceUID=f"4.{number}.2", **uids)
    assert main([str(tmp_path)]) == 1
    assert [Path(pair.frontal).parent.name for pair in find_radiograph_pairs(tmp_path)] == ["s50414260", "s50414261"]


def test_a_flat_folder_of_files_under_suffixes_as_people_write_them(tmp_path: Path):
    write_nifti(tmp_path / "anna_CT.NII.GZ", hu(1))
    write_nifti(tmp_path / "bob_ct.Nii.gz", hu(2))
    write_meta_image(tmp_path / "carla.mha", hu(3))
    (tmp_path / "carla.mha").rename(tmp_path / "carla.MHA")
    for name in ("anna_PA.PNG", "anna_Lat.JPEG"):
        write_png(tmp_path / name.lower())
        (tmp_path / name.lower()).rename(tmp_path / name)
    records = {record.ct: record for record in find_records(tmp_path)[0]}
    assert records.keys() == {"anna_CT.NII.GZ", "bob_ct.Nii.gz", "carla.MHA"}
    assert records["anna_CT.NII.GZ"].radiographs == ("anna_PA.PNG", "anna_Lat.JPEG")
    assert {record.patient for record in records.values()} == {"anna", "bob", "carla"}
    assert sizes(listed(tmp_path)) == [1, 1, 1]
    names = [r["name"] for s in SECTIONS for r in load_records(str(tmp_path / "datalist.json"), s)]
    assert sorted(names) == ["anna_CT", "bob_ct", "carla"]


def test_what_macos_puts_into_an_archive_is_passed_over(tmp_path: Path):
    write_nifti(tmp_path / "a" / "ct.nii.gz", hu(1))
    write_nifti(tmp_path / "__MACOSX" / "a" / "ct.nii.gz", hu(1))
    (tmp_path / "a" / ".DS_Store").write_bytes(b"Bud1")
    assert patients(tmp_path) == {"a": {"a/ct.nii.gz"}}
    assert find_records(tmp_path)[1] == []


@pytest.mark.parametrize("searched", ["", "snapshots", "snapshots/0123456789abcdef0123456789abcdef01234567"])
def test_a_data_set_in_the_cache_of_hugging_face(tmp_path: Path, searched: str):
    """The names are those of the links; what they lead to, in `blobs`, is called by its hash."""
    repository = tmp_path / "datasets--who--chests"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (repository / "blobs").mkdir(parents=True)
    for number in range(3):
        blob = repository / "blobs" / f"{number:040x}"
        write_nifti(repository / "t.nii.gz", hu(number))
        (repository / "t.nii.gz").rename(blob)
        (snapshot / f"p{number}").mkdir(parents=True)
        (snapshot / f"p{number}" / "ct.nii.gz").symlink_to(Path("../../..") / "blobs" / blob.name)
    folder = repository / searched
    assert set(patients(folder)) == {"p0", "p1", "p2"}
    assert sizes(listed(folder)) == [1, 1, 1]


def test_a_data_set_in_git_annex(tmp_path: Path):
    store = tmp_path / ".git" / "annex" / "objects" / "aa"
    write_nifti(store / "MD5E-s1--0.nii.gz", hu(1))
    (tmp_path / "sub" / "p1").mkdir(parents=True)
    (tmp_path / "sub" / "p1" / "ct.nii.gz").symlink_to(store / "MD5E-s1--0.nii.gz")
    assert patients(tmp_path / "sub") == {"p1": {"p1/ct.nii.gz"}}
    assert listed(tmp_path / "sub")["training"] == ["p1/ct.nii.gz"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mhd"])
def test_a_label_map_of_any_name_is_excluded_by_what_it_holds(tmp_path: Path, suffix: str, dtype: type):
    for name, values in (("a_left", labels(1)), ("b_heart", labels(1) > 3), ("c", hu(1))):
        path = tmp_path / f"{name}{suffix}"
        values = values.astype(np.int16 if name == "c" else dtype)
        write_nifti(path, values) if suffix == ".nii.gz" else write_meta_image(path, values)
    records, excluded = find_records(tmp_path)
    assert [record.ct for record in records] == [f"c{suffix}"]
    assert len(excluded) == 2 and all("taken for a label map" in entry.reason for entry in excluded)


@pytest.mark.parametrize("patient", ["ANONYMOUS", "Anonymized", "anon", "Unknown", "n/a", "None", "xxxx", "---"])
def test_a_patient_id_that_names_nobody_is_none(tmp_path: Path, patient: str):
    for folder in ("a", "b", "c"):
        write_series(tmp_path / folder, lambda image, _: setattr(image, "PatientID", patient))
    assert len(patients(tmp_path)) == 3


def test_two_studies_in_the_folder_of_a_patient_without_an_id_are_of_one_patient(tmp_path: Path):
    for place in ("p1/2019/ct", "p1/2020/ct", "p2/2019/ct"):
        write_series(tmp_path / place, lambda image, _: setattr(image, "PatientID", ""))
    assert sorted(map(sorted, patients(tmp_path).values())) == [["p1/2019/ct", "p1/2020/ct"], ["p2/2019/ct"]]
