"""The names of version 0.3 of ids and fields mean what the present ones mean, warn, and may not stand next to them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle_runs import ROOT, cause_of
from launcher.failures import LaunchError
from launcher.overlays import shared_with_inference
from scripts import InputError, LoadRadiographsd, load_records
from scripts.io.shared_overlay import read_shared_overlay
from study_files import write_png, write_volume

CONFIGS = ROOT / "bundle" / "configs"
LOADERS = {"train": "load", "inference": "preprocessing"}
FORMER = {"film_scale": "transmission", "film_orientation": {"lateral": ["A", "F"]}}
PRESENT = {"radiograph_scale": "transmission", "radiograph_orientation": {"lateral": ["A", "F"]}}
RENAMED = r"\(now 'radiograph_scale'\)"


def loader_of(name: str, *overlays: Path, **overrides: Any) -> LoadRadiographsd:
    """The loader of a config, as `python -m monai.bundle run` builds it of files and `--ID VALUE`."""
    files = [str(CONFIGS / f"{name}.json"), *map(str, overlays)]
    workflow = ConfigWorkflow(files, logging_file=False, run_id="run", bundle_root=str(CONFIGS.parent), **overrides)
    workflow.initialize()
    transforms = workflow.parser.get_parsed_content(LOADERS[name]).transforms
    return next(transform for transform in transforms if isinstance(transform, LoadRadiographsd))


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("as_overlay", [False, True], ids=["on the line", "in an overlay"])
def test_a_former_config_id_means_what_the_present_one_means(name: str, as_overlay: bool, tmp_path: Path):
    former = {"film_scale": "transmission", "film_orientation#lateral": ["A", "F"]}
    present = {"radiograph_scale": "transmission", "radiograph_orientation#lateral": ["A", "F"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        expected = loader_of(name, **present)
    with pytest.warns(FutureWarning) as warned:
        overlay = [written(tmp_path / "overlay.json", former)] if as_overlay else []
        found = loader_of(name, *overlay, **({} if as_overlay else former))
    assert (found.scale, found.orientations["lateral"]) == ("transmission", ["A", "F"])
    assert found.scale == expected.scale
    assert {p: list(v) for p, v in found.orientations.items()} == {p: list(v) for p, v in expected.orientations.items()}
    texts = [str(warning.message) for warning in warned]
    assert all(any(f"'{now}'" in text for text in texts) for now in PRESENT)


@pytest.mark.parametrize(
    "ids",
    [
        {"film_scale": "transmission", "radiograph_scale": "transmission"},
        {"film_orientation#lateral": ["A", "F"], "radiograph_orientation#lateral": ["A", "F"]},
    ],
    ids=["scale", "orientation"],
)
def test_a_config_with_both_ids_is_refused(ids: dict[str, Any]):
    with pytest.raises(RuntimeError) as refused:
        loader_of("inference", **ids)
    message = cause_of(refused.value, InputError)
    assert all(f"'{name.split('#')[0]}'" in message for name in ids)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with the files of a record."""
    write_volume(tmp_path / "ct.nii.gz")
    for name in ("frontal", "lateral"):
        write_png(tmp_path / f"{name}.png")
    return tmp_path


def load(folder: Path, **fields: Any) -> dict[str, Any]:
    record = {"ct": "ct.nii.gz", "frontal": "frontal.png", "lateral": "lateral.png", **fields}
    return load_records(str(written(folder / "datalist.json", {"training": [record]})), "training")[0]


def test_a_former_field_of_a_datalist_means_what_the_present_one_means(records: Path):
    with pytest.warns(FutureWarning, match=RENAMED):
        found = load(records, **FORMER)
    assert found == load(records, **PRESENT)


def test_a_record_with_both_fields_is_refused(records: Path):
    with pytest.raises(
        InputError, match=f"datalist.json: a record of 'training': has the fields 'film_scale' {RENAMED}"
    ):
        load(records, film_scale="transmission", radiograph_scale="transmission")


def test_a_former_field_is_checked_as_the_present_one_is(records: Path):
    with pytest.warns(FutureWarning), pytest.raises(InputError, match="field 'radiograph_scale' is 'log'"):
        load(records, film_scale="log")


@pytest.mark.filterwarnings("ignore:.*no pixel spacing")
def test_a_record_that_comes_from_no_datalist_may_have_former_fields(tmp_path: Path):
    Image.fromarray(np.array([[200, 100], [50, 25]], np.uint8)).save(tmp_path / "lateral.png")
    record = {"lateral": str(tmp_path / "lateral.png")}
    with pytest.warns(FutureWarning, match=RENAMED):
        found = LoadRadiographsd()({**record, **FORMER})["lateral"].image
    np.testing.assert_allclose(found, np.log([[2, 1], [8, 4]]), rtol=1e-6)


def test_a_training_begun_under_the_former_ids_has_the_sizes_of_one_under_the_present_ones(tmp_path: Path):
    """The launcher compares the sidecar overlay of the first with the overlay of the second."""
    sidecar = written(
        tmp_path / "overlay.json",
        {"xray_scale": 8.0, "film_scale": "transmission", "+film_orientation#lateral": ["A", "F"]},
    )
    overlay = written(
        tmp_path / "own.json",
        {
            "epochs": 3,
            "xray_scale": 8.0,
            "radiograph_scale": "transmission",
            "+radiograph_orientation#lateral": ["A", "F"],
        },
    )
    with pytest.warns(FutureWarning, match=RENAMED):
        begun = read_shared_overlay(sidecar)
    assert begun == shared_with_inference(overlay)
    with pytest.warns(FutureWarning, match=RENAMED):
        assert shared_with_inference(sidecar) == begun


def test_an_overlay_with_both_ids_is_refused_before_any_run(tmp_path: Path):
    overlay = written(tmp_path / "overlay.json", {"film_scale": "transmission", "radiograph_scale": None})
    with pytest.raises(LaunchError, match=f"overlay.json: has the ids 'film_scale' {RENAMED}"):
        shared_with_inference(overlay)
    with pytest.raises(ValueError, match=f"overlay.json: has the ids 'film_scale' {RENAMED}"):
        read_shared_overlay(overlay)


def test_a_former_id_next_to_weights_runs_nothing_either(tmp_path: Path):
    with pytest.raises(ValueError, match="id 'film_scale' is '\\$exit"):
        read_shared_overlay(written(tmp_path / "overlay.json", {"film_scale": "$exit(3)"}))
