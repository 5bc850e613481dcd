"""Paths that hold signs which have a meaning in MONAI's configs, and names that a terminal must not see as they are."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from bundle_runs import read_configs
from launch_fixtures import command, installed, pair_options, random_weights  # noqa: F401  fixtures
from launcher import verbs
from launcher.arguments import check_arguments
from launcher.failures import LaunchError
from launcher.workflows import as_config_value
from phantoms import phantom
from scripts.io.image_writer import cube_affine, write_ct
from unwritable import on_posix

NAMES = [
    "run#1",
    "a#b#c",
    "@output_dir",
    "patient@#1",
    "100%",
    "%training",
    "$HOME",
    "$(x) #`y`",
    'it\'s "one" #2',
    "back\\slash#\\x23",
    "Müller Größe #ß",
    "import os #",
    "[1, 2], {a: b} #",
    "run 1",
    "Müller's",
]


@on_posix
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("configs", "ids", "derived"),
    [
        (["train.json"], ["dataset_dir", "ckpt_dir", "output_dir", "datalist"], {"resume_dir": "ckpt_dir"}),
        (["train.json", "evaluate.json"], ["dataset_dir", "datalist", "weights", "output_dir"], {}),
        (["inference.json"], ["frontal", "lateral", "weights", "output_dir"], {}),
    ],
)
def test_every_path_that_is_handed_on_is_read_as_it_is(name: str, configs, ids, derived):
    """By the two parsers that it meets: that of the command line of `monai.bundle`, and that of its configs."""
    paths = {each: Path("/somewhere") / name / each / name for each in ids}
    overrides = {each: DefaultParseValue(as_config_value(path)) for each, path in paths.items()}
    parser = read_configs([f"bundle/configs/{config}" for config in configs], **overrides)
    parser.set({"_target_": "builtins.dict", **{each: f"@{each}" for each in ids}}, "of_a_component")
    assert parser.get_parsed_content("of_a_component") == {each: str(path) for each, path in paths.items()}
    for each, place in derived.items():
        assert parser.get_parsed_content(each) == f"{paths[place]}/resume"


@on_posix
def test_infer_works_in_folders_of_any_printable_name(command, random_weights, dataset: Path, tmp_path: Path, capfd):
    folder = tmp_path / "run #1 @output_dir 100% $HOME" / 'Müller\'s "radiographs"'
    folder.mkdir(parents=True)
    for file in (random_weights, random_weights.with_name("overlay.json"), *dataset.glob("phantom_6_*.nii.gz")):
        shutil.copyfile(file, folder / file.name)
    assert (
        command(
            "infer", *pair_options(folder), "--weights", folder / random_weights.name, "--output", folder / "out#put"
        )
        == 0
    )
    assert sorted(path.name for path in (folder / "out#put").iterdir()) == [
        "ct.nii.gz",
        "measurements.json",
        "preview.png",
        "run.json",
        "view.html",
    ]
    assert f"in {folder / 'out#put'}; view.html opens" in capfd.readouterr().out


@on_posix
def test_a_datalist_is_written_in_such_a_folder(command, tmp_path: Path):
    for name in ("p1", "p2", "p3"):
        write_ct(str(tmp_path / "a #1 @b" / f"{name}.nii.gz"), phantom(8, 0.0), cube_affine(8, 360.0))
    assert command("datalist", tmp_path / "a #1 @b") == 0
    assert json.loads((tmp_path / "a #1 @b" / "datalist.json").read_text())["training"]


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\u202eb", os.fsdecode(b"a\xffb")])
def test_a_path_that_cannot_be_printed_is_refused_and_shown_by_escapes(command, tmp_path: Path, name: str, capfd):
    assert command("train", "--output", tmp_path / name) == 1
    error = capfd.readouterr().err
    assert error.startswith("\nlaunch.py: error: --output ") and "holds a character that cannot be printed" in error
    assert error.strip("\n").isprintable()


def test_an_error_of_another_package_cannot_move_the_cursor(command, monkeypatch, capfd):
    def fail(arguments) -> None:
        raise LaunchError("one\x1b[2J.nii: broken\nthe second line\u202e")

    monkeypatch.setattr(verbs, "datalist", fail)
    assert command("datalist", "d") == 1
    assert capfd.readouterr().err == "\nlaunch.py: error: one\\x1b[2J.nii: broken\nthe second line\\u202e\n"


def test_a_link_into_a_cache_keeps_the_name_that_says_what_it_leads_to(tmp_path: Path):
    """As in Hugging Face's cache, where weights lie under their hash, far from their sidecar files."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123abc").touch()
    (tmp_path / "model.pt").symlink_to(Path("blobs") / "0123abc")
    arguments = argparse.Namespace(weights=tmp_path / "blobs" / ".." / "model.pt")
    check_arguments(arguments)
    assert arguments.weights == tmp_path / "model.pt"
