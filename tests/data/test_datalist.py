from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import fire
import pytest

from bundle_runs import read_configs
from scripts import InputError, load_records


@pytest.fixture
def write(tmp_path: Path):
    """Writes a datalist next to three (empty) images, and returns its path."""
    for name in ("patient_1.nii.gz", "frontal.png", "lateral.png"):
        (tmp_path / name).touch()

    def to_file(content: Any) -> str:
        path = tmp_path / "datalist.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return to_file


CT = {"ct": "patient_1.nii.gz"}
RADIOGRAPHS = {"frontal": "frontal.png", "lateral": "lateral.png"}


def message_of(datalist: str, section: str = "training") -> str:
    with pytest.raises(InputError) as caught:
        load_records(datalist, section)
    assert datalist in str(caught.value)
    return str(caught.value)


def test_relative_paths_start_at_the_datalists_folder(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datalist = write({"training": [CT]})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_records("../datalist.json", "training")[0]["ct"] == str(tmp_path / "patient_1.nii.gz")
    assert load_records(datalist, "training")[0]["ct"] == str(tmp_path / "patient_1.nii.gz")


def test_relative_paths_start_at_the_folder_that_is_named(write, tmp_path: Path):
    (tmp_path / "cts").mkdir()
    (tmp_path / "cts" / "patient_9.nii.gz").touch()
    datalist = write({"training": [{"ct": "patient_9.nii.gz"}]})
    record = load_records(datalist, "training", str(tmp_path / "cts"))[0]
    assert record["ct"] == str(tmp_path / "cts" / "patient_9.nii.gz") and record["name"] == "patient_9"
    with pytest.raises(InputError, match="which does not exist"):
        load_records(datalist, "training")


def test_absolute_paths_inside_the_folder_stay_without_a_word(write, tmp_path: Path):
    ct = str(tmp_path / "patient_1.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_records(write({"training": [{"ct": ct}]}), "training")[0]["ct"] == ct


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT that lies in another folder than the datalist."""
    path = tmp_path_factory.mktemp("elsewhere") / "ct.nii.gz"
    path.touch()
    return path


def test_absolute_paths_outside_of_the_folder_are_used_with_one_warning(write, outside: Path):
    datalist = write({"training": [CT, {"ct": str(outside), "name": "A"}, {"ct": str(outside), "name": "B"}]})
    with pytest.warns(UserWarning) as caught:
        records = load_records(datalist, "training")
    assert [record["ct"] for record in records[1:]] == [str(outside)] * 2
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith(f"{datalist}: training[1]: field 'ct' is {outside}, outside the folder")
    assert str(Path(datalist).parent) in message
    assert "1 more" in message


def test_a_relative_path_that_leaves_the_folder_is_refused(write, outside: Path):
    up = os.path.relpath(outside, outside.parents[1] / "any")
    message = message_of(write({"training": [CT, {"ct": up}]}))
    assert f"training[1]: field 'ct' is '{up}'" in message
    assert "outside the folder of the data; expected a path inside" in message


def test_a_link_that_leaves_the_folder_is_refused_with_where_it_leads(write, tmp_path: Path, outside: Path):
    (tmp_path / "link.png").symlink_to(outside)
    (tmp_path / "folder").symlink_to(outside.parent)
    for field, path in (("lateral", "link.png"), ("ct", "folder/ct.nii.gz")):
        message = message_of(write({"training": [{**CT, **RADIOGRAPHS, field: path}]}))
        assert f"training[0]: field '{field}' is '{path}', which leads to {outside}, outside" in message


def test_links_and_parents_that_stay_in_the_folder_are_allowed(write, tmp_path: Path):
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "patient_1.nii.gz")
    for path in ("link.nii.gz", f"../{tmp_path.name}/patient_1.nii.gz"):
        assert os.path.samefile(
            load_records(write({"training": [{"ct": path}]}), "training")[0]["ct"], tmp_path / "patient_1.nii.gz"
        )


def test_a_folder_that_is_itself_reached_by_a_link_is_no_way_out(write, tmp_path: Path, outside: Path):
    write({"training": [CT]})
    (outside.parent / "data").symlink_to(tmp_path)
    datalist = str(outside.parent / "data" / "datalist.json")
    assert load_records(datalist, "training")[0]["ct"] == str(outside.parent / "data" / "patient_1.nii.gz")


def test_name_group_and_patient_default_to_the_file_the_section_and_the_name(write):
    records = load_records(write({"test": [CT, {**RADIOGRAPHS, **CT}]}), "test")
    assert [record["name"] for record in records] == ["patient_1", "patient_1_2"]
    assert {record["group"] for record in records} == {"test"}
    assert {record["patient"] for record in records} == {"patient_1"}


def test_a_given_name_group_and_patient_are_kept(write):
    record = load_records(write({"training": [{**CT, "name": "A", "group": "B", "patient": "C"}]}), "training")[0]
    assert (record["name"], record["group"], record["patient"]) == ("A", "B", "C")


def test_every_record_of_the_section_and_no_other_is_given(write):
    datalist = write({"training": [CT, {**CT, **RADIOGRAPHS}], "validation": [CT]})
    assert [sorted(record) for record in load_records(datalist, "training")] == [
        ["ct", "group", "name", "patient"],
        ["ct", "frontal", "group", "lateral", "name", "patient"],
    ]
    assert len(load_records(datalist, "validation")) == 1


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_a_record_without_the_ct_is_refused(write, section: str):
    assert f"{section}[0] lacks field 'ct'" in message_of(write({section: [RADIOGRAPHS]}), section)


def test_a_missing_datalist_is_named(tmp_path: Path):
    assert "no such datalist" in message_of(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize("content", ["{", "", "training: []"])
def test_a_datalist_that_is_no_json_is_refused(write, content: str):
    assert "cannot be read as JSON" in message_of(write(content))


def test_a_datalist_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "datalist.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "cannot be read as JSON" in message_of(str(path))


def test_a_datalist_that_is_no_object_is_refused(write):
    assert "holds a list" in message_of(write([CT]))


@pytest.mark.parametrize("content", [{"test": [CT]}, {"training": []}, {"training": CT}, {"training": None}])
def test_a_section_that_is_missing_or_empty_is_named(write, content: dict):
    assert "section 'training' is missing or empty" in message_of(write(content))


def test_a_record_that_is_no_object_is_named_by_its_place(write):
    assert "training[1] is 'patient_1.nii.gz'" in message_of(write({"training": [CT, "patient_1.nii.gz"]}))


def test_a_record_may_say_where_it_comes_from(write):
    source = {"collection": "LIDC-IDRI", "licence": "CC BY 3.0"}
    records = load_records(write({"training": [{**CT, **source}, CT]}), "training")
    assert source.items() <= records[0].items() and not source.keys() & records[1].keys()


@pytest.mark.parametrize("field", ["collection", "licence"])
@pytest.mark.parametrize("value", ["", 4, None, "CC BY\n4.0"])
def test_a_source_that_is_no_line_of_text_is_refused(write, field: str, value: Any):
    message = message_of(write({"training": [{**CT, field: value}]}))
    assert f"training[0]: field '{field}' is {value!r}, expected a line" in message


def test_an_unknown_field_is_named(write):
    message = message_of(write({"training": [{**CT, "label": "patient_1.nii.gz"}]}))
    assert "training[0]" in message
    assert "'label'" in message


@pytest.mark.parametrize(("given", "missing"), [("frontal", "lateral"), ("lateral", "frontal")])
def test_one_view_without_the_other_is_refused(write, given: str, missing: str):
    record = {**CT, given: RADIOGRAPHS[given]}
    for section in ("training", "test"):
        assert f"{section}[0] lacks field '{missing}'" in message_of(write({section: [record]}), section)


def test_an_empty_record_lacks_its_ct_in_every_section(write):
    for section in ("training", "validation", "test"):
        assert f"{section}[0] lacks field 'ct'" in message_of(write({section: [{"name": "A"}]}), section)


def test_a_file_that_does_not_exist_is_named_with_its_field(write, tmp_path: Path):
    message = message_of(write({"training": [CT, {"ct": "typo.nii.gz"}]}))
    assert "training[1]: field 'ct'" in message
    assert str(tmp_path / "typo.nii.gz") in message


@pytest.mark.parametrize("value", [None, 7, ["patient_1.nii.gz"]])
def test_a_path_that_is_no_text_is_refused_with_its_field(write, value: Any):
    message = message_of(write({"training": [{"ct": value}]}))
    assert "training[0]" in message
    assert "'ct'" in message


def test_a_series_folder_named_by_its_dicom_uid_keeps_its_whole_name(write, tmp_path: Path):
    uids = ("1.3.6.1.4.1.14519.5.2.1.6279.6001.1", "1.3.6.1.4.1.14519.5.2.1.6279.6001.2")
    for uid in uids:
        (tmp_path / uid).mkdir()
    records = load_records(write({"test": [{"ct": uid} for uid in uids]}), "test")
    assert [record["name"] for record in records] == list(uids)


def test_cts_of_one_name_in_several_folders_keep_their_folders_name(write, tmp_path: Path):
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "ct.nii.gz").touch()
    records = load_records(write({"test": [{"ct": "p1/ct.nii.gz"}, {"ct": "p2/ct.nii.gz"}]}), "test")
    assert [record["name"] for record in records] == ["p1_ct", "p2_ct"]


@pytest.mark.parametrize("name", ["", "../outside", "a/b", "a\\b", "..", 7])
@pytest.mark.parametrize("field", ["name", "group", "patient"])
def test_a_name_that_cannot_be_a_files_is_refused(write, field: str, name: Any):
    message = message_of(write({"training": [{**CT, field: name}]}))
    assert f"training[0]: field '{field}' is {name!r}" in message


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (
            {"radiograph_scale": "log"},
            "field 'radiograph_scale' is 'log', expected one of line_integral, transmission, presentation",
        ),
        ({"radiograph_orientation": ["A", "F"]}, "field 'radiograph_orientation' is ['A', 'F'], expected an object"),
        (
            {"radiograph_orientation": {"side": ["A", "F"]}},
            "expected an object with lists of two letters as frontal and lateral",
        ),
        ({"radiograph_orientation": {"lateral": 5}}, "is {'lateral': 5}, expected an object with lists"),
        ({"radiograph_orientation": {"lateral": ["L", "F"]}}, "is ['L', 'F'], expected directions in its plane"),
        ({"radiograph_orientation": {"frontal": ["L", "F", "H"]}}, "is ['L', 'F', 'H'], expected two directions"),
    ],
)
def test_what_radiographs_cannot_be_is_refused_with_the_record(write, declared: dict, told: str):
    with pytest.raises(InputError) as caught:
        load_records(write({"training": [{**CT, **declared}]}), "training")
    assert "training[0]: field 'radiograph_" in str(caught.value)
    assert told in str(caught.value)


def test_a_folder_whose_name_is_a_number_is_found_on_a_run_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fire, which reads the line of `monai.bundle run`, makes numbers of such names."""
    number = fire.parser.DefaultParseValue("2024")
    assert number == 2024
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "ct.nii.gz").touch()
    (tmp_path / "2024" / "datalist.json").write_text(json.dumps({"training": [{"ct": "ct.nii.gz"}]}))
    monkeypatch.chdir(tmp_path)
    parser = read_configs(["bundle/configs/train.json"], dataset_dir=number)
    (record,) = load_records(parser.get_parsed_content("datalist"), "training", number)
    assert record["ct"] == str(tmp_path / "2024" / "ct.nii.gz")


def test_radiographs_whose_names_are_numbers_are_found_on_a_run_line():
    frontal, lateral = map(fire.parser.DefaultParseValue, ("101", "102"))
    parser = read_configs(["bundle/configs/inference.json"], frontal=frontal, lateral=lateral)
    assert parser.get_parsed_content("dataset#data") == [{"frontal": "101", "lateral": "102"}]
