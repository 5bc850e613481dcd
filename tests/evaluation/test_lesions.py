"""Planted lesions: where they lie, what the filter answers, and what the report says of volumes that are known."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle_runs import ROOT, bundle_run_here
from scripts import BiplanarGeometry, ImagingModel, InputError, LesionReport, PlantedRecords, demo_ct
from scripts.evaluation.lesion_filter import (
    FALSE_HU,
    LungFilter,
    ball,
    count_peaks,
    grid_for,
    matched_filter,
    of_lesion,
)
from scripts.evaluation.lesions import GAP_MM, draw_places, lesions_of
from scripts.reporting.lesion_report import TRUTH, VISIBLE, smallest_visible

sys.path.insert(0, str(ROOT))

from launcher.tables import print_lesions  # noqa: E402

FOV_MM = 360.0
KINDS = lesions_of([24.0, 32.0], [-100.0, 100.0])
RECORD = {"name": "chest", "patient": "chest", "group": "test"}


def middles(size: int, voxel_mm: float) -> torch.Tensor:
    return (torch.arange(size) + 0.5 - size / 2) * voxel_mm


def ball_at(place_mm: tuple[float, float, float], diameter_mm: float, size: int = 48, voxel_mm: float = 2.0):
    return ball([middles(size, voxel_mm) - at for at in place_mm], diameter_mm, voxel_mm)


@pytest.fixture(scope="module")
def planted(chest_hu: torch.Tensor) -> PlantedRecords:
    return PlantedRecords([RECORD], lambda record: {**record, "ct": chest_hu}, KINDS, FOV_MM, 3, seed=0)


def test_places_lie_within_the_lungs_and_no_ray_meets_two():
    lungs = np.zeros((40, 40, 80), bool)
    lungs[5:35, 5:35, 5:75] = True
    places = draw_places(lungs, 3.0, 24.0, 4, seed=1)
    assert len(places) == 4
    levels = np.sort(places[:, 2])
    assert (np.diff(levels) >= 24.0 + GAP_MM).all()
    for place in places:
        inside = ball([middles(size, 3.0) - at for size, at in zip(lungs.shape, place)], 24.0, 3.0)
        assert (inside > 0.5)[~lungs].sum() == 0
    assert np.array_equal(places, draw_places(lungs, 3.0, 24.0, 4, seed=1))
    assert not np.array_equal(places, draw_places(lungs, 3.0, 24.0, 4, seed=2))


def test_there_are_fewer_places_where_no_more_fit_and_none_in_a_space_too_small():
    lungs = np.zeros((40, 40, 40), bool)
    lungs[5:35, 5:35, 15:25] = True
    assert draw_places(lungs, 3.0, 12.0, 4, seed=0).shape == (1, 3)
    assert draw_places(lungs, 3.0, 33.0, 4, seed=0).shape == (0, 3)


def test_a_case_comes_as_it_is_and_then_differs_in_its_balls_alone(planted: PlantedRecords, chest_hu: torch.Tensor):
    samples = [planted[index] for index in range(len(planted))]
    assert [sample["lesion"] for sample in samples] == [-1, 0, 1, 2, 3]
    assert torch.equal(samples[0]["ct"], chest_hu)
    voxel = FOV_MM / 64
    for sample, kind in zip(samples[1:], KINDS):
        inside = sum(
            ball([middles(64, voxel) - at for at in place], kind.diameter_mm, voxel)
            for place in sample["places_mm"].numpy()
        )
        expected = chest_hu[0] + torch.from_numpy(inside) * (kind.hu - chest_hu[0])
        torch.testing.assert_close(sample["ct"][0], expected, rtol=0, atol=1e-2)
        assert (chest_hu[0][inside > 0.5] < -600).double().mean() > 0.8  # they lie in lung
    assert torch.equal(samples[1]["places_mm"], samples[2]["places_mm"])
    assert not torch.equal(samples[1]["places_mm"], samples[3]["places_mm"])


def test_what_has_no_lungs_is_named_with_the_reason():
    block = torch.full((1, 64, 64, 64), -1000.0)
    block[:, 16:48, 16:48] = 40.0
    with pytest.raises(InputError, match=r"none of 1 case\(s\) has lungs .*chest: \w"):
        PlantedRecords([RECORD], lambda record: {**record, "ct": block}, KINDS, FOV_MM, 3, seed=0)


@pytest.mark.parametrize("diameter", [12.0, 20.0, 31.0])
def test_the_filter_answers_the_contrast_of_its_ball_and_nothing_of_an_even_or_sloping_ground(diameter: float):
    axis = middles(81, 1.0)
    kernel = matched_filter([axis] * 3, diameter, 1.0)
    slope = axis[:, None, None] + 2 * axis[None, :, None] - axis
    assert abs((kernel * (slope.numpy() + 55.0)).sum()) < 1e-3
    seen = (kernel * 300.0 * ball([axis] * 3, diameter, 1.0)).sum()
    assert seen == pytest.approx(300.0, rel=0.1)  # voxels on the surface are in part ground


def test_retained_is_the_share_of_the_contrast_that_came_through():
    lesion = 500.0 * ball_at((4.0, -8.0, 6.0), 20.0)
    elsewhere = 500.0 * ball_at((-30.0, -8.0, 6.0), 12.0)
    for change, share in ((lesion, 1.0), (0.3 * lesion, 0.3), (0 * lesion, 0.0), (0.3 * lesion + elsewhere, 0.3)):
        found = of_lesion(change, lesion, (4.0, -8.0, 6.0), 20.0, 96.0)
        assert found["retained"] == pytest.approx(share, abs=1e-6)
    whole = of_lesion(lesion, lesion, (4.0, -8.0, 6.0), 20.0, 96.0)["response_hu"]
    assert of_lesion(0.3 * lesion, lesion, (4.0, -8.0, 6.0), 20.0, 96.0)["response_hu"] == pytest.approx(0.3 * whole)


def test_every_structure_that_the_ground_truth_has_not_is_counted_once():
    truth = np.full((48, 48, 48), -850.0)
    lungs = np.zeros((48, 48, 48), bool)
    lungs[4:44, 4:44, 4:44] = True
    real, first, second, faint = (
        ball_at(place, 16.0) for place in ((20, 20, 20), (-20, 20, 0), (0, -20, -18), (20, -20, 18))
    )
    truth += 900.0 * real
    volume = truth + 800.0 * first + 700.0 * second + 0.8 * FALSE_HU * faint
    sought = LungFilter(truth, lungs, 16.0, 96.0)
    found = sought.response(volume)
    assert found.false_lesions == 2
    assert sought.response(truth).false_lesions == 0
    assert found.deviation_hu > 0


def test_a_plateau_is_one_peak_and_two_far_apart_are_two():
    values = np.zeros((30, 30, 30))
    values[5:7, 5:7, 5:7] = values[20, 20, 20] = FALSE_HU
    everywhere = np.ones(values.shape, bool)
    assert count_peaks(values, everywhere, 4.0) == 2
    assert count_peaks(values - 1, everywhere, 4.0) == 0
    everywhere[20, 20, 20] = False
    assert count_peaks(values, everywhere, 4.0) == 1


def test_a_large_lesion_is_looked_for_on_a_coarse_grid_and_a_small_one_on_the_finest():
    assert [grid_for(diameter, 360.0, 256) for diameter in (6, 10, 16, 24, 32)] == [256, 256, 128, 64, 64]


def test_the_smallest_visible_is_that_above_which_all_are():
    def entry(method: str, diameter: float, detectability: float) -> dict:
        return {"method": method, "diameter_mm": diameter, "detectability": {"mean": detectability}}

    rows = [entry("a", 6, VISIBLE), entry("a", 10, 1), entry("a", 16, VISIBLE), entry("a", 24, 9)]
    assert smallest_visible([*rows, entry("b", 6, 9), entry("b", 24, 1), entry("c", 24, float("nan"))]) == {
        "a": 16,
        "b": None,
        "c": None,
    }


def test_a_perfect_volume_keeps_all_and_one_that_sees_no_lesion_nothing(
    planted: PlantedRecords, geometry: BiplanarGeometry, tmp_path: Path
):
    imaging = ImagingModel(geometry, (-1024, 1024), 8.0)
    report = LesionReport(str(tmp_path), imaging, planted)
    rows = []
    for index in range(len(planted)):
        sample = planted[index]
        truth = imaging.scale(sample["ct"][None])
        blind = imaging.scale(planted[0]["ct"][None])
        rows += report.case_rows(sample, [blind, truth], {"ct": truth})
    report.write_files(rows)
    content = json.loads((tmp_path / "lesions.json").read_text())
    assert len(list(csv.DictReader((tmp_path / "lesions.csv").open()))) == len(rows) == len(content["cases"])
    assert (tmp_path / "lesions.png").stat().st_size > 10_000
    found = {name: [row for row in rows if row["method"] == name] for name in ("stage 1", "stage 2", TRUTH)}
    assert all(row["retained"] == 0 and row["detectability"] == 0 for row in found["stage 1"])
    assert all(row["retained"] == pytest.approx(1) for row in found["stage 2"])
    assert all(row["false_lesions"] == 0 for row in rows)
    for ours, theirs in zip(found["stage 2"], found[TRUTH]):
        assert ours["detectability"] == pytest.approx(theirs["detectability"])
    assert content["smallest_visible_mm"]["stage 1"] is None
    assert {row["zone"] for row in rows} == {"lower", "middle", "upper"}


def test_the_workflow_scores_a_chest_and_the_launcher_tells_it(
    tiny_bundle: Path, overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    shutil.copyfile(demo_ct(), tmp_path / "chest.nii.gz")
    configs = [f"bundle/configs/{name}.json" for name in ("train", "evaluate", "lesions")]
    places = {
        "dataset_dir": tmp_path,
        "weights": tiny_bundle / "models" / "model.pt",
        "output_dir": tmp_path / "output",
    }
    few = {"lesion_diameters_mm": [24, 32], "lesion_hu": [0], "lesions_together": 2}
    bundle_run_here("run", [*configs, str(overlay)], **places, **few)
    report = json.loads((tmp_path / "output" / "lesions.json").read_text())
    methods = ["stage 1", "stage 2", "stage 3", "ground truth at 16³", "ground truth at 32³", TRUTH]
    keys = [(entry["method"], entry["diameter_mm"]) for entry in report["summary"]]
    assert sorted(keys) == sorted((method, diameter) for method in methods for diameter in (24, 32))
    capsys.readouterr()
    print_lesions(report)
    printed = capsys.readouterr().out
    for name, heading, digits in (("retained", "contrast that is retained", 2), ("detectability", "detectability", 1)):
        head, *rows = printed.split(f"\n{heading} ")[1].splitlines()[: len(methods) + 1]
        assert head.split() == ["24", "mm", "32", "mm"]
        for method, row in zip(methods, rows):
            means = [
                next(
                    entry[name]["mean"]
                    for entry in report["summary"]
                    if (entry["method"], entry["diameter_mm"]) == (method, diameter)
                )
                for diameter in (24, 32)
            ]
            assert row.split() == [*method.split(), *(f"{mean:.{digits}f}" for mean in means)]
