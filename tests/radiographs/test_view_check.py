"""What is seen on radiographs that say nothing of themselves: projections of a real CT, written as image files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radiograph_files import LATERAL, write_line_integrals
from scripts import (
    BiplanarGeometry,
    LoadRadiographsd,
    PrepareXraysd,
    hu_to_attenuation,
    project,
)
from scripts.io.image_writer import write_greyscale
from scripts.radiographs import view_check
from scripts.radiographs.detector_placement import BORDER_LEVEL, BORDER_SHARE
from scripts.radiographs.view_classifier import classify

GEOMETRY = BiplanarGeometry(detector_pixels=128)


@pytest.fixture(scope="module")
def chest(chest_hu: torch.Tensor) -> torch.Tensor:
    """Attenuation of a real chest, `(1, 1, 64, 64, 64)`."""
    return hu_to_attenuation(chest_hu[None])


@pytest.fixture(scope="module", params=[("PA", "LL"), ("AP", "RL")])
def radiographs(chest: torch.Tensor, request) -> dict[str, torch.Tensor]:
    """The radiographs of two views, and the lateral one as a machine may store it, facing right."""
    frontal, lateral = project(chest, BiplanarGeometry(views=request.param, detector_pixels=128))[0]
    return {"frontal": frontal, "lateral": lateral, "turned": lateral.flip(-1)}


def warnings_of(
    folder: Path, radiographs: dict[str, torch.Tensor], frontal: str, lateral: str, suffix: str = "png"
) -> list[str]:
    """
    Warnings of two of the radiographs as image files, save that these have no spacing; they are used as they are named.
    """
    named = {"frontal": frontal, "lateral": lateral}
    record = {field: str(folder / f"{field}.{suffix}") for field in named}
    for field, path in record.items():
        write_greyscale(path, radiographs[named[field]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        loaded = LoadRadiographsd()(record)
    assert [loaded[field].path for field in named] == list(record.values())
    return [str(warning.message) for warning in caught if "no pixel spacing" not in str(warning.message)]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_radiographs_that_are_what_they_are_named_pass_without_a_word(radiographs, tmp_path: Path, suffix: str):
    assert warnings_of(tmp_path, radiographs, "frontal", "lateral", suffix) == []


@pytest.mark.parametrize(
    ("frontal", "lateral", "told"),
    [
        ("frontal", "frontal", "both look frontal"),
        ("lateral", "frontal", "the two look swapped"),
        ("turned", "frontal", "the two look swapped"),
        ("frontal", "turned", "by its image it is mirrored"),
    ],
)
def test_radiographs_that_are_not_what_they_are_named_are_told(
    radiographs, tmp_path: Path, frontal: str, lateral: str, told: str
):
    (message,) = warnings_of(tmp_path, radiographs, frontal, lateral)
    assert message.startswith(f"{tmp_path}/lateral.png: field 'lateral'")
    assert told in message


def test_a_declared_orientation_silences_the_warning_of_a_lateral_radiograph_that_it_turns(radiographs, tmp_path: Path):
    paths = {"frontal": str(tmp_path / "frontal.png"), "lateral": str(tmp_path / "turned.png")}
    for path in paths.values():
        write_greyscale(path, radiographs[Path(path).stem])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*no pixel spacing")
        LoadRadiographsd(orientations={"frontal": ["L", "F"], "lateral": ["A", "F"]})(paths)


def warnings_of_tagged(folder: Path, frontal: torch.Tensor, lateral: torch.Tensor) -> list[str]:
    """Of two images in files whose tags say that they are frontal and lateral, in display orientation."""
    record = {
        "frontal": write_line_integrals(folder / "frontal.dcm", frontal.numpy()),
        "lateral": write_line_integrals(folder / "lateral.dcm", lateral.numpy(), **LATERAL),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        loaded = LoadRadiographsd()(record)
    assert [loaded[field].path for field in record] == list(record.values())
    return [str(warning.message) for warning in caught]


def test_tags_are_believed_until_the_image_contradicts_them_clearly(radiographs, tmp_path: Path):
    frontal, lateral, turned = radiographs.values()
    assert warnings_of_tagged(tmp_path, frontal, lateral) == []
    assert warnings_of_tagged(tmp_path, frontal, torch.rand(128, 128)) == []
    (message,) = warnings_of_tagged(tmp_path, frontal, frontal)
    assert message.startswith(f"{tmp_path}/lateral.dcm: field 'lateral' looks frontal")
    assert "against its tags, which say lateral" in message and "both look frontal" in message
    (message,) = warnings_of_tagged(tmp_path, frontal, turned)
    assert message.startswith(f"{tmp_path}/lateral.dcm: field 'lateral' seems to face the other way")


def test_what_is_upside_down_sideways_inverted_or_no_chest_is_told(radiographs, tmp_path: Path):
    changes = {
        "upside down": lambda image: image.rot90(2),
        "rotated by 90 degrees anticlockwise": lambda image: image.rot90(1),
        "rotated by 270 degrees anticlockwise": lambda image: image.rot90(-1),
        "inverted": lambda image: image.max() - image,
        "does not look like a chest radiograph": lambda image: torch.rand_like(image),
    }
    for told, change in changes.items():
        for field in ("frontal", "lateral"):
            named = {**radiographs, field: change(radiographs[field])}
            (message,) = warnings_of(tmp_path, named, "frontal", "lateral")
            assert message.startswith(f"{tmp_path}/{field}.png: field '{field}'") and told in message


def test_without_its_file_the_check_says_that_nothing_was_looked_at(radiographs, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(view_check, "VIEW_CLASSIFIER", tmp_path / "moved.json")
    (message,) = warnings_of(tmp_path, radiographs, "lateral", "frontal")
    assert message.startswith(f"{tmp_path}/moved.json: no such file") and "views.json" in message


def test_brightness_contrast_and_a_border_do_not_change_what_is_seen(radiographs, tmp_path: Path):
    for name, radiograph in radiographs.items():
        write_greyscale(str(tmp_path / "plain.png"), radiograph)
        plain = np.asarray(Image.open(tmp_path / "plain.png"))
        framed = np.pad((plain * 0.5 + 60).astype(np.uint8), 6, constant_values=255)
        Image.fromarray(framed).save(tmp_path / "framed.png")
        with pytest.warns(UserWarning, match="no pixel spacing"):
            paths = [str(tmp_path / f"{kind}.png") for kind in ("plain", "framed")]
            seen = [classify(LoadRadiographsd()({"frontal": path})["frontal"]) for path in paths]
        np.testing.assert_allclose(seen[0].joint, seen[1].joint, atol=0.03, err_msg=name)


def test_a_projected_ct_comes_back_from_an_image_file_to_its_place_on_the_detector(radiographs, tmp_path: Path):
    """
    Its air is black up to the edges, and is no border whose width would change the scale. What is cropped as a border,
    where the body fades out at the cube's faces, is dark but for the share of a row that letters may take.
    """
    prepare = PrepareXraysd(["frontal", "lateral"], GEOMETRY, 8.0, (0, 100), (0.0, 1.0))
    record = {field: str(tmp_path / f"{field}.png") for field in ("frontal", "lateral")}
    for field, path in record.items():
        write_greyscale(path, radiographs[field])
    with pytest.warns(UserWarning, match="no pixel spacing"):
        placed = prepare(LoadRadiographsd()(record))
    for field in record:
        radiograph = radiographs[field]
        grey = (radiograph - radiograph.min()) / (radiograph.max() - radiograph.min())
        assert (grey[:, 0] == 0).all() and grey[64].max() > 0.3
        shown = placed[field][0] > 0
        torch.testing.assert_close(placed[field][0][shown], grey[shown], atol=0.51 / 255, rtol=0)
        is_bright_and_lost = ~shown & (grey > BORDER_LEVEL + 0.5 / 255)
        assert is_bright_and_lost.float().mean(dim=1).max() <= 1 - BORDER_SHARE
        assert (placed[field][0] - grey).abs().mean() < 0.005
