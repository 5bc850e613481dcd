from __future__ import annotations

import torch

from phantoms import chest_imaging, phantom
from scripts import Registration
from scripts.anatomy.neighbours import Neighbours
from scripts.anatomy.registration import Deformation

SIZE = 24
IMAGING = chest_imaging(2 * SIZE)
REGISTRATION = Registration(
    [
        {"cells": 0, "size": 12, "steps": 30, "rate": 0.1},
        {"cells": 3, "size": 24, "steps": 20, "rate": 0.1, "stiffness": 0.004},
    ]
)


def chest(*shifts: float) -> torch.Tensor:
    return torch.stack([phantom(SIZE, shift)[None] for shift in shifts])


def neighbours() -> Neighbours:
    return Neighbours(chest(-0.1, 0.15), REGISTRATION, IMAGING)


def test_neighbours_come_to_look_like_the_patient():
    patient, others = IMAGING.scale(chest(0.05)), neighbours()
    before = (IMAGING.scale(others.cts) - patient).square().mean((1, 2, 3, 4))
    after = (others.warped(others.register(patient), SIZE) - patient).square().mean((1, 2, 3, 4))
    assert (after < before / 3).all()


def test_neighbours_that_are_read_where_they_are_are_the_scaled_cts():
    others = neighbours()
    warped = others.warped(Deformation.identity(others.cts), SIZE)
    torch.testing.assert_close(warped, IMAGING.scale(others.cts), rtol=0, atol=1e-5)


def test_the_joined_volume_agrees_better_with_the_xrays_than_either_of_which_it_is_made():
    patient = chest(0.05)
    xrays, others = IMAGING.project(patient), neighbours()
    mean = IMAGING.scale(others.cts).mean(0, keepdim=True)
    reconstruction = IMAGING.scale(chest(0.0))

    def error(volume: torch.Tensor) -> float:
        return (IMAGING.project(IMAGING.to_hu(volume)) - xrays).abs().mean().item()

    joined = others.joined(mean, reconstruction, xrays)
    assert error(joined) < 0.5 * min(error(mean), error(reconstruction))


def test_what_agrees_with_the_xrays_is_left_as_it_is():
    patient = IMAGING.scale(chest(0.05))
    joined = neighbours().joined(patient, patient, IMAGING.project(IMAGING.to_hu(patient)))
    torch.testing.assert_close(joined, patient, rtol=0, atol=1e-4)
