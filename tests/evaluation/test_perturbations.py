from __future__ import annotations

import json

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_runs import ROOT
from phantoms import rotated, smooth_body
from scripts import BiplanarGeometry, ProjectCT
from scripts.evaluation import perturbations as conditions
from scripts.evaluation.perturbations import AS_TOLD, BODY_AXES, Condition

SET_UP = BiplanarGeometry(detector_pixels=64)
SCALE = 8.0
BOTH = ["frontal", "lateral"]
ORDER_OF_TURNS = {"anterior": 1, "right": 0, "superior": 2}
"""Turns about turned axes are turns about fixed axes in the opposite order."""


def changed(condition: Condition, films: torch.Tensor) -> torch.Tensor:
    """Films `(2, P, P)`, wholly exposed, under a condition."""
    return condition.films({"xrays": films, "exposed": torch.ones_like(films, dtype=torch.bool)})["xrays"]


@pytest.mark.parametrize("axes", [["superior"], ["right"], ["anterior"], list(BODY_AXES)], ids=str)
def test_a_turned_patients_films_are_those_of_the_turned_ct_in_both_views(axes: list[str]):
    """To 2 % of the largest line integral; the films of a patient who is not turned are elsewhere."""
    hu, project = smooth_body(), ProjectCT(SET_UP, SCALE)
    (condition,) = conditions.turned("turned", SET_UP, axes, BOTH, [8.0])
    body = hu
    for name, axis in ORDER_OF_TURNS.items():
        body = rotated(body, 8.0, axis) if name in axes else body
    seen, expected, nominal = project(hu, condition.geometry), project(body), project(hu)
    assert (seen - expected).abs().max() < 0.02 * nominal.max()
    for view in range(2):
        assert (nominal - expected)[view].abs().max() > 0.05 * nominal.max()


def test_a_view_that_is_not_named_is_taken_as_told():
    hu, project = smooth_body(), ProjectCT(SET_UP, SCALE)
    (condition,) = conditions.turned("turned", SET_UP, ["superior"], ["lateral"], [8.0])
    seen, nominal = project(hu, condition.geometry), project(hu)
    torch.testing.assert_close(seen[0], nominal[0], rtol=1e-3, atol=2e-3)
    assert (seen - nominal)[1].abs().max() > 0.05 * nominal.max()


def test_a_source_that_is_farther_away_magnifies_what_lies_before_the_isocentre_less():
    near, far = (condition.geometry for condition in conditions.source_distance("distance", SET_UP, [-10, 10]))
    for geometry, factor in ((near, 0.9), (far, 1.1)):
        assert geometry.magnification(0.0) == pytest.approx(SET_UP.magnification(0.0))
        assert geometry.magnification(100.0) == pytest.approx(1800 * factor / (1600 * factor - 100))


def test_photon_noise_grows_as_the_photons_get_fewer():
    films, errors = torch.rand(2, 64, 64), []
    for condition in conditions.photon_noise("noise", SCALE, [1e6, 1e4]):
        errors.append((changed(condition, films) - films).std().item())
    assert errors[0] > 0 and errors[1] == pytest.approx(10 * errors[0], rel=0.2)


def test_gamma_takes_the_grey_values_to_a_power():
    films = torch.rand(2, 64, 64)
    films[0, 0, :2] = torch.tensor([0.0, 1.0])
    for condition in conditions.gamma("gamma", [0.7, 1.4]):
        torch.testing.assert_close(changed(condition, films), films**condition.value, rtol=1e-4, atol=1e-4)


def test_exchanged_views_are_exchanged():
    (condition,) = conditions.exchanged_views("exchanged")
    films = torch.rand(2, 64, 64)
    assert torch.equal(changed(condition, films), films[[1, 0]])


def test_collimation_darkens_the_rim_and_nothing_else():
    (condition,) = conditions.collimated("collimation", [20])
    films = torch.rand(2, 100, 100) + 1
    seen = changed(condition, films)
    assert torch.equal(seen[:, 20:80, 20:80], films[:, 20:80, 20:80])
    assert (seen[:, 0] == 0).any() or (seen[:, :, 0] == 0).any()
    assert set((seen / films).unique().tolist()) == {0.0, 1.0}


def test_without_a_scale_films_of_any_exposure_look_alike():
    (condition,) = conditions.without_scale("scale", [1, 99], [0.0, 0.7])
    films = torch.rand(2, 64, 64)
    torch.testing.assert_close(changed(condition, films), changed(condition, 3 * films + 1), rtol=1e-4, atol=1e-4)


def test_other_views_are_told_or_the_nominal_ones_are():
    found = conditions.other_views(SET_UP, [("AP", "LL"), ("AP", "RL")])
    seen = [(c.change, c.value, " ".join(c.geometry.views), c.told and " ".join(c.told.views)) for c in found]
    assert seen == [
        ("other views, told so", "AP LL", "AP LL", "AP LL"),
        ("other views, told so", "AP RL", "AP RL", "AP RL"),
        ("other views, told PA LL", "AP LL", "AP LL", None),
        ("other views, told PA LL", "AP RL", "AP RL", None),
        ("other views, told PA", "AP RL", "AP RL", "PA RL"),
    ]


def test_the_mirror_image_of_a_patient_is_the_ct_from_left_to_right():
    (condition,) = conditions.mirrored_patient("mirror image")
    hu = torch.rand(1, 3, 4, 5)
    assert torch.equal(torch.as_tensor(condition.ct({"ct": hu})["ct"]), hu.flip(1))


def test_the_conditions_of_the_config_begin_with_the_nominal_and_tell_each_other_apart():
    parser = ConfigParser()
    configs = ROOT / "bundle" / "configs"
    parser.read_config([str(configs / f"{name}.json") for name in ("train", "evaluate", "robustness")])
    found = parser.get_parsed_content("conditions")
    assert found[0] is AS_TOLD
    assert len({(condition.change, condition.value) for condition in found}) == len(found)
    changed = [(condition.geometry, condition.films, condition.ct) for condition in found[1:]]
    assert all(sum(change is not None for change in changes) == 1 for changes in changed)
    turned = [c.value for c in found if c.change == "patient turned about the body axis, in both views"]
    assert turned == json.loads((configs / "robustness.json").read_text())["changes"][0]["degrees"]
