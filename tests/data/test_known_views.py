"""
Which side the rays come from: mirror images, views that differ within a batch, and views that weights have not met.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phantoms import phantom
from scripts import BiplanarGeometry, CheckpointError, InputError, Region, hu_to_attenuation, lift, project
from scripts.data.known_views import as_known, known_views, write_known_views
from scripts.projection.geometry import signs_of_views

PAIRS = [("PA", "RL"), ("AP", "LL"), ("PA", "LL"), ("AP", "RL")]
SIZE = 24
TURNED = ((3.0, -4.0, 5.0), (2.0, 6.0, -7.0))


@pytest.fixture
def chests() -> torch.Tensor:
    """Attenuation of four that are not symmetrical, `(4, 1, S, S, S)`."""
    hu = torch.stack([phantom(SIZE, 0.05 * i)[None] for i in range(1, 5)])
    hu[:, :, 2:6, 4:9, 3:12] = 300.0
    return hu_to_attenuation(hu)


@pytest.fixture
def mixed(geometry: BiplanarGeometry) -> BiplanarGeometry:
    return replace(geometry, views=signs_of_views(PAIRS))


@pytest.fixture
def network(small_cascade, awaken) -> torch.nn.Module:
    return awaken(small_cascade()).eval()


@pytest.fixture
def xrays(chests, mixed) -> torch.Tensor:
    return project(chests, mixed) / 8


@pytest.mark.parametrize("angles", [((0.0,) * 3,) * 2, TURNED])
def test_a_batch_of_different_views_is_projected_and_lifted_as_each_case_alone(chests, mixed, angles):
    xrays = project(chests, replace(mixed, angles_deg=torch.tensor([angles] * 4)))
    lifted = lift(xrays[:, :, None], replace(mixed, angles_deg=torch.tensor([angles] * 4)), SIZE)
    for case, views in enumerate(PAIRS):
        alone = replace(mixed, views=views, angles_deg=angles)
        torch.testing.assert_close(
            xrays[case : case + 1], project(chests[case : case + 1], alone), rtol=1e-5, atol=1e-5
        )
        again = lift(xrays[case : case + 1, :, None], alone, SIZE)
        torch.testing.assert_close(lifted[case : case + 1], again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", PAIRS)
@pytest.mark.parametrize("angles", [((0.0,) * 3,) * 2, TURNED])
def test_a_mirror_image_casts_mirrored_frontal_and_the_same_lateral_projections(chests, geometry, views, angles):
    set_up = replace(geometry, views=views, angles_deg=angles)
    xrays, mirrored = project(chests, set_up), project(chests.flip(2), set_up.mirrored())
    torch.testing.assert_close(mirrored[:, 0].flip(-1), xrays[:, 0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(mirrored[:, 1], xrays[:, 1], rtol=1e-5, atol=2e-5)
    assert set_up.mirrored().mirrored() == set_up


def test_the_mirror_of_a_batch_is_that_of_each_case(mixed: BiplanarGeometry):
    turned = replace(mixed, angles_deg=torch.tensor([TURNED] * 4))
    cases = [case.mirrored() for case in turned.cases_apart()]
    assert turned.mirrored().cases_apart() == cases
    assert [case.views for case in turned.select([3, 0]).cases_apart()] == [PAIRS[3], PAIRS[0]]


@pytest.mark.parametrize("wrong", [torch.tensor([[1.0, 0.5]]), torch.tensor([1.0, 1.0]), torch.ones(2, 3)])
def test_views_of_a_batch_that_are_no_sides_are_refused(geometry: BiplanarGeometry, wrong: torch.Tensor):
    with pytest.raises(InputError, match=r"expected \(B, 2\) of 1 and -1"):
        replace(geometry, views=wrong)


@pytest.mark.parametrize("frontal", ["AP", "PA"])
def test_a_pair_with_rl_gives_the_mirror_image_of_what_the_mirrored_patient_gives_with_ll(
    network, chests, geometry, frontal
):
    """Voxel for voxel, of every stage."""
    right, left = replace(geometry, views=(frontal, "RL")), replace(geometry, views=(frontal, "LL"))
    with torch.no_grad():
        volumes = network(project(chests, right) / 8, right)
        mirrored = network(project(chests.flip(2), left) / 8, left)
    for volume, mirror in zip(volumes, mirrored):
        assert not torch.allclose(volume, volume.flip(2), atol=1e-2)
        torch.testing.assert_close(volume, mirror.flip(2), rtol=1e-4, atol=1e-4)


def test_a_batch_of_different_views_gives_each_case_its_volumes_in_its_place(network, xrays, mixed):
    with torch.no_grad():
        volumes = network(xrays, mixed)
        for case, views in enumerate(PAIRS):
            alone = network(xrays[case : case + 1], replace(mixed, views=views))
            for volume, expected in zip(volumes, alone):
                torch.testing.assert_close(volume[case : case + 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", [("PA", "RL"), None])
def test_a_region_is_that_part_of_the_patient_whatever_the_views(network, xrays, mixed, views):
    region, set_up = Region(64, (2, 10, 20), (30, 40, 60)), mixed if views is None else replace(mixed, views=views)
    with torch.no_grad():
        whole, part = network(xrays, set_up)[-1], network(xrays, set_up, region=region)[-1]
    torch.testing.assert_close(part, region.of(whole), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_network_from_cases_of_both_sides(network, xrays, mixed):
    """They are those of each case alone."""
    weight = network.stages[2].to_volume.conv.weight
    for case, views in enumerate(PAIRS):
        (found,) = torch.autograd.grad(network(xrays, mixed)[-1][case].sum(), weight)
        alone = network(xrays[case : case + 1], replace(mixed, views=views))[-1]
        (expected,) = torch.autograd.grad(alone.sum(), weight)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert found.any()


# Views that weights have met


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"some weights")
    return path


def test_weights_have_met_the_views_of_their_sidecar_file_else_those_of_the_configuration(weights, geometry):
    assert known_views(str(weights), geometry) == [("PA", "LL")]
    assert known_views(str(weights), replace(geometry, views=("AP", "RL"))) == [("AP", "RL")]
    write_known_views(str(weights), [("PA", "LL"), ("AP", "LL")])
    assert known_views(str(weights), geometry) == [("PA", "LL"), ("AP", "LL")]


@pytest.mark.parametrize(
    "views", [[], [["PA"]], [["LL", "PA"]], "PA LL", [["PA", "LL"], ["AP", 1]], {"PA": "LL"}, None]
)
def test_views_in_a_sidecar_file_that_are_none_are_refused_by_name(weights, geometry, views):
    write_known_views(str(weights), [("PA", "LL")])
    path = weights.with_name("model_views.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "views": views}))
    with pytest.raises(CheckpointError, match="model_views.json.*views"):
        known_views(str(weights), geometry)


def test_views_of_other_weights_are_refused(weights, geometry):
    write_known_views(str(weights), [("AP", "LL")])
    weights.write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match="model_views.json"):
        known_views(str(weights), geometry)


def test_a_network_receives_a_frontal_view_that_it_has_met_and_any_lateral_one(mixed, geometry):
    with pytest.warns(UserWarning, match="view is AP, expected PA"):
        received = as_known(mixed, [("PA", "LL")])
    assert [case.views for case in received.cases_apart()] == [("PA", "RL"), ("PA", "LL"), ("PA", "LL"), ("PA", "RL")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_known(mixed, [("PA", "LL"), ("AP", "LL")]) is mixed
        assert as_known(geometry, [("PA", "LL")]) is geometry
