"""The check that loads every record before training."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from bundle_runs import read_configs, stage_configs
from ct_series_files import write_series
from phantoms import phantom
from radiograph_files import LATERAL, write_dicom
from scripts import InputError, hu_to_attenuation, project
from scripts.data.datalist_check import Problem, check_records, print_problems, training_transforms
from scripts.datalist import main
from scripts.io.image_writer import cube_affine, write_ct, write_projection

CT, *OTHERS = ({"ct": f"{name}.nii.gz"} for name in ("good", "second", "third", "fourth"))


@pytest.fixture(scope="module")
def transform() -> Compose:
    """The training's transforms for a cube of 16 voxels a side."""
    return training_transforms(**{"geometry#detector_pixels": 32})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    CTs that fill the cube, as `good.nii.gz` and so on, and a radiograph, as `good.png` and, with its place, as
    `radiograph.nii.gz`.
    """
    for number, record in enumerate((CT, *OTHERS)):
        write_ct(str(tmp_path / record["ct"]), phantom(24, 0.05 * number), cube_affine(24, 360.0))
    Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(tmp_path / "good.png")
    write_projection(str(tmp_path / "radiograph.nii.gz"), torch.rand(64, 64), 7.5)
    return tmp_path


def check(folder: Path, transform: Compose, **sections: Any) -> tuple[list[Problem], int]:
    (folder / "datalist.json").write_text(json.dumps(sections))
    return check_records(str(folder / "datalist.json"), transform)


def test_the_check_loads_what_training_trains_on(folder: Path, transform: Compose):
    record = {"ct": str(folder / "good.nii.gz"), "name": "a", "group": "b"}
    parser = read_configs(stage_configs(1), **{"geometry#detector_pixels": 32})
    checked, trained = transform(record), parser.get_parsed_content("train#dataset#transform")(record)
    assert checked.keys() == trained.keys()
    for key in ("ct", "xrays"):
        assert torch.equal(torch.as_tensor(checked[key]), torch.as_tensor(trained[key]))


def test_a_clean_datalist_has_no_problems(folder: Path, transform: Compose, geometry, chest_hu: torch.Tensor, capsys):
    radiographs = {"frontal": "frontal.nii.gz", "lateral": "lateral.nii.gz"}
    for name, xray in zip(radiographs.values(), project(hu_to_attenuation(chest_hu[None]), geometry)[0]):
        write_projection(str(folder / name), xray, geometry.pixel_mm)
    found = check(
        folder, transform, training=[CT, {**OTHERS[0], **radiographs}], validation=[OTHERS[1]], test=[OTHERS[2]]
    )
    assert found == ([], 4)
    print_problems(*found)
    assert capsys.readouterr().out == "No problems in 4 records.\n"


def test_each_bad_image_is_named_with_its_record_and_field(folder: Path, transform: Compose, capsys):
    volume = nibabel.load(folder / "good.nii.gz").get_fdata().astype(np.float32)
    volume[3, 4, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([15.0, 15, 15, 1])), folder / "nan.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:-400])
    write_projection(str(folder / "constant.nii.gz"), torch.full((64, 64), 7.0), 7.5)
    training = [
        CT,
        {"ct": "nan.nii.gz"},
        {**CT, "frontal": "radiograph.nii.gz", "lateral": "constant.nii.gz"},
        OTHERS[0],
    ]
    problems, count = check(folder, transform, training=training, validation=[{"ct": "cut.nii.gz"}])
    assert count == 5
    assert [(p.record, p.field) for p in problems] == [
        ("training[1]", "ct"),
        ("training[2]", "lateral"),
        ("validation[0]", "ct"),
    ]
    for problem, file, text in zip(
        problems, ("nan.nii.gz", "constant.nii.gz", "cut.nii.gz"), ("NaN", "constant", "read")
    ):
        assert problem.message.startswith(str(folder / file))
        assert text in problem.message
    print_problems(problems, count)
    table = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["record", "field", "problem"]
    assert table[1] == ["training[1]", "ct", problems[0].message]
    assert " ".join(table[-1]) == "Problems: 3, records: 5."


def test_a_bad_entry_does_not_hide_the_next(folder: Path, transform: Compose):
    training = [{**CT, "label": "x"}, {"ct": "gone.nii.gz"}, {"ct": "../out.nii.gz"}, OTHERS[0], 7]
    problems, count = check(folder, transform, training=training, validation=[])
    assert count == 5
    assert [problem.record for problem in problems] == [*(f"training[{i}]" for i in (0, 1, 2, 4)), "validation"]
    texts = ("unknown field 'label'", "does not exist", "outside the folder", "expected an object", "missing or empty")
    for problem, text in zip(problems, texts):
        assert text in problem.message


def test_warnings_of_the_bundle_are_problems(folder: Path, tmp_path_factory, transform: Compose):
    write_ct(str(folder / "small.nii.gz"), phantom(24, 0.0), cube_affine(24, 100.0))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "ct.nii.gz"
    elsewhere.write_bytes((folder / "good.nii.gz").read_bytes())
    write_ct(str(folder / "flat.nii.gz"), phantom(24, 0.1), cube_affine(24, 100.0))
    training = [{"ct": "small.nii.gz"}, {"ct": str(elsewhere)}, {"ct": "flat.nii.gz"}]
    problems, _ = check(folder, transform, training=training, validation=[OTHERS[0]])
    assert [(p.record, p.field) for p in problems] == [("training", "ct"), ("training[0]", "ct"), ("training[2]", "ct")]
    assert all(problem.message.startswith("warning: ") for problem in problems)
    assert str(elsewhere) in problems[0].message
    assert "covers 2%" in problems[1].message


def test_a_duplicate_ct_is_found_by_what_it_holds(folder: Path, transform: Compose):
    """Under another name, uncompressed, in the same section or another."""
    write_ct(str(folder / "copy.nii"), phantom(24, 0.0), cube_affine(24, 360.0))
    copy = {"ct": "copy.nii"}
    problems, _ = check(
        folder, transform, training=[CT, OTHERS[0], copy], validation=[OTHERS[1]], test=[copy, OTHERS[2]]
    )
    assert [(p.record, p.field, p.is_error) for p in problems] == [
        ("training[2]", "ct", False),
        ("test[0]", "ct", False),
    ]
    for problem in problems:
        assert problem.message.startswith(
            f"warning: {folder / 'copy.nii'}: field 'ct' is a duplicate of the CT of training[0]"
        )


def test_a_patient_in_two_sections_is_told_by_the_patient_id(folder: Path, transform: Compose):
    """Two studies of one patient, known by a series and by a radiograph; within a section they are no problem."""
    tags = {"ViewPosition": "PA", "PatientOrientation": ["L", "F"]}
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name, patient in (("same", "4711"), ("other", "4712")):
        write_dicom(folder / f"{name}_frontal.dcm", ramp, **tags, PatientID=patient)
        write_dicom(folder / f"{name}_lateral.dcm", ramp, **LATERAL, PatientID=patient)
    pair = {name: {"frontal": f"{name}_frontal.dcm", "lateral": f"{name}_lateral.dcm"} for name in ("same", "other")}
    write_series(folder / "series", lambda image, _: setattr(image, "PatientID", "4711"))
    training = [{"ct": "series"}, {**CT, **pair["same"]}]
    validation = [{**OTHERS[0], **pair["same"]}, {**OTHERS[1], **pair["other"]}]
    problems, _ = check(folder, transform, training=training, validation=validation)
    found = [(p.record, p.field, p.message) for p in problems if "Patient ID" in p.message]
    assert [(record, field) for record, field, _ in found] == [("validation[0]", "frontal")]
    assert "is of patient 4711 (Patient ID), as is training[0]" in found[0][2]


def test_warnings_of_others_are_passed_on(folder: Path):
    def transform(record: dict[str, Any]) -> dict[str, Any]:
        warnings.warn("an old function", DeprecationWarning)
        return {"ct": np.frombuffer(record["ct"].encode(), np.uint8)}

    with pytest.warns(DeprecationWarning, match="an old function"):
        assert check(folder, transform, training=[CT], validation=OTHERS[:1]) == ([], 2)


def test_an_error_that_is_not_the_bundles_is_told_by_its_type(folder: Path):
    def transform(record: dict[str, Any]) -> None:
        try:
            torch.zeros(2)[5]
        except IndexError as error:
            raise RuntimeError("applying transform") from error

    problems, _ = check(folder, transform, training=[CT], validation=[CT])
    assert [problem.record for problem in problems] == ["training[0]", "validation[0]"]
    assert problems[0].message.startswith("IndexError: ")


def test_a_datalist_that_cannot_be_read_is_an_error(tmp_path: Path, transform: Compose):
    with pytest.raises(InputError, match="no such datalist"):
        check_records(str(tmp_path / "datalist.json"), transform)


def test_the_status_tells_whether_there_are_errors(folder: Path, transform: Compose, monkeypatch, capsys):
    monkeypatch.setattr("scripts.datalist.training_transforms", lambda: transform)
    content = {"training": [CT], "validation": OTHERS[:1]}
    (folder / "datalist.json").write_text(json.dumps(content))
    assert main([str(folder), "--check"]) == 0
    assert "No problems in 2 records." in capsys.readouterr().out
    write_ct(str(folder / "small.nii.gz"), phantom(24, 0.0), cube_affine(24, 100.0))
    (folder / "warned.json").write_text(json.dumps({**content, "test": [{"ct": "small.nii.gz"}]}))
    assert main([str(folder), "--check", "--datalist", str(folder / "warned.json")]) == 0
    assert "\ntest[0]  ct     warning: " in capsys.readouterr().out
    (folder / "other.json").write_text(json.dumps({**content, "test": [{"ct": "good.png"}]}))
    assert main([str(folder), "--check", "--datalist", str(folder / "other.json")]) == 1
    assert "\ntest[0]  ct     " in capsys.readouterr().out
    assert main([str(folder / "nowhere"), "--check"]) == 1
    assert "no such datalist" in capsys.readouterr().err
