from __future__ import annotations

import numpy as np
import pytest

from scripts.radiographs.scatter import LEAST_TRANSMISSION, with_scatter, without_scatter

PIXEL_MM = 5.0
SIDE = (np.arange(60) - 29.5) / 30
LINE_INTEGRALS = 5.0 * np.exp(-((SIDE[:, None] / 0.7) ** 2) - (SIDE - 0.2) ** 2 / 0.2) + 0.5 * (SIDE > 0.4)
"""A body off the middle, and an edge; all of its transmission is above the floor."""


@pytest.mark.parametrize("width_mm", [20.0, 40.0, 80.0])
@pytest.mark.parametrize("ratio", [0.1, 0.6, 1.5])
def test_removing_scatter_undoes_adding_it(ratio: float, width_mm: float):
    scattered = with_scatter(LINE_INTEGRALS, ratio, width_mm, PIXEL_MM)
    assert np.abs(scattered - LINE_INTEGRALS).max() > 0.1
    found = without_scatter(scattered, ratio, width_mm, PIXEL_MM)
    np.testing.assert_allclose(found, LINE_INTEGRALS, atol=1e-3)


def test_a_ratio_of_0_is_the_identity():
    for change in (with_scatter, without_scatter):
        np.testing.assert_allclose(change(LINE_INTEGRALS, 0.0, 40.0, PIXEL_MM), LINE_INTEGRALS, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 1.0, 4.0])
def test_a_constant_field_stays_as_it_is(level: float):
    field = np.full((40, 30), level)
    for change in (with_scatter, without_scatter):
        np.testing.assert_allclose(change(field, 0.8, 40.0, PIXEL_MM), field, atol=1e-9)


def test_scatter_lightens_what_is_thick():
    """A small absorber in the open beam, of which scatter fills all but the primary's share 1 / (1 + r)."""
    field = np.zeros((61, 61))
    field[30, 30] = 20.0
    ratio = 0.5
    assert with_scatter(field, ratio, 80.0, PIXEL_MM)[30, 30] == pytest.approx(-np.log(ratio / (1 + ratio)), rel=0.01)


def test_no_line_integral_is_beyond_the_least_transmission():
    field = np.full((20, 20), 30.0)
    assert without_scatter(field, 0.5, 20.0, PIXEL_MM).max() == pytest.approx(-np.log(LEAST_TRANSMISSION))
