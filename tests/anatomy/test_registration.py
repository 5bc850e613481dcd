from __future__ import annotations

from typing import Any

import pytest
import torch

from phantoms import chest_imaging, phantom
from scripts.anatomy.registration import (
    LARGEST_SHIFT,
    Deformation,
    Registration,
    at_places,
    on_grid,
    read_at,
    spline_weights,
    windowed,
)
from scripts.projection.region import Region

SIZE, FOV = 24, 360.0
LEVELS = [
    {"cells": 0, "size": 12, "steps": 40, "rate": 0.1},
    {"cells": 2, "size": 12, "steps": 30, "rate": 0.1, "stiffness": 0.002},
    {"cells": 4, "size": 24, "steps": 30, "rate": 0.1, "stiffness": 0.002},
]
WHOLE = Region.whole(SIZE)
AFFINE = torch.eye(3, 4, dtype=torch.float64)[None]


def chest(*shifts: float) -> torch.Tensor:
    """Phantoms in HU, `(N, 1, SIZE, SIZE, SIZE)`; in float64, so that rounding is not what moves a control point."""
    return torch.stack([phantom(SIZE, shift)[None] for shift in shifts]).double()


def middles(size: int = SIZE) -> torch.Tensor:
    side = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"))[None]


def random_lattices(*cells: int, seed: int = 0, share: float = 1.0) -> list[torch.Tensor]:
    """Control points at the bound of their levels, each to either side."""
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randint(2, (1, 3, *[each + 3] * 3), generator=generator).double() * 2 - 1 for each in cells]
    return [share * LARGEST_SHIFT * 2 / each * side for each, side in zip(cells, sides)]


def root_mean_square_mm(difference: torch.Tensor) -> float:
    return (difference * FOV / 2).square().sum(1).mean().sqrt().item()


def test_the_splines_weights_sum_to_one_and_keep_a_straight_line():
    places = torch.linspace(-1, 1, 37, dtype=torch.float64)
    weights, points = spline_weights(places, 7), (torch.arange(7, dtype=torch.float64) - 1) / 2 - 1
    torch.testing.assert_close(weights.sum(1), torch.ones(37, dtype=torch.float64))
    torch.testing.assert_close(weights @ points, places)


def test_the_displacement_at_any_place_is_that_of_the_grid():
    (lattice,) = random_lattices(4)
    places = middles(40)
    side = places[0, 0, :, 0, 0]
    error = at_places(lattice, places) - on_grid(lattice, [side] * 3)
    assert error.abs().max() < 0.15 * lattice.abs().max()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_folds_at_the_bound_of_every_level(seed: int):
    """Every control point of three levels at its bound, to either side at random."""
    deformation = Deformation(AFFINE, random_lattices(2, 4, 8, seed=seed))
    found = deformation.determinants(64)
    assert found.min() > 0 and found.max() > 1.5


@pytest.mark.parametrize(("factors", "determinant"), [((0.5, 1.0, 1.0), 0.5), ((-1.0, 1.0, 1.0), -1.0)])
def test_the_determinant_is_that_of_the_map(factors: tuple[float, ...], determinant: float):
    """A mirror image folds."""
    affine = torch.cat([torch.diag(torch.tensor(factors)), torch.zeros(3, 1)], dim=1)
    found = Deformation(affine[None], []).determinants(64)
    assert found.min().item() == pytest.approx(determinant, abs=1e-4)


def test_twice_the_bound_would_fold():
    assert Deformation(AFFINE, random_lattices(8, share=2.0)).determinants(64).min() < 0


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_a_volume_registered_to_itself_stays_where_it_is(precision: torch.dtype):
    volume = chest(0.0).to(precision)
    deformation, difference = Registration(LEVELS)(volume, volume)
    assert root_mean_square_mm(deformation.places(WHOLE) - middles()) < 0.1
    assert difference.item() < 1e-6


def test_a_known_deformation_is_found_where_there_is_something_to_see():
    """Half a lung's width; the places at which the borders of body and lungs are read come back to a third of it."""
    moving = chest(0.0)
    known = Deformation(
        torch.tensor([[[1.05, 0, 0, 0.08], [0, 0.95, 0, -0.06], [0, 0, 1, 0]]], dtype=torch.float64),
        random_lattices(2, share=0.3),
    )
    fixed = known.warp(moving, SIZE)
    found, difference = Registration(LEVELS)(moving, fixed)
    x, y, _ = torch.gradient(fixed[0, 0])
    border = (x.square() + y.square()).sqrt() > 200
    places = [each.places(WHOLE)[:, :2, border] for each in (known, found)]
    was = root_mean_square_mm(places[0] - middles()[:, :2, border])
    assert was > 15 and root_mean_square_mm(places[0] - places[1]) < was / 3
    before = (windowed(moving) - windowed(fixed)).square().mean()
    assert difference.item() < before / 10


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_mirror_images_are_registered_by_the_mirror_image_of_the_deformation(axis: int):
    moving, fixed = chest(0.0), chest(0.15)
    deformation, _ = Registration(LEVELS)(moving, fixed)
    mirrored, _ = Registration(LEVELS)(moving.flip(axis), fixed.flip(axis))
    expected = deformation.places(WHOLE).flip(axis)
    expected[:, axis - 2] *= -1
    torch.testing.assert_close(mirrored.places(WHOLE), expected, rtol=0, atol=1e-5)


def test_each_of_many_is_registered_as_if_it_were_alone():
    """Over a few steps, before the order of sums makes a difference."""
    moving, fixed = chest(0.0, 0.2, -0.1), chest(0.1)
    register = Registration([{**level, "steps": 4} for level in LEVELS])
    together, differences = register(moving, fixed)
    for number in range(3):
        alone, difference = register(moving[number : number + 1], fixed)
        torch.testing.assert_close(together.select([number]).places(WHOLE), alone.places(WHOLE), rtol=0, atol=1e-9)
        torch.testing.assert_close(differences[number], difference[0])


def test_a_region_is_that_part_of_the_whole():
    deformation = Deformation(AFFINE, random_lattices(2, 5))
    region = Region(SIZE, (2, 0, 5), (9, 24, 6))
    volume = chest(0.0)
    torch.testing.assert_close(deformation.warp(volume, SIZE, region), region.of(deformation.warp(volume, SIZE)))


def test_a_warped_volume_has_gradients_in_the_volume_and_in_the_control_points():
    lattice = (0.5 * random_lattices(2)[0]).requires_grad_()
    volume = torch.rand(1, 1, 6, 6, 6, dtype=torch.float64, requires_grad=True)

    def warped(volume: torch.Tensor, lattice: torch.Tensor) -> torch.Tensor:
        return Deformation(AFFINE, [lattice]).warp(volume, 5)

    assert torch.autograd.gradcheck(warped, (volume, lattice), eps=1e-7, atol=1e-4, fast_mode=True)


def test_beyond_its_faces_a_volume_continues():
    volume = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4)
    outside = torch.tensor([-3.0, 3.0]).view(1, 1, 2, 1, 1) * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    assert read_at(volume, outside).flatten().tolist() == [0.0, 3.0]


def test_the_refinement_brings_the_projections_closer_to_the_xrays():
    imaging, moving, fixed = chest_imaging(2 * SIZE), chest(0.0), chest(0.12)
    xrays = imaging.project(fixed)
    last: dict[str, Any] = {"cells": 4, "size": 24, "steps": 30, "rate": 0.1, "stiffness": 0.002}

    def error(**reprojection: float) -> float:
        levels = [*LEVELS[:2], {**last, **reprojection}]
        deformation, _ = Registration(levels)(moving, fixed, xrays, imaging)
        return (imaging.project(deformation.warp(moving, SIZE)) - xrays).square().mean().item()

    assert error(reprojection=5.0) < 0.9 * error()


def test_a_refinement_without_xrays_is_refused():
    with pytest.raises(ValueError, match="expected X-rays and an imaging model"):
        Registration([{**LEVELS[0], "reprojection": 1.0}])(chest(0.0), chest(0.1))
