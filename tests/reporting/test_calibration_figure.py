from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from monai.data import MetaTensor
from PIL import Image

from browser import NO_WEBGL, Page, chromium, view_of
from phantoms import phantom
from scripts import BiplanarGeometry, SaveReconstructiond
from scripts.io.image_writer import cube_affine
from scripts.radiographs.calibration import CALIBRATION_KEY, CalibratedPair, Consistency, PairCalibration
from scripts.radiographs.characteristic_curve import CharacteristicCurve
from scripts.reporting.calibration_figure import calibration_figure

GEOMETRY = BiplanarGeometry(detector_pixels=48)
BEFORE = (np.linspace(0, 255, 40 * 30).reshape(40, 30), np.linspace(7, 90, 36 * 50).reshape(36, 50))
CONTRADICTION = "The pair says 1.12 times, $not so$ the files."
FLAG = "The lateral radiograph looks frontal."


def calibrated(seen: slice = slice(4, 44)) -> CalibratedPair:
    """A pair of numbers that tell each other apart, whose views differ by 4 % where planes count, else by far more."""
    shown = np.zeros((2, 48, 48), bool)
    shown[:, seen, seen] = True
    lateral = np.where(np.arange(21) < 6, 9.0, 1.0)
    consistency = Consistency(
        np.linspace(-150, 150, 21), np.stack([1.04 * np.ones(21), lateral]), (np.arange(21) >= 6).astype(float)
    )
    found = PairCalibration(
        (CharacteristicCurve(6.71, 0.083, 1.37), CharacteristicCurve(8.29, -0.021, 0.74)),
        (1.031, 0.967),
        -12.3,
        0.43,
        40.0,
    )
    values = np.broadcast_to(np.linspace(0, 6, 48), (2, 48, 48)).copy()
    sentences = ((CONTRADICTION,), ("Views PA and LL.",), (CONTRADICTION, FLAG))
    return CalibratedPair(values, shown, found, consistency, False, 31.0, 1.19, *sentences)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def record(calibration: dict | None = None) -> dict:
    hu = phantom(24, 0.0)
    volume = MetaTensor(hu[None], affine=cube_affine(len(hu), 360.0))
    return {"pred": volume, "image": torch.from_numpy(calibrated().line_integrals / 8), **(calibration or {})}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    pair, before = calibrated(), dict(zip(("frontal", "lateral"), map(torch.from_numpy, BEFORE)))
    kept = {"content": json.dumps(pair.as_content()), "seen": torch.from_numpy(pair.seen), **before}
    SaveReconstructiond(str(folder), GEOMETRY, xray_scale=8.0)(record({CALIBRATION_KEY: kept}))
    return folder


def test_the_figure_says_every_number_that_was_found():
    said = texts(calibration_figure(calibrated(), BEFORE, GEOMETRY))
    numbers = {"6.71", "8.29", "0.083", "-0.021", "1.37", "0.74", "1.031", "0.967", "0.938", "1.19"}
    assert numbers <= set(said)
    assert "lateral lies higher by" in said and "12.3 mm on the detector" in said
    assert "0.43, blurred by 40 mm" in said
    assert "3.92 %" in said  # 0.04 over 1.02
    assert "71 %" in said  # 15 planes of 21
    assert said.count("69 %") == 2  # 40² pixels of 48²
    assert {f"{CONTRADICTION} {FLAG}", "Assumed: Views PA and LL."} <= set(said)
    assert any("not for diagnosis" in text for text in said)


def test_both_views_share_one_grey_scale_and_each_image_is_what_was_given():
    pair = calibrated()
    four = calibration_figure(pair, BEFORE, GEOMETRY).axes[:4]
    shown = [np.asarray(place.images[0].get_array()) for place in four]
    for image, given in zip(shown, (BEFORE[0], pair.line_integrals[0], BEFORE[1], pair.line_integrals[1])):
        np.testing.assert_array_equal(image, given)
    assert [place.images[0].get_clim() for place in four[1::2]] == [four[1].images[0].get_clim()] * 2
    assert four[0].images[0].get_clim() != four[2].images[0].get_clim()
    assert ["PA" in place.get_title() for place in four] == [True, True, False, False]


def test_what_no_radiograph_shows_is_tinted_and_nothing_else():
    pair = calibrated(slice(10, 30))
    for place, seen in zip(calibration_figure(pair, BEFORE, GEOMETRY).axes[1:4:2], pair.seen):
        np.testing.assert_array_equal(np.asarray(place.images[1].get_array())[..., 3] > 0, ~seen)
        assert "tinted" in place.get_xlabel()
    whole = calibration_figure(calibrated(slice(None)), BEFORE, GEOMETRY)
    assert not any("tinted" in text for text in texts(whole))


def test_planes_that_do_not_count_are_fainter_and_do_not_decide_how_far_the_axes_reach():
    figure = calibration_figure(calibrated(), BEFORE, GEOMETRY)
    curves, difference = (place for place in figure.axes if place.get_xlabel().startswith("height"))
    for line in (*curves.collections, *difference.collections):
        opacity = line.get_colors()[:, 3]
        assert opacity[:6].max() < 0.5 < opacity[6:].min()
    assert curves.get_ylim()[1] < 2
    assert difference.get_ylim()[1] < 10
    cut = replace(calibrated().consistency, weights=np.zeros(21))
    figure = calibration_figure(replace(calibrated(), consistency=cut), BEFORE, GEOMETRY)
    curves, _ = (place for place in figure.axes if place.get_xlabel().startswith("height"))
    assert curves.get_ylim()[1] > 9


def test_the_words_are_within_the_figure_and_do_not_lie_on_each_other():
    figure = calibration_figure(calibrated(), BEFORE, GEOMETRY)
    figure.draw_without_rendering()
    (words,) = (place for place in figure.axes if len(place.texts) > 1)
    boxes = [word.get_window_extent() for word in words.texts if word.get_text()]
    assert len(boxes) > 20
    for index, box in enumerate(boxes):
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < figure.bbox.x1 and box.y1 < figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_the_file_of_the_calibration_holds_what_was_found_under_the_notice(saved: Path):
    content = json.loads((saved / "calibration.json").read_text(encoding="utf-8"))
    assert content.pop("notice") == "Research use only, not for diagnosis"
    assert content == json.loads(json.dumps(calibrated().as_content()))
    assert content["frontal"]["scale"] == 6.71 and content["lateral_lower_by_mm"] == -12.3
    assert content["relative_difference"] == pytest.approx(0.04 / 1.02)


def test_the_page_and_its_folder_hold_the_figure_of_the_pair_in_line_integrals(saved: Path):
    drawn = io.BytesIO()
    calibration_figure(calibrated(), BEFORE, GEOMETRY).savefig(drawn, format="png")
    pixels = [np.asarray(Image.open(each)) for each in (drawn, saved / "calibration.png")]
    np.testing.assert_allclose(*pixels, atol=2)
    (figure,) = view_of(saved / "view.html")["figures"]
    assert figure["title"] == "Calibration of the pair"
    kind, _, content = figure["image"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == (saved / "calibration.png").read_bytes()


def test_a_pair_that_needs_no_calibration_leaves_no_file_of_one_of_an_earlier_pair(tmp_path: Path):
    for name in ("calibration.json", "calibration.png"):
        (tmp_path / name).write_text("of an earlier pair")
    SaveReconstructiond(str(tmp_path), GEOMETRY)(record())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz", "preview.png", "view.html"]
    assert view_of(tmp_path / "view.html")["figures"] == []


@pytest.fixture(scope="module")
def page(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if chromium() is None:
        reason = "Chromium is not installed: apt-get install --no-install-recommends chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with Page(saved / "view.html", tmp_path_factory.mktemp("profile"), graphics=NO_WEBGL) as opened:
        yield opened


def test_a_browser_shows_the_figure_under_its_heading_below_the_xrays(page: Page, saved: Path):
    width = Image.open(io.BytesIO((saved / "calibration.png").read_bytes())).width
    assert page.value("document.querySelector('#figures img').naturalWidth") == width
    assert page.text("#figures h2") == "Calibration of the pair"
    below = "document.querySelector('#figures').getBoundingClientRect().top"
    assert page.value(f"{below} >= document.querySelector('#xrays').getBoundingClientRect().bottom")
