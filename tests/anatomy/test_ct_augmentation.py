from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from bundle_runs import ROOT, read_configs, stage_configs
from phantoms import phantom
from scripts import RandBodyOnlyd, RandNodulesd, RandTissued
from scripts.data.datalist import SECTIONS

WEIGHTS = ROOT / "bundle" / "configs" / "weights"


def drawn(seed: int = 0, prob: float = 1.0) -> RandTissued:
    transform = RandTissued("ct", lung_hu=60, soft_hu=15, bone=0.15, prob=prob)
    transform.set_random_state(seed=seed)
    return transform


def nodules(seed: int = 0, prob: float = 1.0) -> RandNodulesd:
    transform = RandNodulesd("ct", 360.0, 10, [5.0, 20.0], [-300, 400], [140, 90, 160], prob)
    transform.set_random_state(seed=seed)
    return transform


def with_table(size: int) -> torch.Tensor:
    """A phantom that lies on a board of 200 HU, with a gap between them."""
    hu = phantom(size, 0.0)[None]
    hu[:, :, : size // 16] = 200.0
    return hu


def test_each_tissue_gets_its_change_and_air_stays():
    transform = drawn()
    transform.changes = torch.tensor([30.0, -10.0, 0.1])
    hu = torch.tensor([-1024.0, -1000.0, -850.0, -400.0, 50.0, 1050.0])
    added = transform.changed(hu) - hu
    torch.testing.assert_close(added, torch.tensor([0.0, 0.0, 30.0, 10.0, -10.0, 90.0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_denser_stays_denser(seed: int):
    transform, hu = drawn(seed), torch.linspace(-1024, 5000, 500)
    transform.randomize()
    assert (transform.changes.abs() <= torch.tensor([60.0, 15.0, 0.15])).all() and transform.changes.all()
    assert (transform.changed(hu).diff() > 0).all()


def test_a_probability_of_zero_leaves_the_ct():
    cube = with_table(16)
    assert drawn(prob=0.0)({"ct": cube})["ct"] is cube
    assert RandBodyOnlyd("ct", prob=0.0)({"ct": cube})["ct"] is cube
    assert nodules(prob=0.0)({"ct": cube})["ct"] is cube


@pytest.mark.parametrize("size", [64, 96])
def test_the_table_goes_and_the_body_stays(size: int):
    kept = RandBodyOnlyd("ct", prob=1.0)({"ct": with_table(size)})["ct"]
    without = phantom(size, 0.0)[None]
    torch.testing.assert_close(kept, without)


@pytest.mark.parametrize("size", [96, 128])
def test_an_ellipsoid_has_its_place_its_volume_and_its_hu(size: int):
    transform, hu = nodules(), phantom(size, 0.0)[None]
    middle, radii = torch.tensor([[72.0, 10.0, -20.0]]), torch.tensor([[20.0, 16.0, 25.0]])
    transform.middles_mm, transform.radii_mm, transform.values_hu = middle, radii, torch.tensor([200.0])
    share = (transform.changed(hu) - hu)[0] / (200.0 - -800.0)
    assert share.min() == 0 and share.max() == pytest.approx(1)
    voxel = 360.0 / size
    assert float(share.sum()) * voxel**3 == pytest.approx(4 / 3 * torch.pi * float(radii.prod()), rel=0.03)
    places = (torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij")) + 0.5 - size / 2) * voxel
    torch.testing.assert_close((places * share).sum((1, 2, 3)) / share.sum(), middle[0], rtol=0, atol=0.1)


def test_middles_outside_of_the_cube_are_refused():
    with pytest.raises(ValueError, match="within_mm is .*less than half of fov_mm, 180"):
        RandNodulesd("ct", 360.0, 10, [5.0, 20.0], [-300, 400], [140, 90, 180], 1.0)


def test_no_ellipsoid_floats_outside_of_the_body():
    transform, hu = nodules(), phantom(64, 0.0)[None]
    transform.middles_mm, transform.radii_mm = torch.tensor([[170.0, 170.0, 0.0]]), torch.full((1, 3), 15.0)
    transform.values_hu = torch.tensor([200.0])
    assert torch.equal(transform.changed(hu), hu)


@pytest.mark.parametrize("seed", range(5))
def test_ellipsoids_are_as_many_as_large_and_as_dense_as_they_may_be(seed: int):
    transform = nodules(seed)
    transform.randomize()
    assert 1 <= len(transform.middles_mm) <= 10
    assert (transform.middles_mm.abs() <= torch.tensor([140.0, 90.0, 160.0])).all()
    assert (transform.radii_mm >= 5.0 / 1.4 - 1e-3).all() and (transform.radii_mm <= 20.0 * 1.4 + 1e-3).all()
    assert (transform.values_hu >= -300).all() and (transform.values_hu <= 400).all()


def test_type_and_affine_stay():
    cube = MetaTensor(with_table(32), affine=torch.diag(torch.tensor([11.25, 11.25, 11.25, 1.0])))
    for transform in (drawn(), RandBodyOnlyd("ct", prob=1.0), nodules()):
        changed = transform({"ct": cube})["ct"]
        assert torch.equal(changed.affine, cube.affine) and changed.dtype == cube.dtype and changed.shape == cube.shape


def test_no_patient_is_in_two_sections_of_the_split():
    split = json.loads((ROOT / "bundle" / "configs" / "split.json").read_text())
    patients = [record["ct"].split("_s")[0] for section in SECTIONS for record in split[section]]
    assert len(patients) == len(set(patients))


def test_the_shipped_weights_are_those_of_the_network_that_their_training_trains():
    shipped = torch.load(ROOT / "bundle" / "models" / "model.pt", mmap=True, weights_only=True)
    with torch.device("meta"):
        trained = read_configs(stage_configs(3, WEIGHTS)).get_parsed_content("network_def").state_dict()
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (shipped, trained)]
    assert shapes[0] == shapes[1]


def test_the_training_of_the_weights_mirrors_half_of_the_patients_left_to_right():
    """After anything else, so that the ways to others, which are not mirrored, are those of the CT."""
    augment = read_configs(stage_configs(1, WEIGHTS)).get_parsed_content("train#trainer#prepare_batch#augment")
    mirror = augment.transforms[-1]
    cube = torch.rand(1, 8, 8, 8)
    changed = [mirror.set_random_state(seed=seed)({"ct": cube})["ct"] for seed in range(64)]
    mirrored = [torch.equal(torch.as_tensor(hu), cube.flip(1)) for hu in changed]
    assert all(is_mirrored or torch.equal(torch.as_tensor(hu), cube) for is_mirrored, hu in zip(mirrored, changed))
    assert 20 < sum(mirrored) < 44
