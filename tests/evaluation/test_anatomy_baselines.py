from __future__ import annotations

import pytest
import torch

from phantoms import chest_imaging, phantom
from scripts import AnatomyBaselines, Registration
from scripts.anatomy.atlas import Atlas
from scripts.anatomy.neighbours import Neighbours

SIZE = 24
IMAGING = chest_imaging(4 * SIZE)
REGISTRATION = Registration([{"cells": 0, "size": 12, "steps": 6, "rate": 0.1}])
CTS = torch.stack([phantom(SIZE, shift)[None] for shift in (-0.1, 0.15, 0.2)])
PATIENT = phantom(SIZE, 0.05)[None, None]
XRAYS = IMAGING.project(PATIENT)
STAGES = [IMAGING.scale(phantom(size, 0.03)[None, None]) for size in (SIZE // 2, SIZE, 2 * SIZE)]


def baselines(*patients: str, cts: torch.Tensor = CTS) -> AnatomyBaselines:
    """Of an atlas that has a CT of each of these patients."""
    atlas = Atlas(cts[: len(patients)], [{"patient": patient} for patient in patients], 360.0)
    return AnatomyBaselines(atlas, REGISTRATION, IMAGING)


def of_case(found: AnatomyBaselines, patient: str = "x", stages: int = 3) -> dict[str, torch.Tensor]:
    return found.of_case(STAGES[:stages], XRAYS, IMAGING.geometry, patient)


@pytest.fixture(scope="module")
def rows() -> dict[str, torch.Tensor]:
    return of_case(baselines("a", "b"))


def test_the_rows_are_of_stage_2s_size_and_of_both_stages_before_it(rows: dict[str, torch.Tensor]):
    joined = ["joined with stage 1", "joined with stage 2", "joined with stage 2, second turn"]
    assert list(rows) == ["mean of the neighbours", *joined, "shape model"]
    assert all(volume.shape == (1, 1, SIZE, SIZE, SIZE) for volume in rows.values())


def test_the_mean_is_that_of_the_neighbours_of_stage_1_and_is_joined_with_each_stage(rows: dict[str, torch.Tensor]):
    neighbours = Neighbours(CTS[:2], REGISTRATION, IMAGING)
    mean = neighbours(STAGES[0])[:, :1]
    assert torch.equal(rows["mean of the neighbours"], mean)
    for stage in (1, 2):
        assert torch.equal(rows[f"joined with stage {stage}"], neighbours.joined(mean, STAGES[stage - 1], XRAYS))
    again = neighbours(rows["joined with stage 2"])[:, :1]
    assert torch.equal(rows["joined with stage 2, second turn"], neighbours.joined(again, STAGES[1], XRAYS))


def test_the_patients_own_ct_is_not_used(rows: dict[str, torch.Tensor]):
    cts = torch.cat([CTS[:2], PATIENT])
    found = of_case(baselines("a", "b", "x", cts=cts))
    assert all(torch.equal(found[name], volume) for name, volume in rows.items())
    others = of_case(baselines("a", "b", "y", cts=cts))
    assert not any(torch.equal(others[name], volume) for name, volume in rows.items())


def test_each_left_out_patient_has_a_shape_model_of_the_others():
    found = baselines("a", "b", "c")
    first, second = of_case(found, "a"), of_case(found, "c")
    assert torch.equal(second["shape model"], of_case(baselines("a", "b"))["shape model"])
    assert not torch.equal(first["shape model"], second["shape model"])


@pytest.mark.parametrize("found", [AnatomyBaselines(None, REGISTRATION, IMAGING), baselines("x")])
def test_without_an_atlas_of_others_there_are_no_rows(found: AnatomyBaselines):
    assert of_case(found) == {}


def test_of_stage_1_alone_the_second_turn_is_its_own_and_one_neighbour_is_enough():
    rows = of_case(baselines("a"), stages=1)
    joined = ["joined with stage 1", "joined with stage 1, second turn"]
    assert list(rows) == ["mean of the neighbours", *joined, "shape model"]


def test_an_atlas_of_another_size_is_resampled(rows: dict[str, torch.Tensor]):
    finer = torch.nn.functional.interpolate(CTS[:2], scale_factor=2, mode="nearest")
    found = of_case(baselines("a", "b", cts=finer))
    torch.testing.assert_close(found["mean of the neighbours"], rows["mean of the neighbours"])
