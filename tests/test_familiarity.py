from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_runs import bundle_run_here, write_random_weights
from phantoms import phantom
from scripts import BiplanarGeometry, InputError, RandDeformd, beside_weights
from scripts.batch import PrepareBiplanarBatch, ProjectCT
from scripts.familiarity import FEATURES, Familiarity, familiarity_of, fit_familiarity, read_familiarity, reduced
from scripts.film_faults import FAULTS

PIXELS = 64


def chest(shift: float, height: float = 0.0) -> torch.Tensor:
    """The tests' phantom with shoulders and a belly, in HU, `(1, 32, 32, 32)`; `height` moves the belly's upper edge."""
    hu = phantom(32, shift)
    z = torch.linspace(-1, 1, 32)
    hu[:, :, z < -0.5 + height] = torch.where(hu[:, :, z < -0.5 + height] > -900, 40.0, -1000.0)
    hu[:4, :, z < 0.5] = hu[-4:, :, z < 0.5] = -1000.0
    return hu[None]


def xrays_of(hu: torch.Tensor) -> torch.Tensor:
    return ProjectCT(BiplanarGeometry(detector_pixels=PIXELS), 8.0)(hu)


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    """Of deformations of one phantom."""
    deform = RandDeformd(
        "ct", fov_mm=360.0, degrees=3.0, shift_mm=8.0, scale=0.05, magnitude_mm=[0.0, 8.0], spacing_mm=60.0
    )
    torch.manual_seed(0)
    prepare = PrepareBiplanarBatch(1, ProjectCT(BiplanarGeometry(detector_pixels=PIXELS), 8.0), (-1024, 1024), deform)
    batch = {"ct": chest(0.0)[None], "xrays": torch.zeros(1, 2, PIXELS, PIXELS), "has_films": [False]}
    return familiarity_of(torch.stack([reduced(prepare(batch)[0])[0] for _ in range(40)]), 0.995)


@pytest.mark.parametrize("fault", ["exchanged", "both upside down", "both inverted", "frontal inverted", "noise", "blank"])
def test_a_pair_is_familiar_and_flagged_with_a_fault(familiarity: Familiarity, fault: str):
    xrays = xrays_of(chest(0.0))
    assert not familiarity.assess(xrays)["flagged"]
    assert familiarity.assess(FAULTS[fault](xrays))["flagged"]


def test_views_of_two_phantoms_are_flagged(familiarity: Familiarity):
    """The other one's belly reaches 60 mm higher, so that the rows of the two films show other slices."""
    one, other = xrays_of(chest(0.0)), xrays_of(chest(0.0, height=0.33))
    found = familiarity.assess(torch.stack([one[0], other[1]]))
    assert found["flagged"]


def test_the_distance_is_that_of_mahalanobis(familiarity: Familiarity):
    """By a solution of the linear system instead of the inverse, on features that the class itself gives."""
    films = reduced(xrays_of(chest(0.05)))[None]
    off = torch.tensor(familiarity.standardised(films)[0])
    solved = torch.linalg.solve(torch.tensor(familiarity.correlation), off)
    assert familiarity.distances(films)[0] == pytest.approx(float((off @ solved / len(FEATURES)).sqrt()), rel=1e-6)


def test_brightness_of_both_films_does_not_move_a_correlation(familiarity: Familiarity):
    """All features but the two of roughness."""
    films = reduced(xrays_of(chest(0.0)))[None]
    change = abs(familiarity.standardised(films * 1.7 + 0.2) - familiarity.standardised(films))[0]
    assert {name for name, moved in zip(FEATURES, change) if moved > 1e-3} == {"frontal roughness", "lateral roughness"}


@pytest.mark.parametrize("fault", ["exchanged", "both upside down", "frontal upside down", "lateral mirrored"])
def test_a_fault_that_turns_or_exchanges_is_undone_by_a_second_one(fault: str):
    xrays = torch.rand(2, 8, 8)
    assert not torch.equal(FAULTS[fault](xrays), xrays)
    assert torch.allclose(FAULTS[fault](FAULTS[fault](xrays)), xrays)


@pytest.fixture(scope="module")
def fitted(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights beside which lies what `familiarity.json` makes for them."""
    weights = write_random_weights(tmp_path_factory.mktemp("weights") / "stage3_best.pth", overlay)
    configs = ["bundle/configs/train.json", "bundle/configs/familiarity.json", str(overlay)]
    bundle_run_here("run", configs, dataset_dir=dataset, ckpt_dir=weights.parent, output_dir=weights.parent)
    return weights


def test_the_workflow_says_which_faults_it_flags(fitted: Path):
    report = json.loads((fitted.parent / "faults_validation.json").read_text())
    for case in report["cases"]:
        assert {*FAULTS, "lateral of phantom_0", "frontal of phantom_1"} < set(case["faults"])
        assert case["faults"]["noise"]["flagged"]
        for found in case["faults"].values():
            assert found["flagged"] == (found["distance"] > report["threshold"] - 5e-4)
    content = json.loads(Path(beside_weights(str(fitted), "familiarity")).read_text())
    assert set(content["flagged_when_left_out"]) == {"phantom_0", "phantom_1"}


@pytest.mark.parametrize("exchanged", [False, True])
def test_inference_warns_and_notes_it(fitted: Path, dataset: Path, overlay: Path, tmp_path: Path, recwarn, exchanged: bool):
    views = ("lateral", "frontal") if exchanged else ("frontal", "lateral")
    films = {view: dataset / f"phantom_6_{other}.nii.gz" for view, other in zip(("frontal", "lateral"), views)}
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here("run", configs, weights=fitted, output_dir=tmp_path, familiarity=True, **films)
    found = json.loads((tmp_path / "familiarity.json").read_text())
    warned = [str(warning.message) for warning in recwarn if "unlike those of the training" in str(warning.message)]
    assert len(warned) == found["flagged"]
    assert list(found["deviations"].values()) == sorted(found["deviations"].values(), key=abs, reverse=True)
    if exchanged:
        assert found["flagged"]


def test_too_few_pairs_are_refused(tmp_path: Path):
    prepare = PrepareBiplanarBatch(1, ProjectCT(BiplanarGeometry(detector_pixels=PIXELS), 8.0), (-1024, 1024))
    batch = {"ct": chest(0.0)[None], "xrays": torch.zeros(1, 2, PIXELS, PIXELS), "has_films": [False], "name": ["a"]}
    with pytest.raises(InputError, match="5 pairs of X-rays, expected more than the 12 features; set draws to 13 or more"):
        fit_familiarity([batch], prepare, 5, 0.995, str(tmp_path / "familiarity.json"), "weights.pth")


def test_what_was_written_is_read_back(fitted: Path, familiarity: Familiarity):
    path = beside_weights(str(fitted), "familiarity")
    read = read_familiarity(path, str(fitted))
    assert read.as_numbers() == {name: json.loads(Path(path).read_text())[name] for name in read.as_numbers()}
