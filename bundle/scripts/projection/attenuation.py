"""Hounsfield units and linear attenuation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

AIR_HU = -1000.0
WATER_ATTENUATION_PER_MM = 0.02059
"""Linear attenuation of water at 60 keV, near the mean energy of a chest X-ray: 0.2059 cm²/g (NIST XCOM)."""


def hu_to_attenuation(hu: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """
    Linear attenuation in 1/mm from Hounsfield units: ``mu = mu_water * (1 + HU / 1000)``, the definition of the
    Hounsfield scale with air at zero. What lies below air (padding at -1024 and less) is air.
    """
    return (WATER_ATTENUATION_PER_MM * (1 + hu / 1000)).clamp(min=0)


def attenuation_to_hu(mu: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Hounsfield units from linear attenuation in 1/mm, the inverse of :func:`hu_to_attenuation` above air."""
    return 1000 * (mu / WATER_ATTENUATION_PER_MM - 1)
