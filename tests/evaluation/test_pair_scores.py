"""What survives another posture and breath, on a chest whose bending is known."""

from __future__ import annotations

import sys
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from chest_phantom import FOV_MM, chest
from scripts.evaluation.pair_scores import SURVIVE, Chest, chest_of, pair_scores
from scripts.io.image_writer import cube_affine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from posture import breathed, tilted  # noqa: E402

SMALL = 0.65625
"""Of the phantom's size, a child's, measured in a quarter of the time; its voxels are of 2.8125 mm."""
SIZE = 84
SHARE = -0.2


def volume(hu: np.ndarray | torch.Tensor, spacing_mm: float | None = None) -> MetaTensor:
    """A cube `(S, S, S)` with its affine, by default of the child's field of view."""
    fov_mm = SMALL * FOV_MM if spacing_mm is None else spacing_mm * len(hu)
    return MetaTensor(torch.as_tensor(hu)[None].float(), affine=cube_affine(len(hu), fov_mm))


@pytest.fixture(scope="module")
def hu() -> torch.Tensor:
    return torch.from_numpy(chest(SIZE))


@pytest.fixture(scope="module")
def truth(hu: torch.Tensor) -> Chest:
    return chest_of(volume(hu))


def squared_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).square().mean().item()


def test_a_volume_scores_as_itself_wherever_it_lies_in_a_larger_one(hu: torch.Tensor, truth: Chest):
    elsewhere = np.pad(hu.numpy(), ((0, 15), (5, 10), (15, 0)), constant_values=-1000.0)
    scores = pair_scores(chest_of(volume(elsewhere, SMALL * FOV_MM / SIZE)), truth)
    for key in SURVIVE:
        assert scores[f"{key}_error"] == pytest.approx(0, abs=0.01 * scores[f"{key}_ct"]), key
    assert min(score for name, score in scores.items() if name.startswith("dice")) > 0.98
    assert scores["affine_volume_ratio"] == pytest.approx(1, abs=0.01)


def test_a_breath_is_the_error_of_the_lungs_and_costs_more_voxels_than_a_blur(hu: torch.Tensor, truth: Chest):
    bent = breathed(hu[None], SHARE, SMALL * FOV_MM)[0]
    scores = pair_scores(chest_of(volume(bent)), truth)
    assert scores["lungs_l_error"] == pytest.approx(SHARE * scores["lungs_l_ct"], rel=0.1)
    assert abs(scores["thorax_width_mm_error"]) < 3 and scores["thorax_height_mm_error"] < -15
    assert min(scores["dice_lungs_affine"], scores["dice_lungs_smooth"]) > 0.9
    blurred = torch.from_numpy(ndimage.gaussian_filter(hu.numpy(), 6.0 / (SMALL * FOV_MM / SIZE)))
    assert squared_error(bent, hu) > 1.3 * squared_error(blurred, hu)


def test_a_tilt_leaves_sizes_and_is_taken_out_by_the_affine_map(hu: torch.Tensor, truth: Chest):
    bent = tilted(hu[None], 6.0)[0]
    scores = pair_scores(chest_of(volume(bent)), truth)
    assert abs(scores["lungs_l_error"]) < 0.04 * scores["lungs_l_ct"]
    assert scores["dice_lungs_affine"] > 0.9 and scores["affine_volume_ratio"] == pytest.approx(1, abs=0.08)


def test_what_a_short_ct_does_not_show_is_not_counted(hu: torch.Tensor, truth: Chest):
    """Of a CT that ends below the lungs, the body of a whole prediction goes on beyond it."""
    short = volume(hu)[..., 24:]
    scores = pair_scores(truth, chest_of(short))
    assert scores["dice_body_affine"] > 0.97 and scores["affine_volume_ratio"] == pytest.approx(1, abs=0.05)


def test_without_lungs_there_is_no_overlap_and_no_error(truth: Chest):
    nothing = truth._replace(values=dict.fromkeys(SURVIVE, float("nan")), lungs=np.zeros_like(truth.lungs))
    scores = pair_scores(nothing, truth)
    assert isnan(scores["lungs_l_error"]) and scores["dice_lungs_affine"] == scores["dice_lungs_smooth"] == 0
