from __future__ import annotations

import base64
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from browser import NO_WEBGL, Page, chromium, view_of
from scripts import BiplanarGeometry
from scripts.io.image_writer import cube_affine, write_ct
from scripts.reporting.measurement_table import MeasurementTable
from scripts.reporting.viewer import niivue_module, projection_matrix, write_view

SIDE, VOXEL_MM, CENTRE_MM = 20, 18.0, (30.0, -40.0, 1000.0)
TITLE = "p1 </script><script>document.title = 'markup'</script> & \"q\""
WINDOWS = {"Lung": (-1350, 150), "Soft tissue": (-160, 240), "Bone": (-500, 1300)}
PAD = 4


def numbered(side: int) -> torch.Tensor:
    """A cube in which every voxel has a value of its own, and all three windows have something to show."""
    return torch.arange(side**3).reshape(side, side, side) - float(side**3) / 2


def voxel_of(point_mm: np.ndarray, side: int) -> tuple[int, ...]:
    """Of a cube of 360 mm about the centre."""
    return tuple(np.floor((point_mm - CENTRE_MM) / (360 / side) + side / 2).astype(int))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two numbered cubes, of 20 and of 10 voxels a side, away from the origin."""
    folder = tmp_path_factory.mktemp("viewer")
    for name, side in (("truth", SIDE), ("stage1", SIDE // 2)):
        write_ct(str(folder / f"{name}.nii.gz"), numbered(side), cube_affine(side, 360.0, torch.tensor(CENTRE_MM)))
    volumes = {"truth": str(folder / "truth.nii.gz"), 'stage "1" <b>': str(folder / "stage1.nii.gz")}
    xrays = torch.linspace(0, 1, 2 * 32 * 32).reshape(2, 32, 32)
    geometry = BiplanarGeometry(detector_pixels=32)
    scores = [{"method": "<i>stage 1</i>", "PSNR, dB": "21.50"}]
    measured = MeasurementTable([{"measurement": "Left lung", "value": "2.35", "unit": "L"}], ["What it is worth."])
    shown = {"scores": scores, "note": "A note.", "measurements": measured}
    write_view(str(folder / "report.html"), TITLE, volumes, xrays, geometry, CENTRE_MM, **shown)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> None:
    if chromium() is None:
        reason = "Chromium is not installed: apt-get install --no-install-recommends chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture(scope="module")
def page(browser: None, written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(written, tmp_path_factory.mktemp("profile")) as opened:
        assert opened.value("document.documentElement.dataset.state") == "ready", opened.text("#message")
        yield opened


def voxel_in_window(page: Page, plane: int, column: int, row: int) -> tuple[int, int]:
    """The middle of a voxel of the first panel, in pixels; planes are axial, coronal, sagittal, in a row."""
    left, top, width, _ = page.box("canvas")
    side = (width - 2 * PAD) / 3
    return round(left + plane * (side + PAD) + (column + 0.5) * side / SIDE), round(top + (row + 0.5) * side / SIDE)


def place_mm(page: Page) -> np.ndarray:
    """The position that is shown, in RAS+."""
    numbers = re.findall(r"([RLAPSI]) ([\d.]+)", page.text("#place"))
    return np.array([float(distance) * (1 if letter in "RAS" else -1) for letter, distance in numbers])


def values(page: Page) -> list[str]:
    return page.value("[...document.querySelectorAll('.value')].map(value => value.textContent)")


def choose(page: Page, name: str) -> None:
    labels = page.value("[...document.querySelectorAll('fieldset:first-child span')].map(span => span.textContent)")
    number = next(index for index, label in enumerate(labels) if label.startswith(name))
    left, top, width, height = page.box(f"fieldset:first-child label:nth-of-type({number + 1})")
    page.click(left + width / 2, top + height / 2)


def test_measurements_and_scores_stand_under_the_volumes_and_not_under_the_xrays(page: Page):
    volumes, measurements, scores = (page.box(f"#{part}") for part in ("volumes", "measurements", "scores"))
    assert volumes[0] == measurements[0] == scores[0] > sum(page.box("#xrays")[0::2])
    assert volumes[1] < measurements[1] < scores[1]


@pytest.mark.parametrize(("plane", "column", "row"), [(0, 3, 5), (0, 16, 2), (1, 4, 17), (2, 12, 6), (2, 1, 18)])
def test_a_click_shows_the_value_of_the_voxel_under_the_cross_hair_in_every_volume(page: Page, plane, column, row):
    before = voxel_of(place_mm(page), SIDE)
    page.click(*voxel_in_window(page, plane, column, row))
    point = place_mm(page)
    across, down = SIDE - 1 - column, SIDE - 1 - row
    clicked = [(across, down, before[2]), (across, before[1], down), (before[0], across, down)][plane]
    assert voxel_of(point, SIDE) == clicked
    assert values(page) == [f"{numbered(side)[voxel_of(point, side)]:.0f} HU" for side in (SIDE, SIDE // 2)]


@pytest.mark.parametrize("name", WINDOWS)
def test_each_window_shows_the_voxels_in_the_grey_that_its_button_states(page: Page, name: str):
    """In the axial plane, left column to the patient's right, upper row to anterior."""
    page.click(*voxel_in_window(page, 0, 4, 15))
    choose(page, name)
    low, high = WINDOWS[name]
    assert page.value("document.querySelector('.panel').dataset.window") == f"{low} {high}"
    stated = page.text("fieldset:first-child :checked + span").replace("−", "-")
    level, width = map(int, re.search(r"(-?\d+) / (\d+)", stated).groups())
    assert (low, high) == (level - width / 2, level + width / 2)
    picture = page.screenshot()
    shown, expected = [], []
    values = numbered(SIDE)[..., voxel_of(place_mm(page), SIDE)[2]]
    for column in range(SIDE):
        for row in (2, 6, 11, 18):
            if column not in (0, 4, 9, 10):  # the cross-hair and the letters
                x, y = voxel_in_window(page, 0, column, row)
                shown.append(picture[y, x].mean())
                expected.append(255 * ((values[SIDE - 1 - column, SIDE - 1 - row].item() - low) / (high - low)))
    np.testing.assert_allclose(shown, np.clip(expected, 0, 255), atol=3)
    assert np.ptp(expected) > 500


def test_the_cross_hair_goes_to_the_side_of_the_xray_that_its_letter_names(page: Page):
    """Clicks on the patient's left, then right, anterior, then posterior; in pixels of the window."""
    lefts = page.value("[...document.querySelectorAll('.frame')].map(frame => frame.getBoundingClientRect().x)")
    widths = page.value("[...document.querySelectorAll('.frame')].map(frame => frame.getBoundingClientRect().width)")
    marks = []
    for column, row in ((17, 2), (2, 17)):
        page.click(*voxel_in_window(page, 0, column, row))
        left = "lines => parseFloat(getComputedStyle(lines, '::before').left)"
        marks.append(np.array(page.value(f"[...document.querySelectorAll('.lines')].map({left})")) / widths)
    assert place_mm(page)[0] > CENTRE_MM[0] and place_mm(page)[1] < CENTRE_MM[1]
    for view, letters in enumerate((("R", "L"), ("A", "P"))):
        edges = f"[...document.querySelectorAll('.xray')[{view}].querySelectorAll('.edge')]"
        places = page.value(f"{edges}.map(edge => [edge.textContent, edge.getBoundingClientRect().x])")
        assert [letter for letter, _ in sorted(places, key=lambda place: place[1])] == list(letters)
        assert lefts[view] <= places[0][1] < lefts[view] + widths[view] / 2 < places[1][1]
    (left, anterior), (right, posterior) = marks
    assert left > 0.6 > 0.4 > right
    assert anterior < 0.4 < 0.6 < posterior


def test_the_arrow_keys_move_the_cross_hair_by_a_voxel_and_change_the_window(page: Page):
    page.click(*voxel_in_window(page, 0, 17, 7))
    page.value("document.querySelector('#position input').focus()")
    page.press("ArrowRight")
    before = voxel_of(place_mm(page), SIDE)
    page.press("ArrowRight")
    assert voxel_of(place_mm(page), SIDE) == (before[0] - 1, before[1], before[2])
    assert values(page)[0] == f"{numbered(SIDE)[before[0] - 1, before[1], before[2]]:.0f} HU"
    assert "mm left" in page.value("document.activeElement.getAttribute('aria-valuetext')")
    choose(page, "Lung")
    page.value("document.querySelector('input[name=window]').focus()")
    page.press("ArrowRight")
    shown = page.value("[...document.querySelectorAll('.panel')].map(panel => panel.dataset.window)")
    assert shown == ["-160 240"] * 2


def test_the_wheel_goes_through_the_slices_once_the_planes_are_clicked_and_scrolls_the_page_before(page: Page):
    page.resize(1280, 600)
    try:
        page.value("document.activeElement.blur()")
        before = place_mm(page)
        page.turn_wheel(*voxel_in_window(page, 0, 5, 5), down=50)
        np.testing.assert_array_equal(place_mm(page), before)
        assert page.value("scrollY") == 50
        page.value("scrollTo(0, 0)")
        page.click(*voxel_in_window(page, 0, 5, 5))
        before = voxel_of(place_mm(page), SIDE)
        page.turn_wheel(*voxel_in_window(page, 0, 5, 5), down=50)
        after = voxel_of(place_mm(page), SIDE)
        assert after[:2] == before[:2] and abs(after[2] - before[2]) == 1
        assert page.value("scrollY") == 0
    finally:
        page.resize(1280, 900)


def test_another_volume_in_a_panel_keeps_the_cross_hair_and_the_window(page: Page):
    page.click(*voxel_in_window(page, 0, 5, 13))
    choose(page, "Bone")
    point = place_mm(page)
    change = "select => { select.value = '0'; select.dispatchEvent(new Event('change')); }"
    page.value(f"({change})(document.querySelectorAll('select')[1])")
    page.value("new Promise(done => setTimeout(done, 500))")
    assert page.value("document.querySelectorAll('.panel')[1].dataset.window") == "-500 1300"
    np.testing.assert_array_equal(place_mm(page), point)
    assert values(page) == [f"{numbered(SIDE)[voxel_of(point, SIDE)]:.0f} HU"] * 2
    page.value(f"({change.replace('0', '1', 1)})(document.querySelectorAll('select')[1])")


def test_names_and_titles_are_shown_as_text(page: Page):
    assert page.text("h1") == page.value("document.title") == TITLE
    assert page.text("select option:nth-child(2)") == 'stage "1" <b>'
    assert page.text("#scores td") == "<i>stage 1</i>"
    assert page.text("#note") == "A note."
    assert page.text("#notice").startswith("Research use only, not for diagnosis. Two views do not determine a volume")


def test_a_narrow_window_is_not_wider_than_itself_and_shows_every_plane(page: Page):
    page.resize(380, 900)
    try:
        assert page.value("document.scrollingElement.scrollWidth") <= 380
        _, _, width, height = page.box("canvas")
        assert width == pytest.approx(height, abs=1)
    finally:
        page.resize(1280, 900)


def test_the_page_reaches_nothing_outside_of_itself(page: Page):
    """Neither by its own requests nor by those of a script that gets in."""
    reached = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert page.value(f"fetch('{address}/fetch').then(() => 'fetched', () => 'refused')") == "refused"
        ends = "onload: () => done('loaded'), onerror: () => done('refused')"
        image = f"Object.assign(new Image(), {{{ends}, src: '{address}/image'}})"
        assert page.value(f"new Promise(done => {image})") == "refused"
        inline = "Object.assign(document.createElement('script'), {textContent: 'window.ran = true'})"
        assert page.value(f"(document.body.append({inline}), window.ran ?? 'refused')") == "refused"
    finally:
        server.shutdown()
        server.server_close()
    assert reached == []
    own = [request for request in page.requests if not request.startswith((f"{address}/", "data:", "blob:"))]
    assert len(own) == 1 and own[0].startswith("file://") and own[0].endswith("report.html")


def test_a_browser_without_webgl2_says_so_and_still_shows_the_xrays(browser: None, written: Path, tmp_path: Path):
    with Page(written, tmp_path / "profile", graphics=NO_WEBGL) as page:
        assert page.value("document.documentElement.dataset.state") == "no-webgl2"
        assert "this browser has no WebGL2" in page.text("#message")
        assert page.value("[...document.querySelectorAll('.xray img')].map(image => image.naturalWidth)") == [32, 32]
        assert page.value("document.getElementById('volumes').hidden")


def test_the_page_holds_the_files_that_are_next_to_it_and_nothing_to_fetch(written: Path):
    text, view = written.read_text(encoding="utf-8"), view_of(written)
    files = [written.parent / name for name in ("truth.nii.gz", "stage1.nii.gz")]
    assert [base64.b64decode(volume["file"]) for volume in view["volumes"]] == [file.read_bytes() for file in files]
    assert all(line in text for line in niivue_module()[1].splitlines())
    assert not re.findall(r'(?:src|href)=(?!"data:)|@import|url\(|https?://', text.replace(view["niivue"], ""))


@pytest.mark.parametrize(
    "geometry",
    [
        BiplanarGeometry(views=("AP", "RL"), angles_deg=((3.0, -2.0, 5.0), (-4.0, 1.0, 2.0))),
        BiplanarGeometry(source_to_isocentre_mm=1000.0, source_to_detector_mm=1300.0, detector_size_mm=600.0),
        BiplanarGeometry(source_to_isocentre_mm=inf, source_to_detector_mm=inf),
    ],
)
@pytest.mark.parametrize("view", [0, 1])
def test_the_matrix_projects_to_the_points_of_the_geometry(geometry: BiplanarGeometry, view: int):
    points = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    matrix = projection_matrix(geometry, CENTRE_MM, view)
    homogeneous = np.concatenate([points + CENTRE_MM, np.ones((20, 1))], axis=1) @ matrix.T
    points_mm = np.stack(geometry.projected_point(tuple(points.T), view), axis=1)
    detector_mm = (homogeneous[:, :2] / homogeneous[:, 2:] - 0.5) * geometry.detector_size_mm
    np.testing.assert_allclose(detector_mm, points_mm, atol=1e-9)


def test_without_the_package_there_is_no_page_and_the_warning_says_how_to_get_it(tmp_path: Path, monkeypatch):
    niivue_module.cache_clear()
    monkeypatch.setattr(sys, "path", [])  # where Python looks for packages
    path = tmp_path / "view.html"
    path.write_text("of an earlier volume")
    with pytest.warns(UserWarning, match=r"view\.html is not written.*pip install --no-deps 'ipyniivue"):
        write_view(str(path), "p1", {}, torch.zeros(2, 8, 8), BiplanarGeometry(detector_pixels=8))
    assert list(tmp_path.iterdir()) == []
