from __future__ import annotations

from pathlib import Path

import pytest

from scripts.io.stage_overlays import configs_of


def folder_of(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_file_is_for_every_stage(tmp_path: Path):
    assert [configs_of(tmp_path / "mine.json", stage) for stage in (1, 2, 3)] == [[tmp_path / "mine.json"]] * 3


def test_a_stage_has_what_is_for_all_and_then_its_own(tmp_path: Path):
    folder_of(tmp_path, "stage3.json", "stage1.json", "all.json", "notes.txt")
    names = {stage: [path.name for path in configs_of(tmp_path, stage)] for stage in (1, 2, 3)}
    assert names == {1: ["all.json", "stage1.json"], 2: ["all.json"], 3: ["all.json", "stage3.json"]}


@pytest.mark.parametrize(("name", "found"), [("stage4.json", "holds stage4.json"), ("notes.txt", "holds no config")])
def test_a_folder_of_something_else_is_refused_by_name(tmp_path: Path, name: str, found: str):
    with pytest.raises(ValueError, match=f"{found}, expected some of all.json, stage1.json"):
        configs_of(folder_of(tmp_path, name), 1)
