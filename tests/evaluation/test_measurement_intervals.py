from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from chest_phantom import FOV_MM, chest
from phantoms import chest_imaging
from scripts import CheckpointError, InputError, MeasurementIntervalFit, MeasureVolumed
from scripts.evaluation.measurement_intervals import (
    MeasurementInterval,
    MeasurementIntervals,
    content_with_intervals,
    intervals_beside,
    read_intervals,
    write_intervals,
)
from scripts.evaluation.measurements import MEASURES, Measurements
from scripts.io.image_writer import cube_affine

ERRORS = (0.1, -0.4, 0.2, 0.0, -0.3)


@pytest.mark.parametrize(
    ("count", "wanted", "rank"), [(5, 0.9, 5), (1, 0.9, 1), (9, 0.9, 9), (19, 0.9, 18), (19, 0.5, 10), (20, 0.9, 19)]
)
def test_the_level_is_what_so_many_patients_attain(count: int, wanted: float, rank: int):
    """ceil((n + 1) level) of n, all of them where that is more; 9 is the first number that attains 0.9."""
    interval = MeasurementInterval(tuple(float(error) for error in range(count)), wanted)
    assert interval.rank == rank and interval.level == rank / (count + 1)
    assert interval.half_width == rank - 1
    assert (interval.level >= wanted) == (count + 1 >= 1 / (1 - wanted) - 1e-9)


@pytest.mark.parametrize(("count", "wanted"), [(5, 0.9), (9, 0.9), (12, 0.7)])
def test_of_exchangeable_errors_the_stated_fraction_is_held(count: int, wanted: float):
    """Skewed errors of a bias, 20 000 times; continuous ones are held with exactly that probability."""
    errors = np.random.default_rng(0).gamma(1.5, size=(20_000, count + 1)) - 0.7
    intervals = [MeasurementInterval(tuple(row[:-1]), wanted) for row in errors]
    held = np.mean([abs(row[-1]) <= interval.half_width for row, interval in zip(errors, intervals)])
    assert held == pytest.approx(intervals[0].level, abs=0.01)


def measurements(**values: float) -> Measurements:
    found = {each.key: values.get(each.key) for each in MEASURES}
    return Measurements(found, {key: "Not seen." for key, value in found.items() if value is None})


def test_an_interval_lies_about_its_figure_and_not_below_what_can_be():
    intervals = MeasurementIntervals({key: MeasurementInterval(ERRORS, 0.9) for key in ("lungs_l", "left_lung_l")})
    content = content_with_intervals(measurements(lungs_l=5.0, left_lung_l=0.3, body_l=20.0), intervals)
    rows = {row["key"]: row for row in content["measurements"]}
    assert rows["lungs_l"]["interval"] == pytest.approx([4.6, 5.4])
    assert (rows["lungs_l"]["interval_level"], rows["lungs_l"]["interval_patients"]) == (5 / 6, 5)
    assert rows["left_lung_l"]["interval"] == pytest.approx([0.0, 0.7])
    assert rows["body_l"]["interval"] is None and rows["right_lung_l"]["interval"] is None
    assert "5 patients" in content["statement"] and "5 in 6" in content["statement"]


def test_the_statement_names_the_measurements_that_rest_on_fewer_patients():
    few = {"heart_width_mm": MeasurementInterval(ERRORS[:3], 0.9)}
    intervals = {key: MeasurementInterval(ERRORS, 0.9) for key in ("lungs_l", "body_l")}
    statement = MeasurementIntervals({**few, **intervals}).statement
    assert "5 in 6" in statement and "Heart width: 3 patients, 3 in 4." in statement


@pytest.fixture
def sidecar(tmp_path: Path) -> tuple[Path, str]:
    """The file and its weights."""
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    path = tmp_path / "model_measurements.json"
    found = MeasurementIntervals({key: MeasurementInterval(ERRORS, 0.9) for key in ("lungs_l", "body_l")})
    write_intervals(str(path), str(weights), found, 0.9, FOV_MM, 3, [{"name": "a", "licence": "CC BY 3.0"}])
    return path, str(weights)


def test_what_is_written_is_read_and_nothing_where_there_is_no_file(sidecar: tuple[Path, str]):
    path, weights = sidecar
    assert intervals_beside(weights, FOV_MM).of["body_l"] == MeasurementInterval(ERRORS, 0.9)
    path.unlink()
    assert intervals_beside(weights, FOV_MM) is None


def of(key: str, **values: Any) -> Callable[[dict], None]:
    return lambda content: content["measurements"][key].update(values)


HOSTILE = {
    "a smaller half-width": (of("lungs_l", half_width=0.1), "measurements.lungs_l.half_width"),
    "a higher level": (of("lungs_l", level=0.9), "measurements.lungs_l.level"),
    "more patients": (of("lungs_l", patients=50), "measurements.lungs_l.patients"),
    "another definition": (of("body_l", definition="weight"), "measurements.body_l.definition"),
    "no errors": (of("body_l", errors=[]), "measurements.body_l.errors"),
    "an error that is text": (of("body_l", errors=["1"]), "measurements.body_l.errors"),
    "an error that is not finite": (of("body_l", errors=[float("nan")] * 5), "measurements.body_l.errors"),
    "an unknown measurement": (lambda content: content["measurements"].update(soul_g={}), "measurements"),
    "a measurement that is none": (lambda content: content["measurements"].update(body_l=3), "body_l.definition"),
    "no measurements": (lambda content: content.update(measurements={}), "measurements"),
    "a list of them": (lambda content: content.update(measurements=[1]), "measurements"),
    "a level of 1": (lambda content: content.update(wanted_level=1.0), "wanted_level"),
    "another field of view": (lambda content: content.update(fov_mm=320.0), "fov_mm"),
    "other weights": (lambda content: content.update(weights_sha256="0" * 64), "weights_sha256"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_does_not_agree_with_itself_or_its_weights_is_refused(sidecar: tuple[Path, str], name: str):
    path, weights = sidecar
    content = json.loads(path.read_text(encoding="utf-8"))
    change, field = HOSTILE[name]
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_intervals(str(path), weights, FOV_MM)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and field in message
    assert "configs/measurement_intervals.json" in message and "move this file away" in message


def scaled(hu: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(hu)[None, None]


def test_a_fit_takes_each_patients_largest_error(tmp_path: Path):
    """Patient a has two cases, of lungs 20 and 40 HU too dense, b one of 10 HU."""
    weights, imaging = tmp_path / "model.pt", chest_imaging(64)
    weights.write_bytes(b"weights")
    truth = chest(64)

    def denser(by: float) -> torch.Tensor:
        return scaled(np.where(truth < -800, np.maximum(truth + by, -1024), truth).astype(np.float32))

    def record(name: str, patient: str) -> dict[str, str]:
        return {"name": name, "patient": patient}

    path = tmp_path / "model_measurements.json"
    cases = ((20, "a1", "a"), (40, "a2", "a"), (10, "b1", "b"))
    sources = [{**record(name, patient), "licence": "CC BY 3.0", "ct": "x"} for _, name, patient in cases]
    fit = MeasurementIntervalFit(imaging, 0.9, str(path), str(weights), 3, [*sources, record("not measured", "c")])
    for by, name, patient in cases:
        fit.take(denser(by), scaled(truth), [record(name, patient)])
    fit.finish(None)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["records"] == [{"name": name, "licence": "CC BY 3.0"} for name in ("a1", "a2", "b1")]
    found = intervals_beside(str(weights), FOV_MM).of["lung_density_hu"]
    assert found.errors == pytest.approx((40, 10), abs=1.5) and found.level == 2 / 3
    measured = MeasureVolumed(intervals_beside(str(weights), FOV_MM))
    row = measured({"pred": MetaTensor(scaled(truth)[0], affine=cube_affine(64, FOV_MM))})["measurements"]
    density = next(each for each in row["measurements"] if each["key"] == "lung_density_hu")
    assert density["interval"] == pytest.approx([density["value"] - 40, density["value"] + 40], abs=1.5)


def test_a_fit_without_a_chest_says_so_and_writes_nothing(tmp_path: Path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    fit = MeasurementIntervalFit(chest_imaging(64), 0.9, str(tmp_path / "m.json"), str(weights), 3, [])
    nothing = torch.full((1, 1, 16, 16, 16), -1000.0)
    fit.take(nothing, nothing, [{"name": "a", "patient": "a"}])
    with pytest.raises(InputError, match="no measurement could be taken .* of 1 cases"):
        fit.finish(None)
    assert not (tmp_path / "m.json").exists()
