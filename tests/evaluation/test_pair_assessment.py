from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from monai.data import MetaTensor

from chest_phantom import FOV_MM, chest
from phantoms import chest_imaging
from scripts import KeepUncalibratedd, SaveAssessmentd
from scripts.evaluation.checklist import check_anatomy
from scripts.evaluation.lung_fields import contour_distance_mm, dice, lung_fields
from scripts.evaluation.pair_assessment import PairAssessment, assess_pair
from scripts.io.image_writer import cube_affine
from scripts.reporting.assessment import assessment_figure

IMAGING = chest_imaging(detector_pixels=128)


def record(image: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The chest, and its own projections where no others are given."""
    hu = torch.from_numpy(chest(64))[None]
    own = IMAGING.project(hu[None])[0]
    return {"pred": MetaTensor(hu, affine=cube_affine(64, FOV_MM)), "image": own if image is None else image}


@pytest.fixture(scope="module")
def own() -> PairAssessment:
    return assess_pair(record(), IMAGING)


def disc(radius: float, size: int = 101) -> np.ndarray:
    x, y = np.mgrid[:size, :size] - size // 2
    return x**2 + y**2 <= radius**2


def test_a_volume_agrees_with_its_own_projections(own: PairAssessment):
    assert own.content["lung_fields"]["dice"] == pytest.approx(1, abs=1e-6)
    assert own.content["lung_fields"]["contour_distance_mm"] == pytest.approx(0, abs=1e-6)
    assert [error["mae"] for error in own.content["reprojection"].values()] == pytest.approx([0, 0], abs=1e-5)


def test_a_radiograph_that_is_shifted_sideways_agrees_less_the_further_it_is(own: PairAssessment):
    xrays = torch.from_numpy(own.line_integrals / IMAGING.xray_scale).float()
    found = []
    for pixels in (2, 5):
        shifted = assess_pair(record(torch.stack([xrays[0].roll(pixels, 1), xrays[1]])), IMAGING).content
        found.append(shifted["lung_fields"])
        shift_mm = pixels * IMAGING.geometry.pixel_mm / IMAGING.geometry.magnification(0.0)
        assert 0.2 * shift_mm < found[-1]["contour_distance_mm"] <= shift_mm
        assert shifted["reprojection"]["frontal"]["mae"] > 0.05 > shifted["reprojection"]["lateral"]["mae"]
    assert 1 > found[0]["dice"] > found[1]["dice"]


def test_the_lung_fields_lie_within_the_lungs_of_the_chest(own: PairAssessment):
    air = torch.from_numpy(chest(64) < -500).float()
    body = torch.from_numpy(chest(64) > -500)
    lungs = air * (body.cumsum(0) > 0) * (body.flip(0).cumsum(0).flip(0) > 0)
    shown = IMAGING.project(lungs[None, None] * 1000 - 1000)[0, 0].numpy() > 0.01
    assert own.fields[0].sum() > 0.4 * shown.sum()
    assert (own.fields[0] & shown).sum() > 0.95 * own.fields[0].sum()


def test_lung_fields_do_not_depend_on_the_unit_and_an_even_image_has_none(own: PairAssessment):
    image, side = own.line_integrals[0], IMAGING.geometry.pixel_mm
    np.testing.assert_array_equal(lung_fields(7 * image, side), lung_fields(image, side))
    nothing = lung_fields(np.ones((64, 64)), side)
    assert not nothing.any()
    assert dice(nothing, nothing) is None and contour_distance_mm(nothing, nothing, 1.0) is None


def test_concentric_circles_are_apart_by_the_difference_of_their_radii():
    assert contour_distance_mm(disc(20), disc(30), 0.5) == pytest.approx(5, abs=0.3)
    assert dice(disc(20), disc(30)) == pytest.approx(2 * 400 / 1300, abs=0.01)


def test_views_of_one_body_differ_by_little_and_a_lateral_scale_by_what_it_makes(own: PairAssessment):
    xrays = own.line_integrals / IMAGING.xray_scale
    scaled = torch.from_numpy(xrays * np.array([1, 1.2])[:, None, None]).float()
    kept = {**record(), "uncalibrated": scaled}
    found = assess_pair(kept, IMAGING).content["consistency"]
    assert found["as_reconstructed"] < 0.05
    assert found["before_calibration"] == pytest.approx(2 * 0.2 / 2.2, abs=0.05)
    assert found["after_calibration"] is None


def test_the_verdicts_are_those_of_the_checklist_in_file_and_figure(own: PairAssessment, tmp_path: Path):
    SaveAssessmentd(str(tmp_path), IMAGING)(record())
    content = json.loads((tmp_path / "assessment.json").read_text(encoding="utf-8"))
    expected = check_anatomy(chest(64), FOV_MM / 64)
    rules = content["checklist"]["rules"]
    assert [(rule["key"], rule["passed"]) for rule in rules] == [(each.rule.key, each.passed) for each in expected]
    assert content["checklist"]["passed"] == sum(each.passed for each in expected)
    assert (tmp_path / "assessment.png").stat().st_size > 10000
    said = [text.get_text() for text in assessment_figure(own).findobj(Text)]
    assert said.count("FAILED") == sum(not each.passed for each in expected)
    assert said.count("passed") == sum(each.passed for each in expected)


def test_what_is_kept_uncalibrated_is_prepared_from_the_radiographs_and_leaves_them():
    given = {"frontal": torch.ones(1, 4, 4), "lateral": torch.zeros(1, 4, 4)}
    kept = KeepUncalibratedd(lambda record: {key: 2 * value for key, value in record.items()})(given)
    assert kept["uncalibrated"].shape == (2, 4, 4) and kept["uncalibrated"].mean() == 1
    assert kept["frontal"] is given["frontal"]
