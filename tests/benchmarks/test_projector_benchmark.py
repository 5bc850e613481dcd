"""The benchmark's tables are complete, and it measures projectors that make the same projection."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bundle_runs import ROOT
from scripts import BiplanarGeometry, project

sys.path.insert(0, str(ROOT / "benchmarks"))

import measure  # noqa: E402
import projector as benchmark  # noqa: E402
from peers import beam, plain_slice_stack  # noqa: E402


def is_here(name: str) -> bool:
    return benchmark.runs_here(name, "cpu")


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_tables_have_a_row_for_each_projector_and_a_number_in_each_cell():
    command = [sys.executable, "benchmarks/projector.py", "--quick", "--threads", "1", "--only", benchmark.PLAIN]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    heading, *projections, lift_heading, lift = rows_of(run.stdout)
    assert [row[:3] for row in projections] == [["32³ to 64²", name, "2"] for name in (benchmark.OURS, benchmark.PLAIN)]
    assert len(heading) == len(projections[0]) == len(projections[1])
    assert len(lift_heading) == len(lift)
    times_and_start = [cell for row in projections for cell in row[3:9]] + lift[1:5]
    assert all(float(cell.rstrip("%")) >= 0 for cell in times_and_start)  # a busy machine rounds to 0
    assert projections[0][4] == projections[0][6] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"kind": "projection", "projector": benchmark.OURS, "views": 2}, {"kind": "lift"}])
def test_a_process_of_its_own_has_the_figures_of_this_one(case: dict):
    channels = {"channels": 4} if case["kind"] == "lift" else {}
    case = {**case, **channels, "size": 16, "device": "cpu", "budget": 0.0}
    assert benchmark.in_a_process_of_its_own(**case).keys() == benchmark.in_this_process(**case).keys()


def test_the_table_knows_what_is_measured():
    assert benchmark.PEERS.keys() == measure.PEERS.keys()
    assert (benchmark.OURS, benchmark.PLAIN) == (measure.OURS, measure.PLAIN)


@pytest.mark.parametrize("name", [benchmark.OURS, benchmark.PLAIN, *benchmark.PEERS])
@pytest.mark.parametrize("views", [1, 2])
def test_every_projector_can_be_measured(name: str, views: int):
    if name != benchmark.OURS and not is_here(name):
        pytest.skip(f"{name} is not installed, or needs a GPU")
    result = measure.measure(kind="projection", projector=name, size=16, views=views, device="cpu", budget=0.0)
    assert result["forward_s"] > 0
    assert result["start_mib"] > 0
    assert result["forward_added_mib"] >= 0
    assert ("both_s" in result) == (name != measure.RTK)


@pytest.mark.parametrize(("name", "limit"), [(n, 0.03 if "Siddon" in n else 0.002) for n in benchmark.PEERS])
def test_what_is_measured_makes_the_same_projection(name: str, limit: float):
    """Of a smooth body; Siddon's voxels are constant, and here large."""
    if not is_here(name):
        pytest.skip(f"{name} is not installed, or needs a GPU")
    geometry = BiplanarGeometry(detector_pixels=64)
    projections = project(body(64), geometry)[0]
    for view in (0, 1):
        projection = measure.PEERS[name](body(64), geometry.fov_mm, beam(geometry, view))
        assert (projection - projections[view]).norm() < limit * projections[view].norm()


def test_the_plain_slice_stack_is_our_projection_to_rounding():
    geometry = BiplanarGeometry(detector_pixels=64)
    mu = torch.rand(1, 1, 33, 33, 33, dtype=torch.float64)
    plain = torch.stack([plain_slice_stack(mu, geometry, view) for view in (0, 1)])
    torch.testing.assert_close(plain[None], project(mu, geometry), rtol=1e-10, atol=1e-10)


def body(size: int) -> torch.Tensor:
    axis = torch.linspace(-1, 1, size)
    return torch.exp(-8 * (axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - 0.1) ** 2))[None, None]


def test_a_median_is_of_three_runs_and_a_long_run_is_the_only_one():
    runs = []
    measure.median_seconds(lambda: runs.append(1), "cpu", budget=1e-9)
    assert len(runs) == 1
    measure.median_seconds(lambda: runs.append(1), "cpu", budget=0.05)
    assert len(runs) >= 1 + 1 + 3
