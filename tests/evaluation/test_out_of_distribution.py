from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import interpolate

from bundle_runs import bundle_run_here, write_random_weights
from phantoms import chest_imaging, phantom
from scripts import BiplanarGeometry, CheckpointError, InputError, RandDeformd, sidecar_path
from scripts.data.batch import PrepareBiplanarBatch
from scripts.evaluation.corrupted_pairs import CORRUPTIONS
from scripts.evaluation.out_of_distribution import (
    FEATURES,
    MISTAKES,
    UNDONE_BY,
    FalsePositives,
    OutOfDistributionDetector,
    detector_of,
    findings,
    fit_detector,
    held_out_fractions,
    left_out_distances,
    quantile_over_patients,
    read_detector,
    reduced,
    reference_of,
)

PIXELS = 64
QUANTILE = 0.995


def chest(shift: float, height: float = 0.0) -> torch.Tensor:
    """
    The tests' phantom with shoulders and a belly, in HU, `(1, 32, 32, 32)`; `height` moves the belly's upper edge.
    """
    hu = phantom(32, shift)
    z = torch.linspace(-1, 1, 32)
    hu[:, :, z < -0.5 + height] = torch.where(hu[:, :, z < -0.5 + height] > -900, 40.0, -1000.0)
    hu[:4, :, z < 0.5] = hu[-4:, :, z < 0.5] = -1000.0
    return hu[None]


def xrays_of(hu: torch.Tensor) -> torch.Tensor:
    return chest_imaging(PIXELS).project(hu[None])[0]


@pytest.fixture(scope="module")
def detector() -> OutOfDistributionDetector:
    """Of four patients, deformations of one phantom all of them."""
    deform = RandDeformd(
        "ct", fov_mm=360.0, degrees=3.0, shift_mm=8.0, scale=0.05, magnitude_mm=[0.0, 8.0], spacing_mm=60.0
    )
    torch.manual_seed(0)
    prepare = PrepareBiplanarBatch(1, chest_imaging(PIXELS), deform)
    pairs = [reduced(prepare(batch_of(chest(0.0)))[0])[0] for _ in range(60)]
    return detector_of(torch.stack(pairs), ids(4, 15), QUANTILE)


def batch_of(hu: torch.Tensor, patient: str = "a") -> dict[str, Any]:
    """As a `DataLoader` yields it of a record without radiographs."""
    nominal = BiplanarGeometry()
    geometry = {"views": [(view,) for view in nominal.views]}
    distances = ("source_to_isocentre_mm", "source_to_detector_mm")
    geometry |= {name: torch.tensor([getattr(nominal, name)]) for name in distances}
    pairs = {"xrays": torch.zeros(1, 2, PIXELS, PIXELS), "has_radiographs": [False], "geometry": geometry}
    return {"ct": hu[None], **pairs, "name": [f"{patient}_1"], "patient": [patient]}


@pytest.mark.parametrize(
    "corruption",
    ["exchanged", "frontal upside down", "lateral upside down", "both inverted", "frontal inverted", "noise", "blank"],
)
def test_a_pair_is_flagged_when_it_is_corrupted_and_not_as_it_is(detector: OutOfDistributionDetector, corruption: str):
    xrays = xrays_of(chest(0.0))
    assert not detector.assess(xrays)["flagged"]
    assert detector.assess(CORRUPTIONS[corruption](xrays))["flagged"]


@pytest.mark.parametrize(
    "mistake", ["exchanged", "both upside down", "frontal upside down", "both inverted", *UNDONE_BY]
)
def test_a_mistake_is_named(detector: OutOfDistributionDetector, mistake: str):
    """Both ways round: none where there is none, and the one that was made, though the threshold be out of reach."""
    xrays = xrays_of(chest(0.0))
    assert detector.assess(xrays)["mistake"] is None
    careless = replace(detector, left_out=[np.array([1e6])])
    found = careless.assess(MISTAKES[mistake](xrays))
    assert found["flagged"] and found["mistake"] == mistake
    assert not careless.assess(xrays)["flagged"]


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_undone_by_itself_or_by_its_opposite(mistake: str):
    """Inverting loses by how much the whole X-ray was brighter than black."""
    pairs = torch.rand(3, 2, 8, 8)
    pairs[..., 0, 0] = 0.0
    pairs[..., 0, 1] = 1.0
    assert not torch.equal(MISTAKES[mistake](pairs), pairs)
    torch.testing.assert_close(MISTAKES[UNDONE_BY.get(mistake, mistake)](MISTAKES[mistake](pairs)), pairs)


def test_views_of_two_phantoms_are_flagged(detector: OutOfDistributionDetector):
    """The other one's belly reaches 60 mm higher, so that the rows of the two X-rays show other slices."""
    one, other = xrays_of(chest(0.0)), xrays_of(chest(0.0, height=0.33))
    found = detector.assess(torch.stack([one[0], other[1]]))
    assert found["flagged"]


def test_the_distance_is_that_of_mahalanobis(detector: OutOfDistributionDetector):
    """By a solution of the linear system instead of the inverse, on features that the class itself returns."""
    pairs = reduced(xrays_of(chest(0.05)))[None]
    off = torch.tensor(detector.reference.standardised(pairs)[0])
    solved = torch.linalg.solve(torch.tensor(detector.reference.correlation), off)
    assert detector.reference.distances(pairs)[0] == pytest.approx(
        float((off @ solved / len(FEATURES)).sqrt()), rel=1e-6
    )


def test_brightness_of_both_xrays_does_not_move_a_correlation(detector: OutOfDistributionDetector):
    """All features but the two of roughness."""
    pairs = reduced(xrays_of(chest(0.0)))[None]
    standardised = detector.reference.standardised
    change = abs(standardised(pairs * 1.7 + 0.2) - standardised(pairs))[0]
    assert {name for name, moved in zip(FEATURES, change) if moved > 1e-3} == {"frontal roughness", "lateral roughness"}


def drawn_pairs(mean: torch.Tensor, patients: int, draws: int, between: float, within: float) -> torch.Tensor:
    """Reduced pairs `(B, 2, 64, 64)`: a mean, a smooth deviation of each patient's, and one of each draw's."""

    def smooth(number: int) -> torch.Tensor:
        return interpolate(torch.randn(number, 2, 6, 6), size=64, mode="bicubic")

    return (mean + between * smooth(patients)).repeat_interleave(draws, 0) + within * smooth(patients * draws)


def ids(patients: int, draws: int) -> list[str]:
    return [str(patient) for patient in range(patients) for _ in range(draws)]


def test_the_threshold_of_patients_left_out_holds_for_patients_who_are_not_known():
    """
    Six patients of twenty draws, sixteen times, and fifty unseen patients each time. The quantile of the known pairs'
    own distances flags most unseen ones, since the draws of a patient are alike; that of the left-out distances hardly
    any.
    """
    own, left_out = [], []
    for _ in range(16):
        mean = interpolate(torch.randn(1, 2, 6, 6), size=64, mode="bicubic")
        known, unseen = drawn_pairs(mean, 6, 20, 0.3, 0.2), drawn_pairs(mean, 50, 1, 0.3, 0.2)
        reference = reference_of(known, ids(6, 20))
        distances = reference.distances(unseen)
        own.append((distances > np.quantile(reference.distances(known), QUANTILE)).mean())
        threshold = quantile_over_patients(left_out_distances(known, ids(6, 20)), QUANTILE)
        left_out.append((distances > threshold).mean())
    assert np.mean(own) > 0.5
    assert np.mean(left_out) < 0.03


def test_the_false_positives_are_those_of_patients_who_took_no_part_in_the_threshold():
    """
    Five patients who are alike and a sixth of another kind, who makes a threshold wide enough for himself: among the
    others alone it is not.
    """
    mean, another = torch.rand(2, 1, 2, 6, 6).mul(4)
    means = [(interpolate(each, size=64, mode="bicubic"), patients) for each, patients in ((mean, 5), (another, 1))]
    pairs = [drawn_pairs(each, patients, 20, 0.1, 0.1) for each, patients in means]
    found = detector_of(torch.cat(pairs), ids(6, 20), QUANTILE)
    assert found.reference.distances(pairs[1]).max() < found.threshold
    assert found.false_positives.fractions[5] == 1.0
    assert max(found.false_positives.fractions[:5]) < 0.5
    assert found.false_positives.flagged == 1


def test_a_threshold_is_made_of_other_patients_alone():
    """By hand: the other two of three patients, each measured by the other one."""
    pairs, whose = drawn_pairs(torch.rand(1, 2, 64, 64), 3, 20, 0.3, 0.2), ids(3, 20)
    first, second, third = pairs.split(20)
    of_others = [reference_of(one, ["a"] * 20).distances(other) for one, other in ((second, third), (third, second))]
    known = reference_of(torch.cat([second, third]), ids(2, 20))
    mistaken = [mistake is not None for mistake in findings(known, first).mistakes]
    expected = ((known.distances(first) > np.concatenate(of_others).max()) | mistaken).mean()
    assert held_out_fractions(pairs, whose, QUANTILE)[0] == pytest.approx(expected)


def test_patients_weigh_alike_however_many_pairs_they_have():
    """A patient's pairs three times over change nothing."""
    pairs, whose = drawn_pairs(torch.rand(1, 2, 64, 64), 4, 20, 0.3, 0.2), ids(4, 20)
    again, whose_again = torch.cat([pairs, pairs[:20], pairs[:20]]), [*whose, *["0"] * 40]
    one, other = (detector_of(each, of, 0.9) for each, of in ((pairs, whose), (again, whose_again)))
    assert other.threshold == pytest.approx(one.threshold, rel=1e-4)
    assert other.false_positives.fractions == one.false_positives.fractions
    assert np.allclose(other.reference.correlation, one.reference.correlation, atol=1e-4)


def test_the_quantile_weighs_patients_alike():
    """Ten values of one patient weigh as much as one of another: half of the weight lies at 1 to 10, half at 20."""
    values = [np.arange(1.0, 11.0), np.array([20.0])]
    found = [quantile_over_patients(values, fraction) for fraction in (0.05, 0.25, 0.5, 0.51, 1.0)]
    assert found == [1.0, 5.0, 10.0, 20.0, 20.0]


@pytest.mark.parametrize("flagged, patients", [(0, 6), (1, 6), (6, 6), (3, 40)])
def test_the_interval_of_the_false_positive_rate_is_that_of_clopper_and_pearson(flagged: int, patients: int):
    """By quantiles of the beta distribution, the interval's other form."""
    low = beta.ppf(0.025, flagged, patients - flagged + 1) if flagged else 0.0
    high = beta.ppf(0.975, flagged + 1, patients - flagged) if flagged < patients else 1.0
    found = FalsePositives((1.0,) * flagged + (0.5,) * (patients - flagged))
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    assert found.as_content()["statement"].startswith(f"{flagged} of {patients} training patients were flagged")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("pixels", [1, PIXELS**2])
def test_a_pair_that_is_not_finite_is_flagged(detector: OutOfDistributionDetector, value: float, pixels: int):
    xrays = xrays_of(chest(0.0))
    xrays[0].view(-1)[:pixels] = value
    assert detector.assess(xrays)["flagged"] is True


def test_xrays_of_any_device_are_compared_on_the_cpu():
    """Shapes and devices alone, of a GPU that need not be there."""
    with FakeTensorMode():
        assert reduced(torch.empty(2, 512, 512, device="cuda")).device.type == "cpu"


@pytest.fixture(scope="module")
def fitted(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with the sidecar file that `familiarity.json` makes for them, of three phantoms."""
    weights = write_random_weights(tmp_path_factory.mktemp("weights") / "stage3_best.pth", overlay)
    sections = {"training": [0, 1, 2], "validation": [3, 4]}
    records = {name: [{"ct": f"phantom_{each}.nii.gz"} for each in numbers] for name, numbers in sections.items()}
    datalist = weights.parent / "datalist.json"
    datalist.write_text(json.dumps(records))
    configs = ["bundle/configs/train.json", "bundle/configs/familiarity.json", str(overlay)]
    places = {"dataset_dir": dataset, "ckpt_dir": weights.parent, "output_dir": weights.parent}
    bundle_run_here("run", configs, datalist=datalist, **places)
    return weights


def test_the_workflow_says_which_corruptions_it_flags(fitted: Path):
    report = json.loads((fitted.parent / "faults_validation.json").read_text())
    for case in report["cases"]:
        assert {*CORRUPTIONS, "lateral of phantom_0", "frontal of phantom_1"} < set(case["faults"])
        assert case["faults"]["noise"]["flagged"]
        for found in case["faults"].values():
            is_beyond = found["distance"] > report["threshold"] - 5e-4
            assert found["flagged"] == (is_beyond or found["mistake"] is not None)
    content = json.loads(Path(sidecar_path(str(fitted), "familiarity")).read_text())
    assert report["false_alarms"] == content["false_alarms"]
    assert content["false_alarms"]["patients"] == len(content["left_out_distances"]) == 3


@pytest.mark.parametrize("swapped", [False, True])
def test_inference_warns_and_notes_it(
    fitted: Path, dataset: Path, overlay: Path, tmp_path: Path, recwarn, swapped: bool
):
    views = ("lateral", "frontal") if swapped else ("frontal", "lateral")
    pairs = {view: dataset / f"phantom_6_{other}.nii.gz" for view, other in zip(("frontal", "lateral"), views)}
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here("run", configs, weights=fitted, output_dir=tmp_path, familiarity=True, **pairs)
    found = json.loads((tmp_path / "familiarity.json").read_text())
    warned = [str(warning.message) for warning in recwarn if "unlike those of the training" in str(warning.message)]
    assert len(warned) == found["flagged"]
    assert found["false_alarms"]["patients"] == 3
    assert list(found["deviations"].values()) == sorted(found["deviations"].values(), key=abs, reverse=True)
    if swapped:
        assert found["flagged"]


@pytest.mark.parametrize(
    "patients, draws, message",
    [
        (2, 20, "2 patients, expected at least 3, since the threshold comes from patients left out"),
        (
            3,
            5,
            "5 pairs of X-rays when two patients are left out, expected more than the 12 features; "
            "set draws to 3 times",
        ),
    ],
)
def test_too_few_patients_or_pairs_are_refused(patients: int, draws: int, message: str, tmp_path: Path):
    prepare = PrepareBiplanarBatch(1, chest_imaging(PIXELS))
    batches = [batch_of(chest(0.02 * number), str(number)) for number in range(patients)]
    with pytest.raises(InputError, match=message):
        fit_detector(batches, prepare, draws, QUANTILE, str(tmp_path / "familiarity.json"), "weights.pth")
    assert not list(tmp_path.iterdir())


def test_pairs_that_are_not_finite_are_refused(tmp_path: Path):
    pairs = drawn_pairs(torch.rand(1, 2, 64, 64), 3, 20, 0.3, 0.2)
    pairs[7, 0, 3, 3] = math.nan
    with pytest.raises(InputError, match="X-rays that are not finite"):
        detector_of(pairs, ids(3, 20), QUANTILE)


def test_what_was_written_is_read_back(fitted: Path):
    path = sidecar_path(str(fitted), "familiarity")
    read = json.loads(json.dumps(read_detector(path, str(fitted)).as_content()))
    assert read == {name: json.loads(Path(path).read_text())[name] for name in read}


def test_the_mean_pair_is_read_under_its_next_name_too(fitted: Path, tmp_path: Path):
    content = json.loads(Path(sidecar_path(str(fitted), "familiarity")).read_text())
    content["mean_radiographs"] = content.pop("mean_films")
    (tmp_path / "next.json").write_text(json.dumps(content))
    found = read_detector(str(tmp_path / "next.json"), str(fitted)).as_content()
    assert found == read_detector(sidecar_path(str(fitted), "familiarity"), str(fitted)).as_content()


def first_is(value: Any) -> Callable[[list], list]:
    """Lists in lists with another first number."""
    return lambda rows: [first_is(value)(rows[0]) if isinstance(rows[0], list) else value, *rows[1:]]


NOT_FINITE: dict[str, Any] = {"NaN": math.nan, "infinity": math.inf, "a huge integer": 10**999, "null": None}
NOT_FINITE |= {"text": "1", "a truth value": True}
LISTS = ("mean_films", "feature_mean", "feature_deviation", "correlation", "left_out_distances", "false_alarms.shares")
TAMPERED = {
    **{f"threshold {name}": ("threshold", value) for name, value in NOT_FINITE.items()},
    **{f"{field} with {name}": (field, first_is(value)) for field in LISTS for name, value in NOT_FINITE.items()},
    **{f"{field} too short": (field, lambda values: values[1:]) for field in LISTS[:4]},
    "threshold 1e9": ("threshold", 1e9),
    "threshold 0": ("threshold", 0.0),
    "threshold negative": ("threshold", -1.0),
    "threshold of other distances": ("threshold", lambda threshold: 1.001 * threshold),
    "quantile 0": ("quantile", 0.0),
    "quantile 1": ("quantile", 1.0),
    "a deviation 0": ("feature_deviation", first_is(0.0)),
    "a deviation negative": ("feature_deviation", first_is(-1.0)),
    "correlation not symmetric": (
        "correlation",
        lambda rows: [[1.0, 0.5, *rows[0][2:]], [0.4, *rows[1][1:]], *rows[2:]],
    ),
    "correlation above 1": ("correlation", lambda rows: [[1.0, 1.5, *rows[0][2:]], [1.5, *rows[1][1:]], *rows[2:]]),
    "correlation without inverse": ("correlation", lambda rows: [[1.0] * len(rows)] * len(rows)),
    "correlation with other diagonal": ("correlation", first_is(0.5)),
    "correlation a list": ("correlation", lambda rows: rows[0]),
    "a share above 1": ("false_alarms.shares", first_is(1.5)),
    "a share negative": ("false_alarms.shares", first_is(-0.5)),
    "a patient without share": ("false_alarms.shares", lambda shares: shares[1:]),
    "no alarm where there are": ("false_alarms.flagged", -1),
    "more patients": ("false_alarms.patients", 600),
    "other weights": ("weights_sha256", "0" * 64),
    "weights unnamed": ("weights_sha256", None),
}


@pytest.mark.parametrize("tampered", TAMPERED)
def test_a_tampered_file_is_refused_by_file_and_field(tampered: str, fitted: Path, tmp_path: Path):
    field, value = TAMPERED[tampered]
    content = json.loads(Path(sidecar_path(str(fitted), "familiarity")).read_text())
    *outer, last = field.split(".")
    place = content[outer[0]] if outer else content
    place[last] = value(place[last]) if callable(value) else value
    (tmp_path / "familiarity.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"familiarity.json: field '{field}' "):
        read_detector(str(tmp_path / "familiarity.json"), str(fitted))


@pytest.mark.parametrize("field", ["weights_sha256", "threshold", "correlation", "left_out_distances", "false_alarms"])
def test_a_file_without_a_field_is_named(field: str, fitted: Path, tmp_path: Path):
    content = json.loads(Path(sidecar_path(str(fitted), "familiarity")).read_text())
    content.pop(field)
    (tmp_path / "familiarity.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"familiarity.json: lacks field '{field}"):
        read_detector(str(tmp_path / "familiarity.json"), str(fitted))


def test_a_file_without_its_weights_is_refused(fitted: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="none.pth: no such weights"):
        read_detector(sidecar_path(str(fitted), "familiarity"), str(tmp_path / "none.pth"))
