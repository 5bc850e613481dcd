from __future__ import annotations

import pytest
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


def evidence_of(patient: torch.Tensor, nearest: int | None = None) -> torch.Tensor:
    return Neighbours(chest(-0.1, 0.15, 0.4), REGISTRATION, IMAGING, nearest)(patient)


def test_the_evidence_is_mean_and_spread_of_the_warped_neighbours():
    patient, others = IMAGING.scale(chest(0.05)), neighbours()
    warped = others.warped(others.register(patient), SIZE)
    found = others(patient)
    torch.testing.assert_close(found[:, :1], warped.mean(0, keepdim=True))
    torch.testing.assert_close(found[:, 1:], (warped[0] - warped[1]).abs()[None] / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_evidence_is_the_same_bits_without_gradients_and_under_autocast(mode):
    patient, others = IMAGING.scale(chest(0.05)), neighbours()
    with mode(), torch.autocast("cpu", torch.bfloat16):
        without = others(patient.clone())
    assert torch.equal(without, others(patient)) and without.dtype == torch.float32 and not without.requires_grad


def test_the_nearest_are_those_that_look_like_the_patient():
    """Two coarse levels, which this registration has alone, decide; the third phantom lies far off."""
    patient = IMAGING.scale(chest(0.05))
    nearest = evidence_of(patient, nearest=2)
    torch.testing.assert_close(nearest, neighbours()(patient), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(nearest, evidence_of(patient))


def test_a_batch_is_its_patients_one_by_one():
    patients = IMAGING.scale(chest(0.05, -0.05))
    together = neighbours()(patients)
    assert all(torch.equal(together[n : n + 1], neighbours()(patients[n : n + 1])) for n in (0, 1))


def test_a_patient_is_no_neighbour_of_their_own():
    others = Neighbours(chest(-0.1, 0.15, 0.0), REGISTRATION, IMAGING, patients=["a", "b", "a"])
    left = others.without(["a", "of another collection"])
    assert left.patients == ["b"] and torch.equal(left.cts, others.cts[1:2])
    assert others.without(["c"]) is others and others.without(["a", "b"]) is None
