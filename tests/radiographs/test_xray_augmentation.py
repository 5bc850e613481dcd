from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from bundle_runs import ROOT
from phantoms import projector, rotated, smooth_body
from scripts import (
    BiplanarGeometry,
    InputError,
    LoadRadiographsd,
    PrepareXraysd,
    RandCollimationd,
    RandGeometry,
    RandPoissonNoised,
    RandScaleIntensityRangePercentilesd,
)

PIXELS = 64
GEOMETRY = BiplanarGeometry(detector_pixels=PIXELS)


def sample(*shape: int) -> dict[str, torch.Tensor]:
    """X-rays without structure, wholly exposed."""
    return {
        "xrays": torch.rand(shape or (2, PIXELS, PIXELS)),
        "exposed": torch.ones(shape or (2, PIXELS, PIXELS)).bool(),
    }


# Photon noise


@pytest.mark.parametrize("line_integral", [0.0, 2.0, 5.0])
def test_photon_noise_has_the_mean_and_the_variance_of_its_counts(line_integral: float):
    photons, scale = 1e5, 8.0
    noise = RandPoissonNoised("xrays", scale, (photons, photons), prob=1.0)
    read = noise({"xrays": torch.full((2, 400, 400), line_integral / scale)})["xrays"].double() * scale
    variance = math.exp(line_integral) / photons
    assert read.mean().item() == pytest.approx(line_integral + variance / 2, abs=4 * math.sqrt(variance / 320_000))
    assert read.var().item() == pytest.approx(variance, rel=0.02)


def test_a_pixel_without_a_photon_reads_one():
    read = RandPoissonNoised("xrays", 1.0, (1e4, 1e4), prob=1.0)({"xrays": torch.full((2, 8, 8), 50.0)})["xrays"]
    torch.testing.assert_close(read, torch.full_like(read, math.log(1e4)))


def test_the_number_of_photons_is_spread_over_its_decades():
    noise, found = RandPoissonNoised("xrays", 1.0, (1e2, 1e6), prob=1.0), []
    noise.set_random_state(seed=0)
    for _ in range(200):
        found.append(-math.log10(noise({"xrays": torch.zeros(1, 64, 64)})["xrays"].var().item()))
    assert np.mean(np.array(found) < 4) == pytest.approx(0.5, abs=0.1)
    assert 1.8 < min(found) < 2.4 and 5.6 < max(found) < 6.2


# Collimation


def test_a_collimated_radiograph_shows_a_rectangle_and_is_zero_outside_in_each_view_by_itself():
    mask = RandCollimationd("exposed", 0.3, prob=1.0).set_random_state(seed=1)(sample())["exposed"]
    rectangles = []
    for view in mask:
        rows, columns = (torch.nonzero(view.any(axis))[[0, -1], 0].tolist() for axis in (1, 0))
        assert view[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1].all()
        assert view.sum() == (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1) < view.numel()
        assert min(rows[0], columns[0]) >= 0 and max(rows[0], columns[0], 63 - rows[1], 63 - columns[1]) <= round(
            0.3 * 64
        )
        rectangles.append((rows, columns))
    assert rectangles[0] != rectangles[1]


def test_collimation_shows_nothing_that_was_not_exposed():
    exposed = torch.rand(2, PIXELS, PIXELS) > 0.5
    mask = RandCollimationd("exposed", 0.3, prob=1.0)({"exposed": exposed})["exposed"]
    assert not (mask & ~exposed).any()


def test_all_that_the_configuration_does_leaves_what_is_not_exposed_at_zero_as_prepared_radiographs_have_it():
    augment = configured().get_parsed_content("augment_xrays")
    for transform in augment.transforms[:-1]:
        getattr(transform, "set_prob", lambda prob: None)(1.0)
        transform.prob = 1.0
    radiographs = sample()
    radiographs["exposed"][:, :9] = False
    given = augment.set_random_state(seed=0)(radiographs)
    hidden = ~torch.as_tensor(given["exposed"])
    assert hidden[:, :9].all() and hidden[:, 9:].any()
    assert not given["xrays"][hidden].any()
    assert (given["xrays"][~hidden] != 0).float().mean() > 0.99


# Presentation


def test_a_radiograph_for_presentation_is_what_preparation_makes_of_such_a_file(tmp_path: Path):
    """Of an 8-bit image file with a collimated frame, at the detector's pixels."""
    image_file = np.random.default_rng(0).integers(30, 220, (PIXELS, PIXELS)).astype(np.uint8)
    image_file[:6] = image_file[-4:] = 0
    Image.fromarray(image_file).save(tmp_path / "radiograph.png")
    record = {"frontal": str(tmp_path / "radiograph.png")}
    with pytest.warns(UserWarning, match="no pixel spacing"):
        loaded = LoadRadiographsd()(record)
    prepared = PrepareXraysd("frontal", GEOMETRY, 8.0, (1, 99), (0.0, 0.7))(loaded)["frontal"]
    radiograph = torch.zeros(1, PIXELS, PIXELS)
    radiograph[0, 6:-4] = torch.from_numpy(image_file[6:-4]) / 255.0
    exposed = radiograph != 0
    show = RandScaleIntensityRangePercentilesd("xrays", "exposed", (1, 99), (0.0, 0.7), prob=1.0)
    shown = show({"xrays": radiograph, "exposed": exposed})["xrays"] * exposed
    torch.testing.assert_close(shown, prepared, rtol=0, atol=1e-4)


def configured() -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundle" / "configs" / "train.json"))
    return parser


# Pose and distance


def test_distances_err_together_so_that_the_isocentre_keeps_its_magnification():
    draw, factors = RandGeometry(distance=0.05, degrees=2.0, turned=0.0).set_random_state(seed=0), []
    for _ in range(50):
        geometry = draw(GEOMETRY)
        assert geometry.magnification(0.0) == pytest.approx(GEOMETRY.magnification(0.0))
        assert replace(geometry, source_to_isocentre_mm=1600.0, source_to_detector_mm=1800.0) == GEOMETRY
        factors.append(geometry.source_to_isocentre_mm / GEOMETRY.source_to_isocentre_mm)
    assert 0.95 <= min(factors) < 0.96 and 1.04 < max(factors) <= 1.05


def test_the_patient_stands_turned_in_a_part_of_the_cases_by_small_angles_in_each_view():
    draw = RandGeometry(distance=0.0, degrees=2.0, turned=0.25).set_random_state(seed=0)
    geometries = [draw(GEOMETRY) for _ in range(400)]
    turned = torch.tensor([geometry.angles_deg for geometry in geometries if not geometry.is_along_axes])
    assert len(turned) / 400 == pytest.approx(0.25, abs=0.06)
    assert turned.abs().max() <= 2 and (turned != 0).all()
    assert not torch.allclose(turned[:, 0], turned[:, 1])


def test_every_pair_of_views_is_drawn_as_often():
    pairs = [("PA", "LL"), ("PA", "RL"), ("AP", "LL"), ("AP", "RL")]
    draw = RandGeometry(distance=0.0, degrees=0.0, turned=0.0, views=pairs).set_random_state(seed=0)
    drawn = [draw(GEOMETRY).views for _ in range(400)]
    assert all(drawn.count(pair) == pytest.approx(100, abs=25) for pair in pairs)
    assert RandGeometry(0.0, 0.0, 0.0)(replace(GEOMETRY, views=("AP", "RL"))).views == ("AP", "RL")
    with pytest.raises(InputError, match="views are"):
        RandGeometry(0.0, 0.0, 0.0, views=[("LL", "PA")])


def test_an_error_of_the_pose_is_added_to_the_pose():
    posed = replace(GEOMETRY, angles_deg=((8.0, 0.0, -9.0), (0.0, 10.0, 0.0)))
    difference = np.subtract(RandGeometry(0.0, degrees=2.0, turned=1.0)(posed).angles_deg, posed.angles_deg)
    assert (np.abs(difference) <= 2).all() and difference.all()


def test_no_error_of_the_pose_is_the_nominal_projection():
    hu, project = smooth_body(), projector(GEOMETRY)
    geometry = RandGeometry(distance=0.0, degrees=0.0, turned=1.0)(GEOMETRY)
    assert torch.equal(project(hu, geometry), project(hu))


@pytest.mark.parametrize(("view", "angle", "axis"), [(0, 0, 2), (0, 1, 0), (0, 2, 1), (1, 0, 2), (1, 1, 1), (1, 2, 0)])
def test_the_projection_of_a_patient_who_stands_turned_is_that_of_the_turned_ct(view: int, angle: int, axis: int):
    """Turning source and detector one way is turning the body the other, to 1 % of its largest line integral."""
    angles, hu = torch.zeros(2, 3), smooth_body()
    angles[view, angle] = 5.0
    project = projector(GEOMETRY)
    seen = project(hu, replace(GEOMETRY, angles_deg=angles.tolist()))[view]
    turned = project(rotated(hu, -5.0, axis))[view]
    nominal = project(hu)[view]
    assert (seen - turned).abs().max() < 0.01 * nominal.max()
    assert (nominal - turned).abs().max() > 0.03 * nominal.max()
