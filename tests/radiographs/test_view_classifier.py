"""What an image shows and how it lies: the classifier's symmetries, its file, and the shipped coefficients."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scripts import (
    BiplanarGeometry,
    CheckpointError,
    InputError,
    Radiograph,
    ViewProbabilities,
    classify,
    hu_to_attenuation,
    project,
)
from scripts.evaluation.view_accuracy import rates
from scripts.radiographs.other_images import rand_others
from scripts.radiographs.presentation import rand_shown
from scripts.radiographs.view_classifier import (
    SIDE,
    UNRECOGNISED,
    VIEW_CLASSIFIER,
    ViewClassifier,
    ViewNetwork,
    read_view_classifier,
    standardised,
    write_view_classifier,
)
from scripts.training.view_classifier_training import ProjectedPatients, train_view_network, view_batch

EVERYWHERE = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)


@pytest.fixture(scope="module")
def projections(chest_hu: Tensor) -> Tensor:
    """
    Frontal and lateral, `(2, 128, 128)`, of a chest of which the shipped coefficients have met deformations, among
    others.
    """
    return project(hu_to_attenuation(chest_hu[None]), BiplanarGeometry(detector_pixels=128))[0]


def posed(image: np.ndarray, inverted: int, mirrored: int, turns: int) -> np.ndarray:
    image = image.max() - image if inverted else image
    return np.rot90(np.fliplr(image) if mirrored else image, turns).copy()


def test_another_pose_of_an_image_has_the_same_probability_at_another_place():
    """For any coefficients: no pose is at an advantage."""
    torch.manual_seed(1)
    classifier, image = ViewClassifier(ViewNetwork()), torch.randn(1, 2, SIDE, SIDE)
    (seen,) = classifier.probabilities(image)
    (other,) = classifier.probabilities(-image.flip(-1).rot90(1, (-2, -1)))
    assert other.recognised == pytest.approx(seen.recognised, abs=1e-6)
    # A mirror image that is rotated by k + 1 becomes, once more mirrored, one that is rotated by -k.
    for turns in range(4):
        moved = seen.joint[:, ::-1, ::-1, (-turns) % 4]
        np.testing.assert_allclose(other.joint[..., (turns + 1) % 4], moved, atol=1e-6)


def test_an_increasing_curve_changes_nothing_and_inversion_only_the_sign():
    image = torch.rand(1, 1, SIDE, SIDE)
    plain = standardised(image, EVERYWHERE)
    torch.testing.assert_close(standardised((2 * image).exp(), EVERYWHERE), plain)
    torch.testing.assert_close(standardised(1 - image, EVERYWHERE), -plain, atol=1e-5, rtol=1e-5)
    assert plain[:, 0].min() == pytest.approx(-1, abs=2 / SIDE**2) and plain[:, 0].max() == pytest.approx(
        1, abs=2 / SIDE**2
    )


def test_what_is_not_exposed_does_not_count():
    image, exposed = np.random.default_rng(0).random((64, 80)), np.ones((64, 80), bool)
    exposed[:, :16] = False
    other = np.where(exposed, image, 1e6)
    np.testing.assert_array_equal(classify(image, exposed).joint, classify(other, exposed).joint)
    radiograph = Radiograph("a.png", other.astype(np.float32), exposed, "presentation")
    np.testing.assert_allclose(classify(radiograph).joint, classify(image, exposed).joint, atol=1e-5)


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("mirrored", [0, 1])
@pytest.mark.parametrize("turns", range(4))
def test_the_shipped_coefficients_tell_every_pose_of_a_projection(
    projections: Tensor, inverted: int, mirrored: int, turns: int
):
    for plane, projection in zip(("frontal", "lateral"), projections.numpy()):
        seen = classify(posed(projection, inverted, mirrored, turns))
        assert seen.recognised > 0.9 and seen.plane[plane] > 0.9
        assert seen.rotation[90 * turns] > 0.9
        assert (seen.inverted > 0.9) if inverted else (seen.inverted < 0.1)
        if plane == "lateral":
            assert seen.facing["right" if mirrored else "left"] > 0.9
        else:
            assert (seen.mirrored > 0.5) == bool(mirrored)


def test_noise_a_ramp_and_a_bundle_of_cylinders_are_not_recognised():
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    fingers = sum(
        np.sqrt(np.clip(0.006 - (x - place) ** 2, 0, None)) * (y < 0.4) for place in np.linspace(-0.7, 0.7, 5)
    )
    for image in (np.random.default_rng(0).normal(size=(128, 128)), x + y, fingers):
        assert classify(image).certainty < UNRECOGNISED


@pytest.mark.parametrize("image", [np.ones((32, 32)), np.full((32, 32), np.nan), np.ones((3, 32, 32))])
def test_an_image_without_contrast_not_finite_or_in_colour_is_refused(image: np.ndarray):
    with pytest.raises(InputError, match="image: "):
        classify(image)


def test_answers_are_conditional_and_an_open_one_is_called_open():
    joint = np.zeros((2, 2, 2, 4))
    joint[0, 0, 0, 0] = 0.04
    joint[1, 0, 0, 0], joint[1, 0, 1, 0] = 0.96 * 0.55, 0.96 * 0.45
    seen = ViewProbabilities(0.99, joint)
    assert seen.plane["lateral"] == pytest.approx(0.96) and seen.mirrored == 0
    assert seen.facing == pytest.approx({"left": 0.55, "right": 0.45})
    assert "facing is open: anterior on the left 0.55" in str(seen) and "plane is lateral 0.96" in str(seen)


def test_a_file_holds_the_network_and_is_refused_where_it_does_not(tmp_path: Path):
    network, path = ViewNetwork(), tmp_path / "views.json"
    write_view_classifier(str(path), network, {"records": []})
    image = torch.randn(3, 2, SIDE, SIDE)
    expected = ViewClassifier(network).probabilities(image)
    for read, own in zip(read_view_classifier(str(path)).probabilities(image), expected):
        np.testing.assert_allclose(read.joint, own.joint, atol=1e-4)
    content = json.loads(path.read_text())
    spoilt = {
        "input.side": {"input": {"side": 64, "local": 9}},
        "network.layers_0_bias": {"network": {**content["network"], "layers_0_bias": [0.0]}},
        "network.layers_2_bias": {"network": {**content["network"], "layers_2_bias": [float("nan")] * 16}},
        "network": {"network": "import os"},
    }
    for number, (field, change) in enumerate(spoilt.items()):
        other = tmp_path / f"{number}.json"
        other.write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=f"{other.name}.*'{field}.*views.json"):
            read_view_classifier(str(other))
    with pytest.raises(CheckpointError, match="no such file.*views.json"):
        read_view_classifier(str(tmp_path / "none.json"))


def test_the_shipped_file_is_small_and_names_the_cts_that_it_derives_from():
    names = [record["name"] for record in json.loads(VIEW_CLASSIFIER.read_text())["records"]]
    split = json.loads((VIEW_CLASSIFIER.parents[1] / "configs" / "split.json").read_text())
    assert VIEW_CLASSIFIER.stat().st_size < 300_000
    assert names == [record["ct"].partition(".")[0] for record in split["training"]]


def test_a_shown_projection_keeps_its_pose(projections: Tensor):
    """However it is shown, the frontal projection correlates with itself more than with its image upside down."""
    shown = rand_shown(projections[:1, None].expand(64, -1, -1, -1))
    assert shown.shape == (64, 1, 64, 64) and shown.min() >= 0 and shown.max() <= 1
    images = standardised(shown, torch.ones_like(shown, dtype=torch.bool))[:, 0]
    own = standardised(projections[:1, None], torch.ones(1, 1, 128, 128, dtype=torch.bool))[0, 0]
    nearer = (images * (own - own.flip(0))).sum((1, 2)) > 0
    assert nearer.float().mean() > 0.9


def test_other_images_are_drawn_anew_and_have_contrast(chest_hu: Tensor):
    images = rand_others(20, chest_hu)
    assert images.shape == (20, 1, 64, 64) and images.amin() == 0 and images.amax() == 1
    assert not torch.equal(images, rand_others(20, chest_hu))


def test_a_short_training_does_better_than_chance(chest_hu: Tensor, projections: Tensor):
    patients = ProjectedPatients({"one": projections[None]}, {"one": chest_hu[0]}, {"one": {"name": "ct"}})
    network = train_view_network(patients, steps=25, batch_size=12)
    images, classes = view_batch(patients, 60)
    with torch.no_grad():
        assert cross_entropy(network(images), classes) < log(33) - 0.5


def test_rates_count_what_is_right_and_what_is_surely_wrong():
    def frontal(probability: float) -> ViewProbabilities:
        joint = np.zeros((2, 2, 2, 4))
        joint[0, 0, 0, 0], joint[1, 0, 0, 0] = probability, 1 - probability
        return ViewProbabilities(1.0, joint)

    found = rates([("frontal", frontal(p)) for p in (0.95, 0.6, 0.4, 0.05)])
    assert found["plane"] == {"images": 4, "right": 0.5, "surely_wrong": 0.25}
    assert found["rotation"]["right"] == 1 and "facing" not in found
