from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from browser import view_of
from phantoms import phantom
from scripts import BiplanarGeometry, SaveReconstructiond, WarnOfCutBodyd
from scripts.io.image_writer import cube_affine


def reconstructed(hu: torch.Tensor) -> dict[str, MetaTensor]:
    return {"pred": MetaTensor(hu[None], affine=cube_affine(len(hu), 360.0))}


@pytest.mark.parametrize(("axis", "faces"), [(0, ("left", "right")), (1, ("posterior", "anterior"))])
@pytest.mark.parametrize("side", [0, 1])
def test_a_body_that_reaches_a_face_is_told_with_the_face(axis: int, faces: tuple[str, str], side: int):
    hu = phantom(24, 0.0).roll((-6, 6)[side], axis)
    hu.select(axis, 23 - 23 * side).fill_(-1000)
    with pytest.warns(UserWarning, match=f"volume of 360 mm, .* reaches the volume's {faces[side]} face"):
        record = WarnOfCutBodyd(0.02)(reconstructed(hu))
    assert f"near its {faces[side]} face nothing is reliable" in record["note"]


def test_what_is_noted_of_a_record_is_on_its_page_and_its_preview(tmp_path: Path):
    geometry = BiplanarGeometry(detector_pixels=48)
    record = {**reconstructed(phantom(24, 0.0)), "image": torch.rand(2, 48, 48)}
    pages, previews = [], []
    for note in ({}, {"note": "The body is wider."}):
        SaveReconstructiond(str(tmp_path), geometry)({**record, **note})
        pages.append((tmp_path / "view.html").read_text(encoding="utf-8"))
        previews.append((tmp_path / "preview.png").read_bytes())
    assert ["The body is wider." in page for page in pages] == [False, True]
    assert previews[0] != previews[1]


def test_a_body_within_the_volume_is_none_and_its_neck_and_abdomen_may_be_cut():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WarnOfCutBodyd(0.02)(reconstructed(phantom(24, 0.0)))
        WarnOfCutBodyd(0.02)(reconstructed(torch.full((8, 8, 8), -1000.0)))


LEFT = {"key": "left_lung_l", "label": "Left lung", "unit": "L", "value": 2.3456}
HEART = {"key": "heart_width_mm", "label": "Heart width", "unit": "mm", "value": None, "reason": "It is hidden <b>."}


def test_a_page_has_the_table_of_its_measurements_and_the_folder_their_file(tmp_path: Path):
    geometry = BiplanarGeometry(detector_pixels=48)
    record = {**reconstructed(phantom(24, 0.0)), "image": torch.rand(2, 48, 48)}
    content = {"statement": "No more than that.", "measurements": [LEFT, HEART]}
    SaveReconstructiond(str(tmp_path), geometry)({**record, "measurements": content})
    written = json.loads((tmp_path / "measurements.json").read_text(encoding="utf-8"))
    assert written == {"notice": "Research use only, not for diagnosis", **content}
    table = view_of(tmp_path / "view.html")["measurements"]
    assert table["rows"] == [
        {"measurement": "Left lung", "value": "2.35", "unit": "L"},
        {"measurement": "Heart width", "value": "-", "unit": "mm"},
    ]
    assert table["notes"] == ["It is hidden <b>.", "No more than that."]
    SaveReconstructiond(str(tmp_path), geometry)(record)
    assert not (tmp_path / "measurements.json").exists()
    assert view_of(tmp_path / "view.html")["measurements"]["rows"] == []
