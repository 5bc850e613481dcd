from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from chest_phantom import FOV_MM, HEART_MM, HEIGHT_MM, THORAX_MM, chest, lungs_of
from scripts import MeasureVolumed
from scripts.anatomy.thorax import find_thorax
from scripts.errors import InputError
from scripts.evaluation.measurements import MEASURES, Measurements, lungs, measure, measure_thorax
from scripts.io.image_writer import cube_affine

LITRES = [mask.sum() * (FOV_MM / 128) ** 3 / 1e6 for mask in lungs_of(128)]


def measured(hu: np.ndarray) -> Measurements:
    return measure(hu, FOV_MM / len(hu))


@pytest.mark.parametrize("size", [64, 128, 200])
def test_a_chest_of_solids_has_the_figures_of_its_solids_at_every_number_of_voxels(size: int):
    found, voxel_mm = measured(chest(size)).values, 360 / (100 if size == 200 else size)
    assert found["left_lung_l"] == pytest.approx(LITRES[0], rel=0.04)
    assert found["right_lung_l"] == pytest.approx(LITRES[1], rel=0.04)
    assert found["lungs_l"] == pytest.approx(sum(LITRES), rel=0.04)
    assert found["thorax_width_mm"] == pytest.approx(THORAX_MM[0], abs=2 * voxel_mm)
    assert found["thorax_depth_mm"] == pytest.approx(THORAX_MM[1], abs=2 * voxel_mm)
    assert found["thorax_height_mm"] == pytest.approx(HEIGHT_MM, abs=2 * voxel_mm)
    assert found["heart_width_mm"] == pytest.approx(HEART_MM, abs=2 * voxel_mm)
    assert found["cardiothoracic_ratio"] == pytest.approx(HEART_MM / THORAX_MM[0], abs=0.05)
    assert found["lung_density_hu"] == pytest.approx(-850, abs=15)
    assert found["body_l"] == pytest.approx(np.pi * 160 * 115 * 350 / 1e6, rel=0.02)


def test_a_blurred_chest_has_nearly_the_same_figures():
    """By a Gaussian of 8 mm, which leaves in the lungs' outer centimetre what is half-way to soft tissue."""
    hu = chest(64)
    sharp, blurred = measured(hu).values, measured(ndimage.gaussian_filter(hu, 8 / 5.625)).values
    for key in ("left_lung_l", "right_lung_l", "thorax_width_mm", "heart_width_mm"):
        assert blurred[key] == pytest.approx(sharp[key], rel=0.12), key


def test_masks_of_the_lungs_are_those_of_the_patients_left_and_right_at_the_volumes_own_size():
    for found, truth in zip(lungs(torch.from_numpy(chest(200)), FOV_MM / 200), lungs_of(200)):
        assert found.shape == truth.shape
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.96


def test_a_lung_that_is_not_there_is_none_with_a_reason_and_the_other_one_is_measured():
    hu = chest(64)
    hu[lungs_of(64)[1]] = 30.0
    found = measured(hu)
    assert found.values["left_lung_l"] == pytest.approx(LITRES[0], rel=0.05)
    for key in ("right_lung_l", "lungs_l", "thorax_width_mm", "cardiothoracic_ratio"):
        assert found.values[key] is None and found.reasons[key].startswith("No second lung was found:")


def test_lungs_that_fluid_has_halved_are_still_two():
    hu = chest(64)
    right = lungs_of(64)[1]
    right[..., 38:] = False
    hu[right] = 10.0
    found = measured(hu).values
    assert found["left_lung_l"] == pytest.approx(LITRES[0], rel=0.05)
    assert 0.3 * LITRES[1] < found["right_lung_l"] < 0.8 * LITRES[1]


def test_a_volume_that_ends_within_the_lungs_has_no_height():
    hu = chest(64)
    hu[..., :26] = -1000.0
    found = measured(hu)
    assert found.values["thorax_height_mm"] is None and "lower end" in found.reasons["thorax_height_mm"]
    assert found.values["thorax_width_mm"] == pytest.approx(THORAX_MM[0], abs=12)


def test_lungs_that_reach_a_side_of_the_volume_have_no_extent_towards_it():
    """A chest whose lungs are found, seen through a field of view that cuts the lateral part of one."""
    whole = find_thorax(chest(64), FOV_MM / 64)
    cut = {name: getattr(whole.lungs, name)[16:] for name in ("left", "right", "trachea")}
    seen = {"hu": whole.hu[16:], "body": whole.body[16:], "spine_x": whole.spine_x - 16}
    found = measure_thorax(replace(whole, **seen, lungs=replace(whole.lungs, **cut)))
    assert found.values["thorax_width_mm"] is None and found.values["cardiothoracic_ratio"] is None
    assert found.reasons["thorax_width_mm"].startswith("The lungs reach a side of the volume:")
    assert found.values["thorax_depth_mm"] == pytest.approx(THORAX_MM[1], abs=12)


@pytest.mark.parametrize("hu", [-1000.0, 0.0])
def test_where_there_is_no_chest_every_figure_of_it_has_a_reason(hu: float):
    found = measured(np.full((32, 32, 32), hu))
    missing = {key for key, value in found.values.items() if value is None}
    assert missing == set(found.reasons) >= {each.key for each in MEASURES} - {"body_l"}
    assert all(reason.endswith(".") for reason in found.reasons.values())


def test_measurements_are_json_with_all_that_the_list_of_measures_says():
    content = json.loads(json.dumps(measured(np.full((32, 32, 32), -1000.0)).as_content(), allow_nan=False))
    rows = content["measurements"]
    assert [row["key"] for row in rows] == [each.key for each in MEASURES]
    assert all(row["value"] is None and row["reason"] and row["definition"] and row["source"] for row in rows)


@pytest.mark.parametrize(
    "hu, spacing_mm", [(np.zeros((4, 4)), 1.0), (np.full((4, 4, 4), np.nan), 1.0), (np.zeros((4, 4, 4)), 0)]
)
def test_what_is_no_volume_is_refused(hu: np.ndarray, spacing_mm: float):
    with pytest.raises(InputError, match="expected"):
        measure(hu, spacing_mm)


def test_a_record_is_measured_with_its_own_voxels():
    hu = chest(64)
    record = {"pred": MetaTensor(torch.from_numpy(hu)[None], affine=cube_affine(64, FOV_MM)), "patient": "a"}
    found = MeasureVolumed()(record)
    assert found["pred"] is record["pred"] and found["patient"] == "a"
    assert found["measurements"]["measurements"] == measured(hu).as_content()["measurements"]
    assert "There are no intervals" in found["measurements"]["statement"]
