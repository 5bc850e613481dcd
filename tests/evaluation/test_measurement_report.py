from __future__ import annotations

import json
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from chest_phantom import FOV_MM, chest
from phantoms import chest_imaging
from scripts import Baselines
from scripts.evaluation.measurement_coverage import coverage_by_group
from scripts.evaluation.measurement_intervals import MeasurementInterval, MeasurementIntervals
from scripts.evaluation.measurement_report import (
    MeasuredVolume,
    MeasurementReport,
    dice,
    errors_of,
    limits_of_agreement,
    measured_volume,
)

SIZE = 64


@pytest.fixture(scope="module")
def truth() -> MeasuredVolume:
    return measured_volume(chest(SIZE), FOV_MM)


def test_the_ground_truth_has_no_errors_and_overlaps_with_itself(truth: MeasuredVolume):
    scores = errors_of(truth, truth)
    assert {value for name, value in scores.items() if name.endswith("_error")} == {0.0}
    assert scores["dice_lungs"] == scores["dice_bone"] == 1
    assert {scores[f"bias_{tissue}_hu"] for tissue in ("air_and_lung", "soft", "bone")} == {0.0}


def test_a_body_shifted_as_a_whole_keeps_its_measurements_and_loses_overlap(truth: MeasuredVolume):
    scores = errors_of(measured_volume(np.roll(chest(SIZE), 2, axis=0), FOV_MM), truth)
    for name, value in scores.items():
        if name.endswith("_error"):
            assert value == pytest.approx(0, abs=1e-3 if name == "lung_density_hu_error" else 0.02), name
    assert 0.5 < scores["dice_lungs"] < 0.97


def test_lungs_of_other_density_have_that_difference_as_their_signed_error(truth: MeasuredVolume):
    hu = chest(SIZE)
    denser = np.where(truth.lungs & (hu < -800), hu + 40, hu)
    scores = errors_of(measured_volume(denser, FOV_MM), truth)
    assert scores["lung_density_hu_error"] == pytest.approx(40, abs=2)
    assert 0 < scores["bias_air_and_lung_hu"] <= 41 and scores["bias_soft_hu"] == pytest.approx(0, abs=0.5)
    assert errors_of(truth, measured_volume(denser, FOV_MM))["lung_density_hu_error"] == pytest.approx(-40, abs=2)


def test_smaller_lungs_have_a_negative_error_of_what_they_lack(truth: MeasuredVolume):
    """Each lung without its outermost layer of voxels."""
    hu = chest(SIZE)
    hu[truth.lungs & ~ndimage.binary_erosion(truth.lungs)] = 30.0
    found = measured_volume(hu, FOV_MM)
    scores = errors_of(found, truth)
    lost = (truth.lungs.sum() - found.lungs.sum()) * (FOV_MM / SIZE) ** 3 / 1e6
    assert lost > 0.3 and scores["lungs_l_error"] == pytest.approx(-lost)
    assert scores["thorax_width_mm_error"] < 0 and scores["bias_air_and_lung_hu"] > 50


def test_what_cannot_be_taken_has_no_error(truth: MeasuredVolume):
    scores = errors_of(measured_volume(np.zeros((SIZE,) * 3, np.float32), FOV_MM), truth)
    assert isnan(scores["lungs_l"]) and isnan(scores["lungs_l_error"]) and scores["dice_lungs"] == 0


def test_the_limits_of_agreement_are_the_mean_and_1_96_standard_deviations():
    found = limits_of_agreement([1.0, 3.0, 5.0])
    assert found == pytest.approx({"patients": 3, "sd": 2.0, "lower_limit": 3 - 3.92, "upper_limit": 3 + 3.92})
    assert isnan(limits_of_agreement([1.0])["sd"]) and limits_of_agreement([])["patients"] == 0


def test_dice_of_halves():
    first, second = np.array([True, True, False, False]), np.array([False, True, False, True])
    assert dice(first, second) == 0.5 and isnan(dice(first & ~first, second & ~second))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Two patients: one reconstructed as it is, one with lungs 40 HU too dense; the mean volume is the first."""
    folder, imaging = tmp_path_factory.mktemp("report"), chest_imaging(SIZE)
    scaled = (torch.from_numpy(chest(SIZE))[None, None] + 1024) / 2048
    denser = torch.where(scaled < 0.15, scaled + 40 / 2048, scaled)
    baselines = Baselines([], None, 1, mean_volume_file="", imaging=imaging)
    baselines.mean = scaled
    narrow = MeasurementIntervals({"lung_density_hu": MeasurementInterval((-10.0, 20.0), 0.9)})
    report = MeasurementReport(str(folder), imaging, baselines, narrow)
    label = {"ct": scaled}
    coarse = torch.nn.functional.avg_pool3d(scaled, 2)
    rows = []
    for name, volume in {"a": scaled, "b": denser}.items():
        record = {"name": name, "patient": name, "group": "test"}
        rows += report.case_rows(record, [coarse, volume], label)
    report.write_files(rows)
    return folder, json.loads((folder / "measurement_errors.json").read_text(encoding="utf-8"))


def test_the_report_has_stages_the_ground_truth_at_their_size_and_the_mean_volume(written: tuple[Path, dict]):
    folder, content = written
    methods = [(entry["size"], entry["method"]) for entry in content["summary"]]
    expected = [(32, "stage 1"), (32, "ground truth"), (64, "stage 2"), (64, "ground truth"), (64, "mean volume")]
    assert methods == expected and (folder / "measurement_errors.csv").is_file()
    of = dict(zip(methods, content["summary"]))
    assert of[64, "ground truth"]["lungs_l_error"]["mean"] == 0
    assert of[32, "stage 1"]["lungs_l_error"] == of[32, "ground truth"]["lungs_l_error"]
    assert 0.8 < of[32, "ground truth"]["dice_lungs"]["mean"] < 1
    density = of[64, "stage 2"]["lung_density_hu_error"]
    assert density["patients"] == 2 and density["mean"] == pytest.approx(20, abs=2)
    assert density["sd"] == pytest.approx(40 / 2**0.5, abs=2)
    assert density["upper_limit"] == pytest.approx(density["mean"] + 1.96 * density["sd"])


def test_the_last_stages_intervals_are_counted_by_patients(written: tuple[Path, dict]):
    """Of half-width 20: the patient whose lungs are right is held, the one whose are 40 HU too dense is not."""
    (entry,) = written[1]["coverage"]
    assert entry.pop("group") == "test" and list(entry) == ["lung_density_hu"]
    found = entry["lung_density_hu"]
    assert (found["patients"], found["held"], found["half_width"]) == (2, 1, 20)
    assert found["level"] == pytest.approx(2 / 3) and (found["low"], found["high"]) == pytest.approx(
        (0.0126, 0.9874), abs=1e-4
    )


def test_a_patient_is_held_in_each_of_its_cases_and_counts_where_it_was_measured():
    intervals = MeasurementIntervals({"lungs_l": MeasurementInterval((0.5,), 0.9)})
    errors = [("a", 0.1), ("a", -0.6), ("b", 0.5), ("b", float("nan")), ("c", float("nan"))]
    rows = [{"patient": patient, "group": "test", "lungs_l_error": error} for patient, error in errors]
    (entry,) = coverage_by_group(rows, intervals)
    assert (entry["lungs_l"]["patients"], entry["lungs_l"]["held"]) == (2, 1)
    (nobody,) = coverage_by_group(rows[-1:], intervals)
    assert {name: nobody["lungs_l"][name] for name in ("patients", "held", "low", "high")} == {
        "patients": 0, "held": 0, "low": 0, "high": 1,
    }  # fmt: skip
