from __future__ import annotations

import pytest
import torch

from scripts import attenuation_to_hu, hu_to_attenuation
from scripts.projection.attenuation import WATER_ATTENUATION_PER_MM


def test_water_is_zero_hu_and_air_minus_a_thousand():
    mu = torch.tensor([0.0, WATER_ATTENUATION_PER_MM, 2 * WATER_ATTENUATION_PER_MM], dtype=torch.float64)
    torch.testing.assert_close(attenuation_to_hu(mu), torch.tensor([-1000.0, 0.0, 1000.0], dtype=torch.float64))
    torch.testing.assert_close(hu_to_attenuation(torch.tensor([-1000.0, 0.0, 1000.0], dtype=torch.float64)), mu)


def test_ten_centimetres_of_water_attenuate_by_the_nist_coefficient():
    line_integral = hu_to_attenuation(torch.zeros((), dtype=torch.float64)) * 100
    assert line_integral.item() == pytest.approx(0.2059 * 10, rel=1e-3)


def test_hu_and_attenuation_are_inverse_above_air():
    hu = torch.linspace(-1000, 3000, 101, dtype=torch.float64)
    torch.testing.assert_close(attenuation_to_hu(hu_to_attenuation(hu)), hu)


def test_nothing_attenuates_less_than_air():
    assert torch.equal(hu_to_attenuation(torch.tensor([-1024.0, -3024.0])), torch.zeros(2))
