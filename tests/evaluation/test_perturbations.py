from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_runs import ROOT
from phantoms import chest_imaging, projector, rotated, smooth_body
from scripts import BiplanarGeometry
from scripts.evaluation import perturbations
from scripts.evaluation.perturbations import BODY_AXES, NOMINAL, Perturbation

GEOMETRY = BiplanarGeometry(detector_pixels=64)
BOTH = ["frontal", "lateral"]
ORDER_OF_ROTATIONS = {"anterior": 1, "right": 0, "superior": 2}
"""Rotations about rotated axes are rotations about fixed axes in the opposite order."""


def perturbed(perturbation: Perturbation, xrays: torch.Tensor) -> torch.Tensor:
    """X-rays `(2, P, P)`, wholly exposed, under a perturbation."""
    return perturbation.xrays({"xrays": xrays, "exposed": torch.ones_like(xrays, dtype=torch.bool)})["xrays"]


@pytest.mark.parametrize("axes", [["superior"], ["right"], ["anterior"], list(BODY_AXES)], ids=str)
def test_a_rotated_patients_projections_are_those_of_the_rotated_ct_in_both_views(axes: list[str]):
    """To 2 % of the largest line integral; the projections of a patient who is not rotated differ."""
    hu, project = smooth_body(), projector(GEOMETRY)
    (perturbation,) = perturbations.rotated("rotated", GEOMETRY, axes, BOTH, [8.0])
    body = hu
    for name, axis in ORDER_OF_ROTATIONS.items():
        body = rotated(body, 8.0, axis) if name in axes else body
    seen, expected, nominal = project(hu, perturbation.geometry), project(body), project(hu)
    assert (seen - expected).abs().max() < 0.02 * nominal.max()
    for view in range(2):
        assert (nominal - expected)[view].abs().max() > 0.05 * nominal.max()


def test_a_view_that_is_not_named_is_nominal():
    hu, project = smooth_body(), projector(GEOMETRY)
    (perturbation,) = perturbations.rotated("rotated", GEOMETRY, ["superior"], ["lateral"], [8.0])
    seen, nominal = project(hu, perturbation.geometry), project(hu)
    torch.testing.assert_close(seen[0], nominal[0], rtol=1e-3, atol=2e-3)
    assert (seen - nominal)[1].abs().max() > 0.05 * nominal.max()


def test_a_source_that_is_farther_away_magnifies_what_lies_before_the_isocentre_less():
    near, far = (
        perturbation.geometry for perturbation in perturbations.source_distance("distance", GEOMETRY, [-10, 10])
    )
    for geometry, factor in ((near, 0.9), (far, 1.1)):
        assert geometry.magnification(0.0) == pytest.approx(GEOMETRY.magnification(0.0))
        assert geometry.magnification(100.0) == pytest.approx(1800 * factor / (1600 * factor - 100))


def test_poisson_noise_grows_as_the_photons_get_fewer():
    xrays, errors = torch.rand(2, 64, 64), []
    for perturbation in perturbations.photon_noise("noise", chest_imaging(64), [1e6, 1e4]):
        errors.append((perturbed(perturbation, xrays) - xrays).std().item())
    assert errors[0] > 0 and errors[1] == pytest.approx(10 * errors[0], rel=0.2)


def test_gamma_takes_the_grey_values_to_a_power():
    xrays = torch.rand(2, 64, 64)
    xrays[0, 0, :2] = torch.tensor([0.0, 1.0])
    for perturbation in perturbations.gamma("gamma", [0.7, 1.4]):
        torch.testing.assert_close(perturbed(perturbation, xrays), xrays**perturbation.value, rtol=1e-4, atol=1e-4)


def test_swapped_views_are_swapped():
    (perturbation,) = perturbations.swapped_views("swapped")
    xrays = torch.rand(2, 64, 64)
    assert torch.equal(perturbed(perturbation, xrays), xrays[[1, 0]])


def test_collimation_darkens_the_rim_and_nothing_else():
    (perturbation,) = perturbations.collimated("collimation", [20])
    xrays = torch.rand(2, 100, 100) + 1
    seen = perturbed(perturbation, xrays)
    assert torch.equal(seen[:, 20:80, 20:80], xrays[:, 20:80, 20:80])
    assert (seen[:, 0] == 0).any() or (seen[:, :, 0] == 0).any()
    assert set((seen / xrays).unique().tolist()) == {0.0, 1.0}


def test_uncalibrated_xrays_of_any_exposure_look_alike():
    (perturbation,) = perturbations.without_scale("scale", [1, 99], [0.0, 0.7])
    xrays = torch.rand(2, 64, 64)
    torch.testing.assert_close(
        perturbed(perturbation, xrays), perturbed(perturbation, 3 * xrays + 1), rtol=1e-4, atol=1e-4
    )


def test_other_views_are_received_as_such_or_as_the_nominal_ones():
    found = perturbations.other_views(GEOMETRY, [("AP", "LL"), ("AP", "RL")])
    seen = [(c.change, c.value, " ".join(c.geometry.views), c.received and " ".join(c.received.views)) for c in found]
    assert seen == [
        ("other views, received as such", "AP LL", "AP LL", "AP LL"),
        ("other views, received as such", "AP RL", "AP RL", "AP RL"),
        ("other views, received as PA LL", "AP LL", "AP LL", None),
        ("other views, received as PA LL", "AP RL", "AP RL", None),
        ("other views, received as PA", "AP RL", "AP RL", "PA RL"),
    ]


def test_the_mirror_image_of_a_patient_is_the_ct_from_left_to_right():
    (perturbation,) = perturbations.mirrored_patient("mirror image")
    hu = torch.rand(1, 3, 4, 5)
    assert torch.equal(torch.as_tensor(perturbation.ct({"ct": hu})["ct"]), hu.flip(1))


def test_the_perturbations_of_the_config_begin_with_the_nominal_one_and_have_names_of_their_own():
    parser = ConfigParser()
    configs = ROOT / "bundle" / "configs"
    parser.read_config([str(configs / f"{name}.json") for name in ("train", "evaluate", "robustness")])
    found = parser.get_parsed_content("conditions")
    assert found[0] is NOMINAL
    assert len({(perturbation.change, perturbation.value) for perturbation in found}) == len(found)
    changed = [(perturbation.geometry, perturbation.xrays, perturbation.ct) for perturbation in found[1:]]
    assert all(sum(change is not None for change in changes) == 1 for changes in changed)


@pytest.mark.parametrize("former", perturbations.FORMER_NAMES)
def test_a_function_of_the_previous_version_is_the_present_one_with_a_warning(former: str):
    """As a config finds it."""
    now = perturbations.FORMER_NAMES[former]
    with pytest.warns(FutureWarning, match=f"perturbations.{former} is now perturbations.{now}; correct"):
        found = ConfigParser({"function": f"$scripts.perturbations.{former}", "imports": ["$import scripts"]})
        assert found.get_parsed_content("function") is getattr(perturbations, now)


def test_other_names_are_missing_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'films'"):
        _ = perturbations.films
