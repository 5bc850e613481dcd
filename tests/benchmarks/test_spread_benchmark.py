from __future__ import annotations

import sys

import pytest
import torch

from bundle_runs import ROOT
from phantoms import phantom

sys.path.insert(0, str(ROOT / "benchmarks"))
import spread  # noqa: E402


def patient(seed: int) -> spread.Patient:
    """A phantom whose error is normal, with a deviation that the spread names but for a factor of two in bone."""
    noise = torch.Generator().manual_seed(seed)
    truth = phantom(32, 0.02 * seed)[None, None]
    deviation = 20 + 180 * torch.rand(truth.shape, generator=noise)
    hu = truth + deviation * torch.where(truth > 500, 2, 1) * torch.randn(truth.shape, generator=noise)
    return spread.Patient.of(hu, truth, deviation, fov_mm=360.0)


def covered(widths: spread.Widths, other: spread.Patient, part: torch.Tensor) -> float:
    return (other.error <= widths(other))[part].float().mean().item()


def test_widths_by_the_spread_and_by_its_table_hold_ninety_per_cent_of_another_patient(monkeypatch):
    """Where the spread is widest, too: in the last bin of the table that has voxels."""
    monkeypatch.setattr(spread, "MIN_VOXELS", 50)
    others, left_out = [patient(1), patient(2)], patient(3)
    factor = spread.by_tissue(lambda each: each.spread, others)
    table = spread.binned(((-300.0, 150.0), spread.SPREAD_EDGES), lambda each: (each.hu, each.spread), others)
    for widths in (factor, table):
        assert covered(widths, left_out, left_out.body) == pytest.approx(0.9, abs=0.02)
    wide = left_out.spread > 180
    assert covered(factor, left_out, left_out.body & wide) == pytest.approx(0.9, abs=0.04)
    assert covered(table, left_out, left_out.body & wide) == pytest.approx(0.9, abs=0.04)


def test_the_tissue_is_that_which_the_reconstruction_shows():
    left_out = patient(1)
    left_out.hu = torch.tensor([-1000.0, -300.0, -299.0, 150.0, 151.0])
    assert spread.tissue_of(left_out).tolist() == [0, 0, 1, 1, 2]
