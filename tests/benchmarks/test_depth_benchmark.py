"""The benchmark of the depth that two views leave open."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

import pytest
import torch

from phantoms import phantom
from scripts import BiplanarGeometry, IntervalTable, hu_to_attenuation, project

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from depth import ARRANGEMENTS, Case, ball, crossings, crossings_in_lungs, depth_figure, rows, with_balls  # noqa: E402

CONE = BiplanarGeometry(detector_pixels=64)
PARALLEL = BiplanarGeometry(source_to_isocentre_mm=inf, source_to_detector_mm=inf, detector_pixels=64)


def test_crossings_lie_on_two_rays_of_each_view():
    places = crossings(CONE, (90.0, -70.0), (-40.0, 60.0))
    for (frontal, lateral), (x, y) in places.items():
        for view, ray in ((0, frontal), (1, lateral)):
            through = [(90.0, 0.0, 0.0), (-70.0, 0.0, 0.0)] if view == 0 else [(0.0, -40.0, 0.0), (0.0, 60.0, 0.0)]
            assert CONE.projected_point((x, y, 0.0), view) == pytest.approx(
                CONE.projected_point(through[ray], view), abs=1e-9
            )
    assert len(set(places.values())) == 4


def test_the_arrangements_cast_the_same_shadows_in_a_parallel_beam():
    places = crossings(PARALLEL, (90.0, -90.0), (-45.0, 45.0))
    air = torch.full((1, 32, 32, 32), -1000.0)
    cts = (
        with_balls(air, 360.0, [places[at] for at in ARRANGEMENTS[name]], 30.0, 40.0) for name in ("first", "second")
    )
    first, second = (project(hu_to_attenuation(hu)[None], PARALLEL) for hu in cts)
    assert first.max() > 0.1
    torch.testing.assert_close(first, second)


def test_a_ball_has_its_volume_and_its_hu():
    share = ball(64, 360.0, (20.0, -30.0), 40.0)
    assert float(share.sum()) * (360 / 64) ** 3 == pytest.approx(4 / 3 * torch.pi * 40**3, rel=0.01)
    hu = with_balls(torch.full((1, 64, 64, 64), -850.0), 360.0, [(20.0, -30.0)], 40.0, 40.0)
    assert hu.max() == 40 and hu[0][share == 0].eq(-850).all()


def test_balls_are_put_into_lungs_or_refused():
    hu = phantom(96, 0.0)
    places = crossings_in_lungs(hu, CONE, 10.0)
    assert all(hu[ball(96, 360.0, place, 10.0) > 0.5].float().mean() < -600 for place in places.values())
    with pytest.raises(ValueError, match="expected 0.8 for each"):
        crossings_in_lungs(torch.full((96, 96, 96), 40.0), CONE, 10.0)


def test_the_rows_tell_balls_that_were_not_seen_from_those_that_were():
    places = crossings(PARALLEL, (90.0, -90.0), (-45.0, 45.0))
    lung = torch.full((1, 32, 32, 32), -800.0)
    cts = {
        name: with_balls(lung, 360.0, [places[at] for at in balls], 40.0, 0.0) for name, balls in ARRANGEMENTS.items()
    }
    volumes = {"neither": lung, "first": cts["first"], "second": lung}
    table = IntervalTable([0.0], [1000.0], 360.0, [[100.0, 100.0], [100.0, 100.0]])
    half_widths = {name: table.half_width(hu[None])[0] for name, hu in volumes.items()}
    case = Case(places, 40.0, cts, {name: torch.zeros(2, 4, 4) for name in cts}, volumes, half_widths)
    found = {(row["arrangement"], row["places"]): row for row in rows(case, 360.0)}
    assert found["first", "balls"]["covered"] == "1.00" and found["second", "balls"]["covered"] == "0.00"
    assert found["second", "balls"]["reconstructed HU"] == "-800" and found["second", "empty"]["covered"] == "1.00"
    assert len(depth_figure(case, 360.0, "phantom").axes) == 9
