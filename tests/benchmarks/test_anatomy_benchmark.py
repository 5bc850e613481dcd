from __future__ import annotations

import sys

import pytest
import torch

from bundle_runs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import anatomy  # noqa: E402


def test_the_difference_is_that_of_both_windows():
    """Water and air differ by all of 1000 of 1200 HU in one window, and by nothing in that of bone."""
    water, air = (torch.full((1, 1, 48, 48, 48), hu) for hu in (0.0, -1000.0))
    assert anatomy.difference(water, air) == pytest.approx((1000 / 1200) ** 2 / 2, rel=1e-5)
