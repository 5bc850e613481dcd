"""Of projections of known bodies, spoiled in known ways, the calibration gives back the line integrals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from phantoms import asymmetric_body
from scripts import BiplanarGeometry, Radiograph, project
from scripts.io.radiograph import XRAY_KEYS
from scripts.radiographs.calibration import CalibratedPair, calibrate_pair, needs_calibration, pair_of_content
from scripts.radiographs.frequency_bands import shares_of_bands
from scripts.radiographs.pair_statistics import FIGURES, PairStatistics, figures_of_pair, statistics_of

GEOMETRY = BiplanarGeometry(detector_pixels=128)
COARSE = replace(GEOMETRY, detector_size_mm=600.0, detector_pixels=120)
TALL = 1.5
"""The body goes on beyond the ends of the volume, and ROWS of the detector cut it, as radiographs do."""
ROWS = slice(14, 114)
SPACING = (GEOMETRY.pixel_mm, GEOMETRY.pixel_mm)
KINDS = ("line_integral", "presentation")


@cache
def known_pairs() -> PairStatistics:
    random = np.random.default_rng(0)
    found, shares = [], []
    for _ in range(12):
        scale = random.normal(1, [0.06, 0.06, 0.05]).clip(0.85, 1.12) * [1, 1, TALL]
        xrays = project(asymmetric_body(64, tuple(scale), random.normal(1, 0.04)), COARSE)[0].numpy()
        seen = np.ones(xrays.shape, bool)
        found.append(figures_of_pair(xrays, seen, COARSE))
        shares.append([shares_of_bands(*each, (COARSE.pixel_mm,) * 2) for each in zip(xrays, seen)])
    return statistics_of(np.stack(found), np.array(shares))


@cache
def truth() -> np.ndarray:
    return project(asymmetric_body(64, (1, 1, TALL)), GEOMETRY)[0].numpy()


def shown(line_integrals: np.ndarray, gamma: float, gain: float) -> np.ndarray:
    """Display values, of which the line integrals are a multiple of the power gamma above 50."""
    return 50 + gain * (line_integrals / line_integrals.max()) ** (1 / gamma)


def radiograph(view: str, image: np.ndarray, scale: str, pixel_mm: tuple[float, float] | None = SPACING) -> Radiograph:
    image = image[ROWS].astype(np.float32)
    magnification = None if pixel_mm is None else GEOMETRY.magnification(0.0)
    return Radiograph(
        view, image, np.ones(image.shape, bool), scale, view, pixel_mm=pixel_mm, magnification=magnification
    )


def calibrated(*pair: Radiograph) -> CalibratedPair:
    return calibrate_pair(pair, GEOMETRY, known_pairs())


def errors(found: CalibratedPair) -> np.ndarray:
    """Of each view, the mean absolute error inside the body, over its mean line integral."""
    body = (truth() > 0.5) & found.seen
    off = np.abs(found.line_integrals - truth())
    return np.array([off[view][body[view]].mean() / truth()[view][body[view]].mean() for view in range(2)])


def half_known() -> tuple[Radiograph, Radiograph]:
    """A frontal radiograph with a unit, and a lateral one that is shown with another contrast."""
    frontal, lateral = truth()
    return radiograph("frontal", frontal, "line_integral"), radiograph("lateral", shown(lateral, 1.4, 300), KINDS[1])


@pytest.fixture(scope="module")
def beside_a_known_one() -> CalibratedPair:
    return calibrated(*half_known())


def test_beside_a_radiograph_with_a_unit_the_other_gets_its_line_integrals(beside_a_known_one: CalibratedPair):
    assert errors(beside_a_known_one).max() < 0.03
    lateral = beside_a_known_one.calibration.curves[1]
    assert lateral.gamma == pytest.approx(1.4, rel=0.06)
    assert lateral.scale == pytest.approx(truth()[1].max(), rel=0.05)
    assert not beside_a_known_one.contradictions


def test_what_files_say_is_kept(beside_a_known_one: CalibratedPair):
    """The curve of line integrals is the values themselves, and told sizes stay."""
    found = beside_a_known_one.calibration
    image = half_known()[0].image
    low, high = np.percentile(image, (0.1, 99.9))
    curve = found.curves[0]
    assert curve.gamma == 1.0 and found.sizes == (1.0, 1.0)
    np.testing.assert_allclose(curve.line_integrals((image - low) / (high - low)), image, atol=1e-5)


def test_the_same_pair_gives_the_same_numbers(beside_a_known_one: CalibratedPair):
    again = calibrated(*half_known())
    assert again.line_integrals.tobytes() == beside_a_known_one.line_integrals.tobytes()
    assert again.as_content() == beside_a_known_one.as_content()


def test_a_calibrated_pair_survives_its_json(beside_a_known_one: CalibratedPair):
    content = beside_a_known_one.as_content()
    again = pair_of_content(content, beside_a_known_one.line_integrals, beside_a_known_one.seen)
    assert again.calibration == beside_a_known_one.calibration
    assert again.consistency.difference == pytest.approx(content["relative_difference"], abs=2e-3)


def test_two_radiographs_without_a_unit_are_calibrated_by_known_bodies():
    """Their common scale is that of the known bodies, which differ by some 5 %."""
    frontal, lateral = truth()
    found = calibrated(
        radiograph("frontal", shown(frontal, 1.0, 1000), "presentation"),
        radiograph("lateral", shown(lateral, 1.4, 300), "presentation"),
    )
    assert errors(found).max() < 0.1
    assert found.consistency.difference < 0.01
    gammas = [curve.gamma for curve in found.calibration.curves]
    assert gammas[1] / gammas[0] > 1.05


def test_a_size_that_the_lateral_file_alone_says_is_kept():
    """The frontal one, of which no file says a size, is taken to be that much larger or smaller."""
    frontal, lateral = truth()
    found = calibrated(
        radiograph("frontal", frontal, "line_integral", None), radiograph("lateral", lateral, "line_integral")
    )
    nominal = 0.8 * GEOMETRY.detector_size_mm / 128  # its longer side spans 0.8 of the detector
    assert found.calibration.sizes[1] == 1.0
    assert found.calibration.sizes[0] * nominal == pytest.approx(GEOMETRY.pixel_mm, rel=0.05)


def test_a_lateral_spacing_of_15_per_cent_too_much_is_named():
    frontal, lateral = truth()
    told = tuple(1.15 * side for side in SPACING)
    found = calibrated(
        radiograph("frontal", frontal, "line_integral"), radiograph("lateral", lateral, "line_integral", told)
    )
    assert len(found.contradictions) == 1
    assert "Imager Pixel Spacing" in found.contradictions[0]
    assert found.calibration.sizes == (1.0, 1.0)


@pytest.mark.parametrize("spacings", [(SPACING, SPACING), (SPACING, None), (None, SPACING)])
@pytest.mark.parametrize("scales", [(a, b) for a in KINDS for b in KINDS])
def test_radiographs_of_known_size_need_no_calibration(scales: tuple[str, str], spacings: tuple):
    pair = [radiograph(*each) for each in zip(XRAY_KEYS, truth(), scales, spacings)]
    assert needs_calibration(pair) == (None in spacings)


# Statistics


def test_figures_of_water_are_those_of_its_box():
    """A box of water in a far beam: mass over that of water is 1, and width and depth are its sides."""
    far = BiplanarGeometry(40000.0, 40400.0, detector_size_mm=480.0, detector_pixels=240)
    side = (np.arange(240) - 119.5) * far.pixel_mm / far.magnification(0.0)
    width_mm, depth_mm, per_mm = 240.0, 160.0, 0.02059
    columns = [(np.abs(side) < extent / 2) * other * per_mm for extent, other in ((240, 160), (160, 240))]
    xrays = np.stack([np.tile(each, (240, 1)) for each in columns])
    figures = dict(zip(FIGURES, np.exp(figures_of_pair(xrays, np.ones(xrays.shape, bool), far))))
    assert figures["width"] == pytest.approx(width_mm, rel=0.07)  # the soft outline adds some of each column of air
    assert figures["depth"] == pytest.approx(depth_mm, rel=0.1)
    assert figures["frontal 50% quantile"] == pytest.approx(depth_mm * per_mm)
    assert figures["lateral 50% quantile"] == pytest.approx(width_mm * per_mm)


def test_figures_at_the_mean_are_at_no_distance_and_unknown_ones_do_not_count():
    known = known_pairs()
    assert not known.whitened(known.mean).any()
    figures = known.mean + known.deviation
    unknown = figures.copy()
    unknown[FIGURES.index("width")] = np.nan
    found = known.whitened(unknown)
    assert found[FIGURES.index("width")] == 0 and np.isfinite(found).all()
    assert 0 < (found**2).sum() <= (known.whitened(figures) ** 2).sum() + 1e-9
