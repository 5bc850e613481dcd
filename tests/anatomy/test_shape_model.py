from __future__ import annotations

import pytest
import torch

from phantoms import phantom
from scripts.anatomy.registration import Registration, affine_of, centres_of, grid_of, mapped, read_at, windowed
from scripts.anatomy.shape_model import MAX_DEVIATIONS, ShapeModel, _brought_back, without_pose
from scripts.projection.region import Region

SIZE, GRID = 24, 12
REGISTRATION = Registration(
    [
        {"cells": 0, "size": 12, "steps": 30, "rate": 0.1},
        {"cells": 3, "size": 12, "steps": 20, "rate": 0.1, "stiffness": 0.01},
    ]
)


def chest(shift: float) -> torch.Tensor:
    return phantom(SIZE, shift)[None, None]


def grid(size: int) -> torch.Tensor:
    return grid_of(centres_of(Region.whole(size), torch.zeros(1)))


@pytest.fixture(scope="module")
def bodies() -> torch.Tensor:
    return torch.cat([chest(shift) for shift in (-0.12, 0.1, 0.2)])


@pytest.fixture(scope="module")
def model(bodies: torch.Tensor) -> ShapeModel:
    return ShapeModel.of(chest(0.0), bodies, REGISTRATION, GRID)


def test_all_components_together_give_back_every_body(model: ShapeModel, bodies: torch.Tensor):
    """Four bodies span three components: the shape of each registration is a point of the model, and posed it is it."""
    inner = slice(2, -2)
    for body in bodies:
        places = REGISTRATION(chest(0.0), body[None])[0].places(Region.whole(GRID))[0]
        shape, pose = without_pose(places)
        coefficients = torch.einsum("kaxyz,axyz->k", model.components, shape - model.mean) / model.deviations
        torch.testing.assert_close(model.places(coefficients[None], GRID)[0], shape, rtol=0, atol=1e-4)
        posed = model.places(coefficients[None], GRID, pose[None])[0]
        difference = (posed - places)[:, inner, inner, inner].abs().max()
        assert difference < 0.2 * (places - grid(GRID)).abs().max()


def test_an_affine_map_is_all_pose():
    pose = affine_of(torch.randn(1, 3, 4) / 5)
    shape, found = without_pose(mapped(pose, grid(GRID)[None])[0])
    torch.testing.assert_close(found, pose[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(shape, grid(GRID), rtol=0, atol=1e-5)


def test_the_appearance_of_copies_is_the_copy():
    copies = ShapeModel.of(chest(0.0), chest(0.0).expand(2, -1, -1, -1, -1), REGISTRATION, GRID)
    torch.testing.assert_close(copies.appearance, chest(0.0), rtol=0, atol=1.0)


def test_the_appearance_is_sharper_than_the_mean_and_within_the_values_of_the_bodies(model: ShapeModel, bodies):
    """The phantoms differ by their place alone: brought together they are one."""
    apart = (torch.cat([chest(0.0), bodies]).mean(0) - chest(0.0)).square().mean()
    assert (model.appearance - chest(0.0)).square().mean() < apart / 2
    assert -1000 - 0.01 <= model.appearance.min() and model.appearance.max() <= 700.01


def test_bringing_back_is_the_adjoint_of_reading():
    ct, volume = torch.randn(2, 1, 1, 8, 8, 8).unbind(0)
    places = 0.9 * grid(8)[None] + 0.02 * torch.randn(1, 3, 8, 8, 8)
    values, weights = _brought_back(ct, places)
    assert (values * volume).sum() == pytest.approx((ct * read_at(volume, places)).sum().item(), abs=1e-3)
    assert weights.sum() == pytest.approx(8**3, rel=1e-5)


def test_the_components_are_orthogonal_and_the_coefficients_of_the_bodies_have_unit_variance(model: ShapeModel):
    flat = model.components.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(3), rtol=0, atol=1e-4)
    assert (model.deviations.diff() <= 0).all() and (model.deviations > 0).all()


def test_a_body_of_the_model_in_another_pose_is_found(model: ShapeModel):
    pose = affine_of(torch.tensor([[[0.1, 0.0, 0.1, 0.1], [0.0, -0.2, 0.0, -0.1], [0.0, 0.0, 0.1, 0.05]]]))
    body = model.warp(torch.tensor([[1.2, 0.0, 0.0]]), SIZE, pose)
    coefficients, found, difference = model.fit(body)
    assert difference < (windowed(body) - windowed(model.appearance)).square().mean() / 20
    within = (grid(GRID).abs() < 0.6).all(0)
    expected = model.places(torch.tensor([[1.2, 0.0, 0.0]]), GRID, pose)
    places = model.places(coefficients, GRID, found)
    assert (places - expected)[0][:, within].abs().mean() < 0.03


def test_a_body_beyond_all_others_stays_within_the_bound(model: ShapeModel):
    found, _, _ = model.fit(model.warp(torch.tensor([[9.0, -9.0, 9.0]]), SIZE))
    assert found.abs().max() <= MAX_DEVIATIONS


def test_samples_vary_as_the_bodies_do(model: ShapeModel):
    samples = model.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.std(0), torch.ones(3), rtol=0, atol=0.05)
    assert samples.abs().max() <= MAX_DEVIATIONS
    assert torch.equal(samples, model.sample(4000, torch.Generator().manual_seed(0)))
