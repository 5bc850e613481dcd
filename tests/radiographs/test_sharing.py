from __future__ import annotations

import numpy as np
import pytest

from phantoms import asymmetric_body
from scripts import BiplanarGeometry, project
from scripts.projection.consistency import EpipolarPlanes
from scripts.radiographs.sharing import LARGEST, shares

GEOMETRY = BiplanarGeometry(detector_pixels=128)
PLANES = EpipolarPlanes(GEOMETRY, 161)
XRAYS = project(asymmetric_body(64), GEOMETRY)[0].numpy()
WITH_BODY = PLANES.integrals(XRAYS).min(0) > 0.05
"""Planes that hold more than the tip of the body, whose integrals say something."""


def factors(xrays: np.ndarray) -> np.ndarray:
    return shares(xrays, PLANES, PLANES.slopes, np.ones(len(PLANES.slopes)), GEOMETRY)


def relative(xrays: np.ndarray) -> np.ndarray:
    frontal, lateral = PLANES.integrals(xrays)[:, WITH_BODY]
    return np.abs(frontal - lateral) / ((frontal + lateral) / 2)


def with_fall(strength: float) -> np.ndarray:
    """The lateral view is multiplied by a smooth function of height, as the heel effect does it."""
    rows = np.linspace(-1, 1, GEOMETRY.detector_pixels)
    return XRAYS * np.stack([np.ones_like(rows), np.exp(strength * np.sin(2.5 * rows))])[..., None]


def test_both_views_agree_in_every_plane_after_the_factors():
    fallen = with_fall(0.25)
    assert relative(fallen).max() > 0.2
    assert relative(fallen * factors(fallen)).max() < 0.01


def test_a_consistent_pair_is_left_as_it_is():
    np.testing.assert_allclose(factors(XRAYS), 1.0, atol=0.005)


def test_the_difference_is_halved_between_the_views():
    doubled = XRAYS * np.array([1.0, 1.2])[:, None, None]
    middle = GEOMETRY.detector_pixels // 2
    found = factors(doubled)[:, middle, middle]
    np.testing.assert_allclose(found, [np.sqrt(1.2), 1 / np.sqrt(1.2)], rtol=0.002)


def test_no_more_than_the_largest_difference_is_shared_out():
    found = factors(with_fall(2.0))
    assert np.abs(np.log(found)).max() == pytest.approx(LARGEST / 2, rel=1e-6)
