"""What a program did to the detail of a radiograph is seen in its bands, and taken back."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter, zoom

from phantoms import asymmetric_body
from scripts import BiplanarGeometry, project
from scripts.radiographs.frequency_bands import (
    BANDS,
    CERTAINTY,
    LEAST_DEVIATION,
    SIGMAS_MM,
    SKIN_MM,
    band_statistics,
    shares_of_bands,
    with_usual_bands,
)

GEOMETRY = BiplanarGeometry(detector_pixels=256)
PIXEL_MM = (GEOMETRY.pixel_mm, GEOMETRY.pixel_mm)
SEEN = np.ones((256, 256), bool)
SEEN[:20], SEEN[-30:], SEEN[:, :10] = False, False, False


@cache
def body() -> np.ndarray:
    """A frontal projection with detail that no phantom has, as ribs and vessels are."""
    smooth = project(asymmetric_body(64, (1, 1, 1.4)), GEOMETRY)[0, 0].double().numpy()
    detail = gaussian_filter(np.random.default_rng(0).normal(size=smooth.shape), 2.0)
    return smooth * (1 + 0.5 * detail / detail.std() * 0.1)


def known(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.log(shares_of_bands(image, SEEN, PIXEL_MM)), np.full(BANDS, 1e-9)


def raised(image: np.ndarray) -> np.ndarray:
    """More detail and less of the broad shades, by blurs that are none of the bands'."""
    fine, coarse = (gaussian_filter(image, sigma / GEOMETRY.pixel_mm) for sigma in (3.0, 24.0))
    return 2.5 * (image - fine) + 1.3 * (fine - coarse) + 0.7 * coarse


def test_an_image_of_the_usual_bands_stays_as_it_is():
    np.testing.assert_allclose(with_usual_bands(body(), SEEN, PIXEL_MM, *known(body())), body(), atol=1e-9)


def test_shares_know_neither_gain_nor_offset():
    shares = shares_of_bands(body(), SEEN, PIXEL_MM)
    np.testing.assert_allclose(shares_of_bands(7 * body() + 300, SEEN, PIXEL_MM), shares, rtol=1e-6)
    assert np.sum(shares**2) == pytest.approx(1.0)


def test_shares_are_those_of_the_body_whatever_the_pixels():
    """Of the bands that the larger pixels still hold."""
    larger = shares_of_bands(
        zoom(body(), 0.5, order=1, grid_mode=True, mode="nearest"),
        SEEN.reshape(128, 2, 128, 2).all((1, 3)),
        (2 * GEOMETRY.pixel_mm, 2 * GEOMETRY.pixel_mm),
    )
    broad = np.array([*SIGMAS_MM, np.inf]) > 8 * GEOMETRY.pixel_mm
    np.testing.assert_allclose(larger[broad], shares_of_bands(body(), SEEN, PIXEL_MM)[broad], rtol=0.1)


def test_a_sinus_lies_in_the_bands_about_its_length():
    """A Gaussian of deviation s passes exp(-(2 pi s / length)² / 2) of it; a band is the difference of two."""
    length_mm = 30.0
    across = np.arange(256) * GEOMETRY.pixel_mm
    image = 10 + np.sin(2 * np.pi * across / length_mm)[None] * np.ones((256, 1))
    image[:, :4] = 0.0  # air, so that all else is the body
    seen = np.ones(image.shape, bool)
    shares = shares_of_bands(image, seen, PIXEL_MM)
    passed = np.exp(-((2 * np.pi * np.array([0.0, *SIGMAS_MM]) / length_mm) ** 2) / 2)
    expected = passed[:-1] - passed[1:]
    assert shares[:-1].argmax() == expected.argmax()
    np.testing.assert_allclose(shares[1:4] / shares[:-1].max(), expected[1:4] / expected.max(), rtol=0.1)


def test_shares_come_nearer_to_the_usual_ones():
    """But for those that were certain; not quite there, since the bands overlap and little is taken for chance."""
    image = raised(body())
    mean, deviation = known(body())
    before = np.abs(known(image)[0] - mean)
    after = np.abs(known(with_usual_bands(image, SEEN, PIXEL_MM, mean, deviation))[0] - mean)
    assert (after < np.maximum(before, CERTAINTY * LEAST_DEVIATION)).all()
    assert (after**2).sum() < 0.3 * (before**2).sum()


def test_raised_detail_is_nearer_to_the_line_integrals_when_it_is_taken_back():
    image = raised(body())
    inside = binary_erosion(SEEN & (body() > 0.8), iterations=round(SKIN_MM / GEOMETRY.pixel_mm))

    def error(found: np.ndarray) -> float:
        """After the gain and the offset that fit best, which a calibration finds."""
        slope, offset = np.polyfit(found[inside], body()[inside], 1)
        return float((slope * found + offset - body())[inside].std())

    assert error(with_usual_bands(image, SEEN, PIXEL_MM, *known(body()))) < 0.8 * error(image)


def test_what_bodies_differ_by_is_left_to_the_patient():
    mean, _ = known(body())
    image = raised(body())
    off = np.abs(mean - known(image)[0])
    np.testing.assert_array_equal(with_usual_bands(image, SEEN, PIXEL_MM, mean, off + 0.01).round(9), image.round(9))


def test_what_is_not_seen_stays_as_it_is():
    found = with_usual_bands(raised(body()), SEEN, PIXEL_MM, *known(body()))
    np.testing.assert_array_equal(found[~SEEN], raised(body())[~SEEN])


def test_an_image_without_a_body_says_nothing_and_stays():
    flat = np.zeros((64, 64))
    flat[30:33, 30:33] = 1.0
    seen = np.ones(flat.shape, bool)
    assert np.isnan(shares_of_bands(flat, seen, (5.0, 5.0))).all()
    np.testing.assert_array_equal(with_usual_bands(flat, seen, (5.0, 5.0), *known(body())), flat)
    both = np.stack([np.stack([shares_of_bands(body(), SEEN, PIXEL_MM)] * 2), np.full((2, BANDS), np.nan)])
    np.testing.assert_allclose(band_statistics(both).mean[0], known(body())[0])
