"""What weights have met, and who is no test of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bundle_runs import ROOT
from scripts import CheckpointError, InputError
from scripts.data.evaluation_records import evaluation_records
from scripts.data.met_records import read_met_records, records_of_training, same_patient, write_met_records

LIDC_1 = {"ct": "lidc_0001.nii.gz", "collection": "LIDC-IDRI", "licence": "CC BY 3.0"}
PRIVATE = {"ct": "a/ct.nii.gz", "name": "a_ct", "patient": "patient_1"}


def weights(folder: Path, name: str, content: str, **sections: list[dict]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    if sections:
        write_met_records(str(folder / name), {"training": [], "validation": [], "met": [], **sections})
    return str(folder / name)


def test_what_weights_have_met_is_carried_on_from_training_to_training(tmp_path: Path):
    """Own records in their sections, their CTs by the path in the folder of the data; all else in `met`, once."""
    first = weights(tmp_path, "first.pt", "1", training=[LIDC_1], met=[{"ct": "older.nii.gz"}])
    base = weights(tmp_path, "stage1.pth", "2", training=[PRIVATE], met=[LIDC_1])
    (tmp_path / "data" / "a").mkdir(parents=True)
    loaded = {**PRIVATE, "ct": f"{tmp_path}/data/a/ct.nii.gz", "group": "training", "shapes": "elsewhere"}
    elsewhere = {"ct": "/elsewhere/b.nii.gz", "name": "b", "patient": "b"}
    found = records_of_training([loaded], [elsewhere], f"{tmp_path}/data", first, base)
    assert found["training"] == [PRIVATE] and found["validation"] == [{**elsewhere, "ct": "b.nii.gz"}]
    assert found["met"] == [LIDC_1, {"ct": "older.nii.gz"}]


def test_weights_that_do_not_say_whom_they_have_met_are_warned_of(tmp_path: Path):
    unknown = weights(tmp_path, "model.pt", "1")
    with pytest.warns(UserWarning, match="model.pt: has no model_training.json next to it"):
        assert records_of_training([], [], str(tmp_path), unknown)["met"] == []


def test_the_shipped_weights_say_whom_they_have_met(tmp_path: Path):
    for name in ("model.pt", "model_training.json"):
        shutil.copyfile(ROOT / "bundle" / "models" / name, tmp_path / name)
    met = records_of_training([], [], str(tmp_path), str(tmp_path / "model.pt"))["met"]
    assert LIDC_1 in met and all(record["licence"].startswith("CC BY ") for record in met)
    assert "lidc_0350.nii.gz" not in [record["ct"] for record in met]  # which has tested them


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights_sha256": "0"}, "field 'weights_sha256' is of other weights"),
        ({"met": {}}, "section 'met' is no list of records with a 'ct'"),
        ({"training": [{"ct": 1}]}, "section 'training' is no list of records with a 'ct'"),
    ],
)
def test_a_file_that_is_not_of_these_weights_is_refused(tmp_path: Path, content: dict, message: str):
    path = weights(tmp_path, "model.pt", "1")
    (tmp_path / "model_training.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        read_met_records(path)
    assert str(caught.value).startswith(f"{tmp_path}/model_training.json: {message}")


def test_patients_are_told_across_datalists_by_their_collection():
    """By this project's names of LIDC-IDRI's CTs or the collection's own; private numbers are those of a datalist."""
    fetched = {"ct": "LIDC-IDRI-0001/ct", "collection": "LIDC-IDRI", "patient": "LIDC-IDRI-0001"}
    assert same_patient(LIDC_1) == same_patient(fetched)
    assert same_patient(fetched) != same_patient({**fetched, "collection": "Others"})
    assert same_patient(PRIVATE) != same_patient({**PRIVATE, "ct": "b/ct.nii.gz"})
    assert same_patient(PRIVATE) == same_patient({**PRIVATE, "patient": "patient_7"})


def test_an_evaluation_leaves_out_whom_the_weights_have_met_before_their_own_training(tmp_path: Path, capsys):
    """Own sections are kept apart by the datalist, and the demo's are of one patient on purpose."""
    names = ["lidc_0001.nii.gz", "a.nii.gz", "b.nii.gz"]
    for name in names:
        (tmp_path / name).touch()
    records = [LIDC_1, {"ct": "a.nii.gz"}, {"ct": "b.nii.gz", "patient": "a"}]
    (tmp_path / "datalist.json").write_text(json.dumps({"test": records}))
    asked = (str(tmp_path / "datalist.json"), "test", str(tmp_path))
    own = weights(tmp_path / "own", "stage3_best.pth", "1", training=records)
    assert len(evaluation_records(*asked, own)) == len(evaluation_records(*asked)) == 3
    tuned = weights(tmp_path / "tuned", "stage3_best.pth", "2", met=records[:2])
    (left,) = evaluation_records(*asked, tuned)
    assert left["name"] == "b"
    assert f"Not scored, since {tuned} has met their patients before its own training" in capsys.readouterr().out
    with pytest.raises(InputError, match="nothing of 'test' can be scored"):
        evaluation_records(*asked, weights(tmp_path / "all", "stage3_best.pth", "3", met=records))
