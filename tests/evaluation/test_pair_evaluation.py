"""The benchmark on pairs: who is scored, whose volume is whose, and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from bundle_runs import bundle_run_here, cause_of
from chest_phantom import FOV_MM, chest
from scripts import InputError, PredictionFolder
from scripts.data.met_records import write_met_records
from scripts.data.pair_records import Pairs, read_pairs
from scripts.io.image_writer import cube_affine, write_ct

CONFIGS = ["bundle/configs/inference.json", "bundle/configs/evaluate_pairs.json"]
SMALL, SIZE = 0.65625, 84
RECORD = {"frontal": "frontal.png", "lateral": "lateral.png"}


def write_pairs(folder: Path, names: list[str], **sections: list) -> str:
    """A datalist of these patients' CTs in folders of their own; their radiographs are not read."""
    hu, affine = torch.from_numpy(chest(SIZE)), cube_affine(SIZE, SMALL * FOV_MM)
    for name in names:
        write_ct(str(folder / name / "ct.nii.gz"), hu, affine)
    for view in RECORD.values():
        (folder / view).touch()
    records = [{**RECORD, "ct": f"{name}/ct.nii.gz", "patient": name} for name in names]
    content = {"pairs": [*records, *sections.pop("pairs", [])], **sections}
    (folder / "datalist.json").write_text(json.dumps(content))
    return str(folder / "datalist.json")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, ["one", "two"], met=[{"patient": "three"}], excluded=[{"patient": "four", "reason": "no CT"}])
    return folder


def records_of(folder: Path) -> list[dict]:
    return read_pairs(str(folder / "datalist.json"), str(folder)).records


def test_who_is_scored_and_who_is_left_out_and_why(tmp_path: Path):
    further = [
        {**RECORD, "ct": "gone.nii.gz", "patient": "gone"},
        {"ct": "one/ct.nii.gz", "patient": "blind"},
        {**RECORD, "ct": "one/ct.nii.gz", "patient": "LIDC-IDRI-0001"},
        {**RECORD, "ct": "one/ct.nii.gz", "patient": "known"},
    ]
    excluded = [{"patient": "four", "reason": "no lateral"}]
    datalist = write_pairs(tmp_path, ["one"], pairs=further, met=[{"patient": "known"}], excluded=excluded)
    found = read_pairs(datalist, str(tmp_path))
    assert [record["patient"] for record in found.records] == ["one"] and found.excluded == excluded
    assert found.met == ["LIDC-IDRI-0001", "known"]  # the first by the shipped weights' own list
    assert "gone.nii.gz" in found.unusable["gone"] and "lacks field 'frontal'" in found.unusable["blind"]
    assert isinstance(found, Pairs) and set(found.unusable) == {"gone", "blind"}


def test_patients_whom_the_scored_weights_have_met_are_left_out(tmp_path: Path):
    """Those of a public collection; a number such as patient_1 is another patient in each datalist."""
    datalist, weights = write_pairs(tmp_path, ["LIDC-IDRI-1012", "patient_1"]), tmp_path / "stage3_best.pth"
    weights.touch()
    public = {"ct": "x/ct.nii.gz", "collection": "LIDC-IDRI", "patient": "LIDC-IDRI-1012"}
    private = {"ct": "y/ct.nii.gz", "patient": "patient_1"}
    write_met_records(str(weights), {"training": [public, private], "validation": [], "met": []})
    found = read_pairs(datalist, str(tmp_path), str(weights))
    assert [record["patient"] for record in found.records] == ["patient_1"] and found.met == ["LIDC-IDRI-1012"]


@pytest.mark.parametrize("name", ["one.nii.gz", "one_ct.nii"])
def test_a_volume_is_found_by_its_patient_or_its_record(pairs: Path, tmp_path: Path, name: str):
    (tmp_path / name).touch()
    first, second = records_of(pairs)
    found = PredictionFolder(str(tmp_path), [first, second])
    assert found.files(first) == [str(tmp_path / name)]
    with pytest.raises(InputError, match="no volume of this patient, expected one file two.nii.gz or two_ct.nii.gz"):
        found.files(second)


def test_a_name_that_two_patients_cts_have_is_nobodys_and_two_volumes_are_one_too_many(pairs: Path, tmp_path: Path):
    (tmp_path / "ct.nii.gz").touch()
    records = records_of(pairs)
    with pytest.raises(InputError, match="holds no volume"):
        PredictionFolder(str(tmp_path), records).files(records[0])
    assert PredictionFolder(str(tmp_path), records[:1]).files(records[0]) == [str(tmp_path / "ct.nii.gz")]
    (tmp_path / "one.nii").touch()
    with pytest.raises(InputError, match="holds one.nii and ct.nii.gz of this patient"):
        PredictionFolder(str(tmp_path), records[:1]).files(records[0])


def test_a_volume_that_is_not_in_hu_is_refused(pairs: Path, tmp_path: Path):
    nibabel.save(nibabel.Nifti1Image(np.linspace(0, 1, 27).reshape(3, 3, 3), np.eye(4)), tmp_path / "one.nii.gz")
    records = records_of(pairs)
    with pytest.raises(InputError, match=r"one.nii.gz: holds values from 0 to 1, expected HU"):
        PredictionFolder(str(tmp_path), records)(records[0])


@pytest.fixture(scope="module")
def scored(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on the first patient's own CT, upside down and to posterior in the file, without the second one's."""
    output = tmp_path_factory.mktemp("scored")
    (output / "predictions").mkdir()
    image = nibabel.load(pairs / "one" / "ct.nii.gz")
    turned = nibabel.as_closest_canonical(image).as_reoriented(np.array([[2, 1], [1, -1], [0, -1]]))
    nibabel.save(turned, output / "predictions" / "one.nii.gz")
    return output, run(pairs, output)


def run(pairs: Path, output: Path) -> str:
    """Scores a folder; what it says of those that fail."""
    options = {"dataset_dir": pairs, "predictions": output / "predictions", "output_dir": output}
    with pytest.raises(Exception) as raised:
        bundle_run_here("run_folder", CONFIGS, **options)
    return cause_of(raised.value, InputError)


def test_a_ct_as_its_own_prediction_has_no_errors_and_who_fails_is_listed(scored: tuple[Path, str]):
    output, said = scored
    content = json.loads((output / "pairs.json").read_text())
    with open(output / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["patient"], row["method"]) for row in rows] == [
        ("one", "prediction"),
        ("one", "another patient's CT"),
    ]
    entry = content["summary"][0]
    for each in content["measures"]:
        assert entry[f"{each['key']}_error"]["mean"] == pytest.approx(0, abs=1e-6), each["key"]
    assert entry["dice_lungs_affine"]["mean"] == entry["dice_lungs_smooth"]["mean"] == 1
    assert content["scored"] == 1 and list(content["failed"]) == ["two_ct"] and content["met"] == ["three"]
    assert "1 of 2 pairs failed" in said and "two_ct: " in said and "no volume of this patient" in said


def test_the_same_command_goes_on_from_what_is_done_unless_a_file_has_changed(pairs: Path, scored: tuple[Path, str]):
    output, _ = scored
    done, before = output / "patients" / "one_ct.json", (output / "pairs.json").read_text()
    written = done.stat().st_mtime_ns
    run(pairs, output)
    assert done.stat().st_mtime_ns == written and (output / "pairs.json").read_text() == before
    prediction = output / "predictions" / "one.nii.gz"
    prediction.write_bytes(b"no image")
    assert "2 of 2 pairs failed" in run(pairs, output)
    assert not (output / "pairs.csv").exists() and json.loads((output / "pairs.json").read_text())["summary"] == []
