from __future__ import annotations

import pytest
import torch

from phantoms import phantom
from scripts.anatomy.registration import Registration, windowed
from scripts.anatomy.shape_model import MAX_DEVIATIONS, ShapeModel
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


@pytest.fixture(scope="module")
def bodies() -> torch.Tensor:
    return torch.cat([chest(shift) for shift in (-0.12, 0.1, 0.2)])


@pytest.fixture(scope="module")
def model(bodies: torch.Tensor) -> ShapeModel:
    return ShapeModel.of(chest(0.0), bodies, REGISTRATION, GRID)


def test_all_components_together_give_back_every_body(model: ShapeModel, bodies: torch.Tensor):
    """Four bodies span three components: each registration is a point of the model."""
    region = Region.whole(GRID)
    for body in bodies:
        places = REGISTRATION(model.reference, body[None])[0].places(region)[0]
        coefficients = torch.einsum("kaxyz,axyz->k", model.components, places - model.mean) / model.deviations
        torch.testing.assert_close(model.places(coefficients[None], GRID)[0], places, rtol=0, atol=1e-4)


def test_the_components_are_orthogonal_and_the_coefficients_of_the_bodies_have_unit_variance(model: ShapeModel):
    flat = model.components.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(3), rtol=0, atol=1e-4)
    assert (model.deviations.diff() <= 0).all() and (model.deviations > 0).all()


def test_a_body_of_the_model_is_found(model: ShapeModel):
    """To a tenth of a standard deviation along the one component that most of the bodies' differences lie along."""
    body, mean = (model.warp(torch.tensor([[coefficient, 0.0, 0.0]]), SIZE) for coefficient in (1.2, 0.0))
    found, difference = model.fit(body)
    assert abs(found[0, 0] - 1.2) < 0.1
    assert difference < (windowed(body) - windowed(mean)).square().mean() / 5


def test_a_body_beyond_all_others_stays_within_the_bound(model: ShapeModel):
    found, _ = model.fit(model.warp(torch.tensor([[8.0, 0.0, 0.0]]), SIZE))
    assert 2.0 < found[0, 0] <= MAX_DEVIATIONS


def test_samples_vary_as_the_bodies_do(model: ShapeModel):
    samples = model.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.std(0), torch.ones(3), rtol=0, atol=0.05)
    assert samples.abs().max() <= MAX_DEVIATIONS
    assert torch.equal(samples, model.sample(4000, torch.Generator().manual_seed(0)))
