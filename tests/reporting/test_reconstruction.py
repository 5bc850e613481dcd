from __future__ import annotations

import warnings

import pytest
import torch
from monai.data import MetaTensor

from phantoms import phantom
from scripts import WarnOfCutBodyd
from scripts.io.image_writer import cube_affine


def reconstructed(hu: torch.Tensor) -> dict[str, MetaTensor]:
    return {"pred": MetaTensor(hu[None], affine=cube_affine(len(hu), 360.0))}


@pytest.mark.parametrize(("axis", "faces"), [(0, ("left", "right")), (1, ("posterior", "anterior"))])
@pytest.mark.parametrize("side", [0, 1])
def test_a_body_that_reaches_a_face_is_told_with_the_face(axis: int, faces: tuple[str, str], side: int):
    hu = phantom(24, 0.0).roll((-6, 6)[side], axis)
    hu.select(axis, 23 - 23 * side).fill_(-1000)
    with pytest.warns(UserWarning, match=f"volume of 360 mm, .* reaches the volume's {faces[side]} face"):
        WarnOfCutBodyd(0.02)(reconstructed(hu))


def test_a_body_within_the_volume_is_none_and_its_neck_and_abdomen_may_be_cut():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WarnOfCutBodyd(0.02)(reconstructed(phantom(24, 0.0)))
        WarnOfCutBodyd(0.02)(reconstructed(torch.full((8, 8, 8), -1000.0)))
