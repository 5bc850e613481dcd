from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from bundle_runs import ROOT
from scripts import InputError
from scripts.io.licences import check_shareable
from scripts.io.nifti import add_json, load_nifti, read_json

BUNDLE = ROOT / "bundle"
SECTIONS = ("training", "validation", "test")


def read(name: str) -> dict:
    return json.loads((BUNDLE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("licence", ["CC BY 3.0", "CC BY 4.0", "CC-BY-4.0", "CC0", "CC0 1.0", "CC0-1.0"])
def test_attribution_and_public_domain_are_shareable(licence: str):
    check_shareable([{"name": "A", "licence": licence}], "FILE")


@pytest.mark.parametrize("licence", ["CC BY-NC 3.0", "CC-BY-NC-4.0", "CC BY-SA 4.0", "CC BY-ND 4.0", "CC BY", "", None])
def test_any_other_licence_is_refused_with_file_record_and_licence(licence: str | None):
    with pytest.raises(InputError) as caught:
        check_shareable([{"name": "A", "licence": "CC BY 4.0"}, {"ct": "b.nii", "licence": licence}], "FILE")
    assert str(caught.value).startswith(f"FILE: derives from record 'b.nii' of licence {licence!r}, expected CC BY or")


def test_records_of_training_and_validation_may_be_shared_and_every_record_says_whose_it_is():
    split = read("configs/split.json")
    check_shareable(split["training"] + split["validation"], "split.json")
    records = [record for section in SECTIONS for record in split[section]]
    assert all(set(record) == {"ct", "collection", "licence"} for record in records)
    assert {record["collection"] for record in records} == set(split["collections"])
    licence_of = {record["collection"]: record["licence"] for record in records}
    assert all(licence_of[record["collection"]] == record["licence"] for record in records)


def test_the_shipped_weights_met_what_the_split_says_they_met():
    met, split = read("models/model_training.json"), read("configs/split.json")
    assert met["training"] == split["training"][:6]
    assert met["validation"] == split["validation"] and met["test"] == split["test"][:1]


def test_the_page_of_licences_names_every_collection():
    page = (BUNDLE / "docs" / "data_license.txt").read_text(encoding="utf-8")
    for name, address in read("configs/split.json")["collections"].items():
        assert name in page and address in page


def test_an_object_in_a_header_comes_back_and_what_is_none_is_refused(tmp_path):
    image, path = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz"
    nibabel.save(image, path)
    with pytest.raises(InputError, match=f"{path}: its header has 0 comments"):
        read_json(load_nifti(path), path)
    content = {"records": [{"name": "Ä", "licence": "CC0"}]}
    add_json(image, content)
    nibabel.save(image, path)
    assert read_json(load_nifti(path), path) == content
