from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from phantoms import phantom
from scripts import RandDeformd, RandShapeBetween, Registration
from scripts.anatomy.shape_registration import displacement_mm

FOV, SIZE = 360.0, 32
LEVELS = [
    {"cells": 0, "size": 12, "steps": 30, "rate": 0.1},
    {"cells": 2, "size": 12, "steps": 30, "rate": 0.1, "stiffness": 0.002},
    {"cells": 4, "size": 24, "steps": 30, "rate": 0.1, "stiffness": 0.002},
]
STILL = {"degrees": 0.0, "shift_mm": 0.0, "scale": 0.0, "magnitude_mm": (0.0, 0.0), "spacing_mm": 60.0}
BENT = {**STILL, "degrees": 5.0, "shift_mm": 10.0, "scale": 0.1, "magnitude_mm": (10.0, 24.0)}


class Towards(RandShapeBetween):
    """That of chosen weights."""

    def __init__(self, *weights: float) -> None:
        super().__init__(1.0)
        self.weights = np.array(weights, np.float32)

    def randomize(self, data: int) -> None:
        pass


def deformed(record: dict, between: RandShapeBetween | None, seed: int = 0, keys: str = "ct", **arguments) -> dict:
    deform = RandDeformd(keys, FOV, **{**STILL, **arguments}, between=between)
    return deform.set_random_state(seed=seed)(record)


@pytest.fixture(scope="module")
def pair() -> dict[str, torch.Tensor]:
    """Two phantoms, and the displacement of the first to the second as it is kept and as it is."""
    first, second = (phantom(SIZE, shift)[None] for shift in (0.0, 0.1))
    registration = Registration(LEVELS)
    shape, _ = displacement_mm(registration, first[None], second[None], FOV, SIZE)
    full = registration(first[None], second[None])[0]
    return {"ct": first, "second": second, "shapes": shape[None], "warped": full.warp(first[None], SIZE)[0]}


def record_of(pair: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: pair[key] for key in ("ct", "shapes")}


def test_a_weight_of_zero_changes_nothing(pair):
    with_it, without = (deformed(record_of(pair), between, **BENT)["ct"] for between in (Towards(0.0), None))
    assert torch.equal(with_it, without)


def test_a_weight_of_one_is_the_registrations_warp(pair):
    found = deformed(record_of(pair), Towards(1.0))["ct"]
    torch.testing.assert_close(found, pair["warped"], rtol=0, atol=0.5)
    errors = [float((other - pair["second"]).abs().mean()) for other in (pair["ct"], found)]
    assert errors[1] < 0.5 * errors[0]


def test_half_way_lies_between_both(pair):
    """The spine, which the second phantom has elsewhere: its place half way is the mean of both."""
    half = deformed(record_of(pair), Towards(0.5))["ct"]

    def spine_mm(hu: torch.Tensor) -> float:
        bone = (hu[0] > 400).nonzero().float().mean(0)
        return float(bone[0]) * FOV / SIZE

    first, middle, last = (spine_mm(hu) for hu in (pair["ct"], half, pair["warped"]))
    assert abs(last - first) > 10 and middle == pytest.approx((first + last) / 2, abs=3)


def test_nothing_folds_on_the_way_to_others(pair):
    shapes = torch.stack([pair["shapes"][0], -0.5 * pair["shapes"][0].flip(1)])
    side = ((torch.arange(SIZE) + 0.5) / SIZE - 0.5) * FOV
    middles = torch.stack(torch.meshgrid(side, side, side, indexing="ij"))
    for weights in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (1.0, 0.0)):
        places = middles + Towards(*weights).displacement_mm(shapes)
        steps = [places.diff(dim=axis)[:, : SIZE - 1, : SIZE - 1, : SIZE - 1] for axis in (1, 2, 3)]
        assert torch.linalg.det(torch.stack(steps, -1).movedim(0, -2)).min() > 0


def test_both_are_one_reading_of_the_elastic_deformation_after_the_way_to_others(pair):
    """An image of the coordinates themselves shows where it is read: at A(x) + w u(A(x)), A the random deformation."""
    side = ((torch.arange(SIZE) + 0.5) / SIZE - 0.5) * FOV
    middles = torch.stack(torch.meshgrid(side, side, side, indexing="ij"))
    straight = deformed({"ct": middles}, None, **BENT)["ct"]
    both = deformed({"ct": middles, "shapes": pair["shapes"]}, Towards(0.7), **BENT)["ct"]
    shape = deformed({"ct": pair["shapes"][0]}, None, **BENT)["ct"]
    inner = (..., *[slice(8, -8)] * 3)
    torch.testing.assert_close(both[inner], (straight + 0.7 * shape)[inner], rtol=0, atol=0.05)


def test_what_is_drawn_follows_from_the_seed_and_leaves_the_random_deformation_as_it_was(pair):
    twice = [deformed(record_of(pair), RandShapeBetween(0.5), seed=3, **BENT)["ct"] for _ in range(2)]
    other = deformed(record_of(pair), RandShapeBetween(0.5), seed=4, **BENT)["ct"]
    assert torch.equal(*twice) and not torch.equal(twice[0], other)
    with_it, without = (RandDeformd("ct", FOV, **BENT, between=each) for each in (RandShapeBetween(0.5), None))
    for deform in (with_it, without):
        deform.set_random_state(seed=3)
        deform(record_of(pair))
    assert torch.equal(with_it.matrix, without.matrix) and torch.equal(with_it.lattice_mm, without.lattice_mm)
    alone = {"ct": pair["ct"]}
    assert torch.equal(deformed(alone, RandShapeBetween(0.5), **BENT)["ct"], deformed(alone, None, **BENT)["ct"])


def test_one_or_two_others_are_drawn_by_weights_that_are_convex():
    between, counts = RandShapeBetween(0.8).set_random_state(seed=0), []
    for _ in range(300):
        between.randomize(5)
        counts.append(int((between.weights > 0).sum()))
        assert between.weights.min() >= 0 and between.weights.max() <= 0.8 and between.weights.sum() <= 1 + 1e-6
    assert 100 < counts.count(1) < 200 and counts.count(1) + counts.count(2) == 300
    between.randomize(1)
    assert (between.weights > 0).sum() == 1


def test_all_volumes_of_a_record_are_warped_alike(pair):
    record = {**record_of(pair), "anatomy": torch.cat([pair["ct"], 2 * pair["ct"]])}
    found = deformed(record, RandShapeBetween(0.5), keys=("ct", "anatomy"), **BENT)
    torch.testing.assert_close(found["anatomy"], torch.cat([found["ct"], 2 * found["ct"]]), rtol=0, atol=1e-2)


def test_a_coarse_grid_of_displacements_is_read_at_finer_voxels(pair):
    finer = {"ct": interpolate(pair["ct"][None], scale_factor=2)[0], "shapes": pair["shapes"]}
    half = deformed(finer, Towards(0.5))["ct"]
    coarse = deformed(record_of(pair), Towards(0.5))["ct"]
    assert (torch.nn.functional.avg_pool3d(half, 2) - coarse).abs().mean() < 40


@pytest.mark.parametrize("most", [0.0, 1.1, -0.5])
def test_a_weight_that_is_no_way_between_is_refused(most: float):
    with pytest.raises(ValueError, match=f"most is {most}, expected above 0 and at most 1"):
        RandShapeBetween(most)
