from __future__ import annotations

import numpy as np
import pytest

from scripts.radiographs.characteristic_curve import CharacteristicCurve


@pytest.mark.parametrize("floor", [-0.1, 0.0, 0.2])
@pytest.mark.parametrize("integrals", [(0.5, 4.0), (1.0, 1.3)])
def test_a_curve_goes_through_its_two_points(floor: float, integrals: tuple[float, float]):
    values = (0.3, 0.8)
    curve = CharacteristicCurve.through(floor, values, tuple(np.log(integrals)))
    np.testing.assert_allclose(curve.line_integrals(np.array(values)), integrals, rtol=1e-9)
    assert curve.line_integrals(np.array([floor, floor - 1])).tolist() == [0, 0]


def test_a_curve_through_points_in_proportion_has_gamma_1():
    curve = CharacteristicCurve.through(0.1, (0.3, 0.7), (np.log(1.0), np.log(3.0)))
    assert (curve.scale, curve.gamma) == (pytest.approx(5.0), pytest.approx(1.0))


def test_the_identity_leaves_values_as_they_are():
    values = np.linspace(0, 9, 30).reshape(5, 6)
    np.testing.assert_array_equal(CharacteristicCurve(1.0, 0.0, 1.0).line_integrals(values), values)
