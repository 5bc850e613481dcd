from __future__ import annotations

from math import isfinite, isnan, nan

import pytest
import torch

from phantoms import chest_imaging
from scripts.evaluation.false_structures import SIGMA_MM, false_structures, sharp_part
from scripts.evaluation.metrics import volume_metrics

VOXEL_MM = 2.8125
WHOLE = {"whole": torch.ones(1, 1, 32, 32, 32, dtype=torch.bool)}


def noise(number: int = 1, size: int = 32) -> torch.Tensor:
    """Independent HU, `(number, 1, size, size, size)`, with a standard deviation of 100."""
    return 100 * torch.randn(number, 1, size, size, size)


def figures(hu: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Correlation, energy and false energy over the whole volume."""
    return list(false_structures(hu, truth, VOXEL_MM, WHOLE).values())


def test_the_ground_truth_has_nothing_false():
    truth = noise()
    assert figures(truth, truth) == pytest.approx([1, 1, 0], abs=1e-9)


def test_less_contrast_and_other_smooth_hu_are_not_false():
    """A ramp, in which the Gaussian average is the ramp but at the borders, and a constant."""
    truth = noise()
    inner = torch.zeros_like(WHOLE["whole"])
    inner[..., 10:-10] = True
    ramp = 50 + torch.linspace(-400, 400, 32).expand(truth.shape)
    found = false_structures(0.4 * truth + ramp, truth, VOXEL_MM, {"inner": inner})
    assert list(found.values()) == pytest.approx([1, 0.16, 0], abs=1e-3)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_independent_noise_is_false_by_its_energy(share: float):
    truth, other = noise(2).split(1)
    correlation, energy, false = figures(truth + share**0.5 * other, truth)
    assert false == pytest.approx(share, rel=0.03)
    assert (correlation, energy) == pytest.approx(((1 + share) ** -0.5, 1 + share), rel=0.03)


def test_a_smooth_volume_has_no_energy_and_nothing_false():
    correlation, energy, false = figures(torch.full((1, 1, 32, 32, 32), 40.0), noise())
    assert isnan(correlation) and energy == false == 0


def test_what_is_sharp_the_other_way_round_is_all_false():
    truth = noise()
    assert figures(-truth, truth) == pytest.approx([-1, 1, 1], abs=1e-9)


def test_where_the_ground_truth_has_nothing_sharp_no_figure_is_finite():
    assert not any(map(isfinite, figures(noise(), torch.zeros(1, 1, 32, 32, 32))))


def test_a_wave_keeps_what_the_gaussian_takes_away_at_every_number_of_voxels():
    """The Gaussian damps a wave of length L by exp(-2 (π σ / L)²): of 30 mm it keeps 0.42 of the contrast."""
    expected = 1 - torch.exp(torch.tensor(-2 * (torch.pi * SIGMA_MM / 30) ** 2))
    for size in (60, 120):
        middles = (torch.arange(size) + 0.5) / size * 120
        wave = torch.sin(2 * torch.pi * middles / 30).expand(1, 1, 8, 8, size)
        inner = slice(size // 4, -size // 4)
        kept = sharp_part(100 * wave, 120 / size)[..., inner]
        torch.testing.assert_close(kept, 100 * expected * wave[..., inner], rtol=0, atol=0.5)


def test_parts_are_tissues_of_the_body():
    """A false voxel-sized structure in the lungs is false there alone; one beside the body is in no part."""
    imaging, size = chest_imaging(128), 64
    truth = torch.full((1, 1, size, size, size), -1000.0)
    truth[..., 8:56, 8:56, :] = 40.0
    truth[..., 16:48, 16:48, 8:56] = -800.0
    truth += 5 * torch.randn(truth.shape)

    def false(place: tuple[int, int, int]) -> dict[str, float]:
        hu = truth.clone()
        hu[(0, 0, *place)] = 900.0
        found = volume_metrics(imaging.scale(hu), imaging.scale(truth), imaging)
        return {part: found[f"false_energy_{part}"] for part in ("body", "air_and_lung", "soft", "bone")}

    in_lung, beside = false((32, 32, 32)), false((2, 2, 2))
    assert in_lung["air_and_lung"] > 1e-3 and in_lung["body"] > 1e-4 and in_lung["soft"] == pytest.approx(0, abs=1e-6)
    assert beside["body"] == pytest.approx(0, abs=1e-6)
    assert in_lung["bone"] == pytest.approx(nan, nan_ok=True)
