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
from scripts import (
    BiplanarGeometry,
    CheckpointError,
    DRRReprojectionLoss,
    ImagingModel,
    InputError,
    RandGeometry,
    Region,
    hu_to_attenuation,
    lift,
    project,
)
from scripts.data.known_views import as_known, known_views, met_views, write_known_views
from scripts.networks.cascade import mirrored_xrays
from scripts.projection.geometry import at_distance, batched, signs_of_views

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
@pytest.mark.parametrize("mirror_averaging", [False, True])
def test_a_pair_with_rl_gives_the_mirror_image_of_what_the_mirrored_patient_gives_with_ll(
    network, chests, geometry, frontal, mirror_averaging
):
    """Voxel for voxel, of every stage."""
    network.mirror_averaging = mirror_averaging
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


@pytest.fixture
def acquisitions(geometry: BiplanarGeometry) -> BiplanarGeometry:
    """Views, distances and angles that differ; two entries look along the axes."""
    angles = [((0.0,) * 3,) * 2, TURNED, ((0.0,) * 3,) * 2, ((-10.0, 3.0, 10.0), (9.0, -10.0, 1.0))]
    near = [replace(at_distance(geometry, factor), views=pair) for factor, pair in zip((0.8, 1.2, 1.0, 1.1), PAIRS)]
    return batched([replace(entry, angles_deg=each) for entry, each in zip(near, angles)])


def test_each_entry_of_a_batch_has_its_own_acquisition_geometry(chests, acquisitions):
    """In projections, backprojections and the terms of a loss and of a correction."""
    imaging = ImagingModel(BiplanarGeometry(detector_pixels=2 * SIZE), (-1024, 1024), 8.0)
    volume, loss = imaging.scale(chests * 50000 - 1000), DRRReprojectionLoss(imaging)
    acquisitions = acquisitions.with_pixels(2 * SIZE)
    xrays = project(chests, acquisitions) / 8
    ratios = imaging.log_ratio(volume, xrays, 2 * SIZE, acquisitions)
    updates = imaging.correction(volume, ratios, Region.whole(SIZE), acquisitions)
    losses = []
    for entry, alone in enumerate(acquisitions.cases_apart()):
        one = slice(entry, entry + 1)
        torch.testing.assert_close(xrays[one], project(chests[one], alone) / 8, rtol=1e-5, atol=1e-6)
        ratio = imaging.log_ratio(volume[one], xrays[one], 2 * SIZE, alone)
        torch.testing.assert_close(ratios[one], ratio, rtol=1e-4, atol=1e-4)
        update = imaging.correction(volume[one], ratio, Region.whole(SIZE), alone)
        torch.testing.assert_close(updates[one], update, rtol=1e-4, atol=1e-5)
        losses.append(loss(volume[one], xrays[one], geometry=alone))
    torch.testing.assert_close(loss(volume, xrays, geometry=acquisitions), torch.stack(losses).mean())


def test_the_mirrored_pair_with_rl_is_a_pair_with_ll_but_for_the_cone_beam(chests, acquisitions):
    """Rotated views too: the angles are those of the mirror image."""
    far = replace(acquisitions, source_to_isocentre_mm=1e9, source_to_detector_mm=1e9 + 200)
    as_left = replace(far.mirrored(), views=far.views)
    torch.testing.assert_close(
        project(chests.flip(2), as_left), mirrored_xrays(project(chests, far)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("stages", [1, 2])
def test_mirror_averaging_is_the_mean_of_the_pair_and_of_the_mirrored_pair_with_one_update(
    network, chests, acquisitions, stages
):
    xrays, region = project(chests, acquisitions) / 8, Region(16, (2, 1, 0), (12, 16, 9))
    left = replace(acquisitions, views=acquisitions.views.abs())
    as_left = replace(left.mirrored(), views=left.views)
    with torch.no_grad():
        pair, mirrored = network(xrays, left, stages=1)[0], network(mirrored_xrays(xrays), as_left, stages=1)[0].flip(2)
        expected = network.stages[0].updated((pair + mirrored) / 2, xrays, left)
        network.mirror_averaging = True
        torch.testing.assert_close(network(xrays, left, stages=stages)[0], expected, rtol=1e-4, atol=1e-5)
        part = network(xrays, left, stages=1, region=region)[0]
    torch.testing.assert_close(part, region.of(expected), rtol=1e-4, atol=1e-5)
    assert (expected - pair).abs().max() > 1e-2


@pytest.mark.parametrize(("trained", "averages"), [(1, False), (2, True), (None, False)])
def test_a_first_stage_that_is_trained_is_not_averaged(small_cascade, awaken, xrays, geometry, trained, averages):
    """Its frozen volume, of which a later stage makes its own, is, as in inference."""
    network = awaken(small_cascade(trained_stage=trained, mirror_averaging=True, feature_dropout=0.0))
    with torch.no_grad():
        trained_volume, served = network.train()(xrays, geometry, 1)[0], network.eval()(xrays, geometry, 1)[0]
    assert torch.equal(trained_volume, served) == averages


@pytest.mark.parametrize("region", [None, Region(64, (2, 10, 20), (30, 40, 60))])
def test_each_entry_of_a_batch_gets_the_volumes_of_its_own_acquisition_geometry(network, chests, acquisitions, region):
    xrays = project(chests, acquisitions) / 8
    with torch.no_grad():
        together = network(xrays, acquisitions, region=region)
        for entry, alone in enumerate(acquisitions.cases_apart()):
            for volumes, expected in zip(together, network(xrays[entry : entry + 1], alone, region=region)):
                torch.testing.assert_close(volumes[entry : entry + 1], expected, rtol=1e-4, atol=1e-4)


def test_entries_along_the_axes_take_the_fast_path_beside_others(chests, acquisitions):
    """To the bit: rays that are traced one by one add up in another order."""
    fast = project(chests, acquisitions)[[0, 2]]
    assert torch.equal(fast, project(chests[[0, 2]], acquisitions.select([0, 2])))


def test_ap_and_pa_differ_by_the_cone_beam_alone(chests, geometry):
    """A parallel beam sees the same from either side; of a cone beam what is nearer to the source is larger."""
    views = ("AP", "LL"), ("PA", "LL")
    far = replace(geometry, source_to_isocentre_mm=1e9, source_to_detector_mm=1e9 + 200)
    ap, pa = (project(chests, replace(far, views=pair))[:, 0] for pair in views)
    torch.testing.assert_close(ap, pa, rtol=1e-3, atol=1e-3)
    ball = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    ball[:, :, 9:15, 19:23, 9:15] = 0.02  # anterior
    widths = [(project(ball, replace(geometry, views=pair))[0, 0] > 0.01).sum(1).max().item() for pair in views]
    depth_mm = (20.5 + 0.5 - SIZE / 2) * geometry.fov_mm / SIZE
    ratio = geometry.magnification(depth_mm) / geometry.magnification(-depth_mm)
    assert widths[0] / widths[1] == pytest.approx(ratio, abs=0.06) and widths[0] > widths[1]


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


def test_a_training_has_met_what_it_drew_as_far_as_the_stages_before_it_have(weights, geometry):
    every = RandGeometry(0.0, 0.0, 0.0, views=PAIRS)
    assert met_views(None, geometry) == met_views(RandGeometry(0.0, 0.0, 0.0), geometry) == [("PA", "LL")]
    assert met_views(every, geometry) == PAIRS
    assert met_views(every, geometry, str(weights)) == [("PA", "RL"), ("PA", "LL")]
    write_known_views(str(weights), [("AP", "LL")])
    assert met_views(every, geometry, str(weights)) == [("AP", "LL"), ("AP", "RL")]
    assert met_views(None, geometry, str(weights)) == [("AP", "LL")]


def test_a_network_receives_a_frontal_view_that_it_has_met_and_any_lateral_one(mixed, geometry):
    with pytest.warns(UserWarning, match="view is AP, expected PA"):
        received = as_known(mixed, [("PA", "LL")])
    assert [case.views for case in received.cases_apart()] == [("PA", "RL"), ("PA", "LL"), ("PA", "LL"), ("PA", "RL")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_known(mixed, [("PA", "LL"), ("AP", "LL")]) is mixed
        assert as_known(geometry, [("PA", "LL")]) is geometry
