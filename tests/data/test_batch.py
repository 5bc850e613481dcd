from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandRotated, RandShiftIntensityd
from torch.nn.functional import avg_pool3d

from phantoms import chest_imaging, phantom
from scripts import (
    InputError,
    PrepareBiplanarBatch,
    RandDeformd,
    RandGeometry,
    RandShapeBetween,
    Registration,
    StackXraysd,
    hu_to_attenuation,
    project,
)
from scripts.anatomy.neighbours import Neighbours
from scripts.data.batch import random_region

SIZE, SCALE = 24, 8.0
IMAGING = chest_imaging(2 * SIZE)
GEOMETRY = IMAGING.geometry
RADIOGRAPHS = torch.rand(2, 2 * SIZE, 2 * SIZE)
RADIOGRAPHS[:, :5] = 0


@pytest.fixture
def batch() -> dict[str, Any]:
    """A CT alone, and another with radiographs, with metadata as MONAI's loader leaves it."""
    cts = torch.stack([phantom(SIZE, shift)[None] for shift in (0.0, 0.1)])
    xrays = torch.stack([torch.zeros_like(RADIOGRAPHS), RADIOGRAPHS])
    geometry = {
        "views": [("PA", "AP"), ("LL", "LL")],
        "source_to_isocentre_mm": torch.tensor([1600.0, 1400.0], dtype=torch.float64),
        "source_to_detector_mm": torch.tensor([1800.0, 1600.0], dtype=torch.float64),
    }
    return {"ct": MetaTensor(cts), "xrays": xrays, "has_radiographs": torch.tensor([False, True]), "geometry": geometry}


def prepare(stages: int = 3, **arguments: Any) -> PrepareBiplanarBatch:
    return PrepareBiplanarBatch(stages, IMAGING, **arguments)


def augmentations() -> dict[str, Any]:
    """All kinds of augmentation, each of which changes every value that it is given."""
    return {
        "augment": RandRotated("ct", range_x=0.3, range_y=0.3, range_z=0.3, prob=1.0, padding_mode="border"),
        "geometry_error": RandGeometry(distance=0.05, degrees=3.0, turned=0.5),
        "augment_xrays": RandShiftIntensityd("xrays", 0.2, prob=1.0),
    }


def test_the_augmentation_of_a_ct_reads_the_shapes_of_its_record(batch):
    """Both CTs in one batch, the first 90 mm towards x and the second, which has radiographs, where it is."""
    towards = torch.tensor([90.0, 0.0, 0.0]).view(1, 1, 3, 1, 1, 1).expand(2, 1, 3, 4, 4, 4)
    still = {"degrees": 0, "shift_mm": 0, "scale": 0, "magnitude_mm": (0, 0), "spacing_mm": 60}
    between = RandShapeBetween(1.0)
    augment = RandDeformd("ct", 360.0, **still, between=between)
    plain = prepare()(batch)[1]["ct"]
    shifted = prepare(augment=augment)({**batch, "shapes": MetaTensor(towards)})[1]["ct"]
    voxels = float(between.weights[0]) * 90 / (360 / SIZE)
    assert torch.equal(shifted[1], plain[1]) and voxels > 0.1
    whole, part = int(voxels), voxels - int(voxels)
    width = SIZE - whole - 1
    expected = torch.lerp(plain[0, :, whole : whole + width], plain[0, :, whole + 1 : whole + 1 + width], part)
    torch.testing.assert_close(shifted[0, :, :width], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_batch_becomes_xrays_target_and_the_stage_to_stop_after(batch, stages: int):
    xrays, target, further, arguments = prepare(stages)(batch, "cpu")
    assert further == () and arguments == {"stages": stages, "geometry": target["geometry"]}
    assert torch.equal(target["xrays"], xrays)
    assert [case.views for case in target["geometry"].cases_apart()] == [("PA", "LL"), ("AP", "LL")]
    assert [case.source_to_isocentre_mm for case in target["geometry"].cases_apart()] == [1600, 1400]
    torch.testing.assert_close(target["ct"], ((batch["ct"].as_tensor() + 1024) / 2048).clamp(0, 1))
    assert type(xrays) is type(target["ct"]) is torch.Tensor
    assert prepare(1)(batch, "cpu", dtype=torch.float64)[0].dtype == torch.float64


def test_a_batch_may_mix_records_with_radiographs_and_without(batch):
    """The one has the projections that it would have by itself, to the bit; the other its radiographs."""
    xrays = prepare()(batch)[0]
    alone = project(hu_to_attenuation(batch["ct"].as_tensor()[:1]), GEOMETRY)[0] / SCALE
    assert torch.equal(xrays[0], alone)
    assert torch.equal(xrays[1], RADIOGRAPHS)


def test_xrays_are_projected_from_hu_that_were_not_clipped():
    projection = chest_imaging(48, xray_scale=1.0).project(torch.full((1, 1, 8, 8, 8), 3000.0))[0, 0]
    assert projection[23:25, 23:25].mean().item() == pytest.approx(4 * 0.02059 * 360, rel=1e-3)


def test_the_targets_xrays_are_those_of_the_deformed_ct_in_the_nominal_geometry(batch):
    xrays, target, *_ = prepare(**augmentations())(batch)
    unclipped = target["ct"] * 2048 - 1024
    assert not torch.allclose(unclipped[0], batch["ct"].as_tensor()[0], atol=10)
    expected = project(hu_to_attenuation(unclipped[:1]), GEOMETRY)[0] / SCALE
    torch.testing.assert_close(target["xrays"][0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(xrays[0], expected, atol=1e-3)


def test_augmented_xrays_leave_the_target_as_it_is_without(batch):
    both = {name: value for name, value in augmentations().items() if name != "augment"}
    (xrays, target, *_), (plain, expected, *_) = prepare(**both)(batch), prepare()(batch)
    assert all(torch.equal(target[key], expected[key]) for key in ("ct", "xrays"))
    assert all(not torch.allclose(augmented, other) for augmented, other in zip(xrays, plain))
    assert torch.equal(batch["xrays"][1], RADIOGRAPHS)


def test_a_record_with_radiographs_keeps_its_ct_and_their_geometry(batch):
    only = {name: value for name, value in augmentations().items() if name != "augment_xrays"}
    xrays, target, *_ = prepare(**only)(batch)
    assert torch.equal(xrays[1], RADIOGRAPHS)
    assert torch.equal(target["ct"][1], prepare()(batch)[1]["ct"][1])


def test_the_augmentation_of_a_radiograph_receives_its_exposed_area(batch):
    seen = []
    look = Compose([Lambdad("exposed", lambda mask: seen.append(mask.clone()) or mask)])
    prepare(augment_xrays=look)(batch)
    assert seen[0].all()
    assert torch.equal(torch.as_tensor(seen[1]), RADIOGRAPHS != 0)


def test_no_error_of_the_distance_is_the_nominal_projection_to_the_bit(batch):
    none = RandGeometry(distance=0.0, degrees=5.0, turned=0.0)
    assert torch.equal(prepare(geometry_error=none)(batch)[0], prepare()(batch)[0])


PAIRS = [("PA", "LL"), ("AP", "RL")]


def test_the_network_receives_the_geometry_that_its_cts_are_projected_in(batch):
    """Each its own; the target's X-rays are of it too. A record with radiographs keeps theirs."""
    many = {
        "ct": torch.cat([batch["ct"].as_tensor()] * 2),
        "xrays": torch.cat([batch["xrays"]] * 2),
        "has_radiographs": torch.tensor([False, False, False, True]),
        "geometry": {name: [*value, *value] for name, value in batch["geometry"].items() if name != "views"}
        | {"views": [("PA", "PA", "PA", "AP"), ("LL",) * 4]},
    }
    draw = RandGeometry(distance=0.2, degrees=10.0, turned=0.5, views=PAIRS)
    torch.manual_seed(0)
    xrays, target, _, arguments = prepare(augment_geometry=draw)(many)
    assert arguments["geometry"] is target["geometry"] and torch.equal(xrays, target["xrays"])
    drawn = target["geometry"].cases_apart()
    assert len({case.source_to_isocentre_mm for case in drawn}) == 4
    assert {case.is_along_axes for case in drawn[:3]} == {True, False} and drawn[3].views == ("AP", "LL")
    for entry, case in enumerate(drawn[:3]):
        expected = project(hu_to_attenuation(many["ct"][entry : entry + 1]), case) / SCALE
        torch.testing.assert_close(xrays[entry], expected[0], rtol=0, atol=0)


def test_the_network_is_not_told_of_an_error(batch):
    """It is about the drawn geometry, whose X-rays the target keeps."""
    told = RandGeometry(distance=0.2, degrees=10.0, turned=1.0, views=PAIRS)
    seen = []
    for error in (None, RandGeometry(distance=0.05, degrees=2.0, turned=1.0)):
        torch.manual_seed(2)
        seen.append(prepare(augment_geometry=told, geometry_error=error)(batch))
    (xrays, target, _, arguments), (other_xrays, other_target, _, other_arguments) = seen
    assert other_arguments["geometry"].of_case(0) == arguments["geometry"].of_case(0)
    assert torch.equal(other_target["xrays"][0], target["xrays"][0])
    difference = (other_xrays - xrays).abs().amax((1, 2, 3))
    assert difference[0] > 0.01 and difference[1] == 0


def test_a_distance_at_which_the_detector_is_too_small_is_refused_at_once():
    """Both changes of the distance together."""
    near = RandGeometry(distance=0.2, degrees=0.0, turned=0.0)
    with pytest.raises(InputError, match="detector_size_mm"):
        prepare(augment_geometry=near, geometry_error=near)
    prepare(augment_geometry=near)


def test_a_seed_of_torch_decides_everything(batch):
    def drawn(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        xrays, target, _, arguments = prepare(crop=12, **augmentations())(batch)
        return [xrays, target["xrays"], target["ct"], torch.tensor(arguments["region"].start)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(one, two) for one, two in zip(first, again))
    assert not torch.allclose(first[0], other[0]) and not torch.allclose(first[2], other[2])


def test_records_of_a_batch_are_augmented_apart(batch):
    both = {**batch, "ct": batch["ct"][:1].repeat(2, 1, 1, 1, 1), "has_radiographs": torch.tensor([False, False])}
    xrays, target, *_ = prepare(**augmentations())(both)
    assert not torch.allclose(target["ct"][0], target["ct"][1])
    assert not torch.allclose(xrays[0], xrays[1])


def test_radiographs_are_stacked_with_the_frontal_one_first():
    record = {
        "ct": 1,
        "frontal": torch.zeros(1, 4, 4),
        "lateral": torch.ones(1, 4, 4),
        "name": "a",
        "radiograph_scale": "x",
    }
    collected = StackXraysd(4)(record)
    assert set(collected) == {"ct", "xrays", "has_radiographs", "name"} and collected["has_radiographs"]
    assert collected["xrays"].shape == (2, 4, 4) and not collected["xrays"][0].any() and collected["xrays"][1].all()
    without = StackXraysd(4)({"ct": 1})
    assert without["xrays"].shape == (2, 4, 4) and not without["has_radiographs"]


@pytest.mark.parametrize(("stages", "size"), [(1, 6), (2, 12), (3, 24)])
def test_a_crop_is_a_random_cube_of_the_stages_volume(batch, stages: int, size: int):
    cropped = prepare(stages, crop=4)
    regions = set()
    for _ in range(20):
        _, target, _, arguments = cropped(batch)
        region = arguments["region"]
        assert target["region"] is region
        assert (region.size, region.shape) == (size, (4, 4, 4))
        regions.add(region)
    assert len(regions) > 1


def test_every_even_place_is_drawn_and_no_other():
    starts = {random_region(12, 8).start[0] for _ in range(60)}
    assert starts == {0, 2, 4}


def test_the_whole_cube_has_one_place():
    assert random_region(12, 12).shape == (12, 12, 12)


@pytest.mark.parametrize(("stages", "size"), [(1, 6), (2, 12)])
def test_a_crop_is_of_the_stages_volume_whatever_the_size_of_the_ct(batch, stages: int, size: int):
    """As `volume_size` sets it: that of a smaller volume than the last stage's, which an early one does not need."""
    coarser = {**batch, "ct": MetaTensor(avg_pool3d(batch["ct"].as_tensor(), 2))}
    _, _, _, arguments = prepare(stages, crop=6)(coarser)
    assert arguments["region"].size == size


def test_a_crop_that_is_larger_than_the_volume_is_refused(batch):
    with pytest.raises(ValueError, match="crop is 24 voxels, expected at most the 6"):
        prepare(1, crop=24)(batch)


def test_a_network_that_has_met_pa_alone_receives_pa_and_is_scored_with_the_true_views(batch):
    with pytest.warns(UserWarning, match="view is AP, expected PA"):
        _, target, _, arguments = prepare(known_views=[("PA", "LL")])(batch)
    assert arguments["geometry"].views == ("PA", "LL")
    assert arguments["geometry"].source_to_isocentre_mm.tolist() == [1600, 1400]
    assert target["geometry"].of_case(1).views == ("AP", "LL")


def test_a_batch_of_one_geometry_has_it_in_plain_numbers(batch):
    distances = {name: values[:1].expand(2) for name, values in batch["geometry"].items() if name != "views"}
    alike = {**distances, "views": [("PA", "PA"), ("LL", "LL")]}
    found = prepare()({**batch, "geometry": alike})[3]["geometry"]
    assert found == GEOMETRY


def test_a_batch_is_given_the_neighbours_of_other_patients(batch):
    cts = torch.rand(3, 1, 8, 8, 8)
    neighbours = Neighbours(cts, Registration(), IMAGING, patients=["a", "b", "c"])
    given = prepare(anatomy=neighbours)({**batch, "patient": ["b"]})[3]["anatomy"]
    assert given.patients == ["a", "c"] and torch.equal(given.cts, cts[[0, 2]])
    assert prepare(anatomy=neighbours)(batch)[3]["anatomy"] is neighbours


def test_view_dropout_masks_one_xray_of_that_share_of_the_samples_and_each_as_often(batch):
    told = [only for _ in range(100) for only in prepare(1, view_dropout=0.6)(batch)[3]["only"]]
    shares = {only: told.count(only) / len(told) for only in (None, "frontal", "lateral")}
    assert sum(shares.values()) == 1
    assert all(abs(shares[only] - share) < 0.1 for only, share in ((None, 0.4), ("frontal", 0.3), ("lateral", 0.3)))
    assert None not in prepare(1, view_dropout=1.0)(batch)[3]["only"]


def test_without_view_dropout_nothing_is_drawn_and_the_network_is_told_nothing(batch):
    """So that a training is, to the bit, the one that it was."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    _, _, _, arguments = prepare(1, view_dropout=0.0)(batch)
    assert set(arguments) == {"stages", "geometry"} and torch.equal(torch.get_rng_state(), state)
    plain, dropped = (prepare(1, view_dropout=view_dropout)(batch)[:2] for view_dropout in (0.0, 1.0))
    assert torch.equal(plain[0], dropped[0]) and torch.equal(plain[1]["ct"], dropped[1]["ct"])


def test_one_xray_is_given_of_every_sample_where_that_is_asked_for(batch):
    assert prepare(1, only="lateral")(batch)[3]["only"] == ["lateral", "lateral"]
    with pytest.raises(InputError, match="only is 'PA', expected 'frontal' or 'lateral'"):
        prepare(1, only="PA")
    with pytest.raises(InputError, match="view_dropout is 1.5, expected a probability"):
        prepare(1, view_dropout=1.5)
