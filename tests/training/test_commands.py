"""The line that comes after a training, and the one that makes what it needs: this one's with another stage."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from scripts.training import commands
from scripts.training.commands import RunLine, this_line

PROGRAM = "/somewhere/monai/bundle/__main__.py"
OPTIONS = ["--bundle_root", "bundle", "--dataset_dir=a folder", "--ckpt_dir", "OUT", "--epochs", "3", "--amp"]


def line_of(*configs: str, options: list[str] = OPTIONS) -> RunLine:
    line = this_line([PROGRAM, "run", "training", "--config_file", str(list(configs)), *options])
    assert line is not None
    return line


def typed(line: RunLine, workflow: str = "training") -> tuple[list[str], RunLine | None]:
    """The names of the configs of a line as it is typed, and the line that a shell makes of it."""
    program, *rest = shlex.split(line.typed(workflow))
    start = rest.index("run")
    return [Path(name).stem for name in line.configs], this_line([PROGRAM, *rest[start:]])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_line_with_another_stage_keeps_everything_else(stage: int):
    own = {1: [], 2: ["stage2"], 3: ["stage3"]}[stage]
    for before in ([], ["b/stage2.json"], ["b/stage3.json"]):
        found = line_of("b/train.json", *before, "my overlay.json").of_training(stage)
        names, read = typed(found)
        assert names == ["train", *own, "my overlay"] and read == found
        assert dict(found.options) == {
            "bundle_root": "bundle", "dataset_dir": "a folder", "ckpt_dir": "OUT", "epochs": "3", "amp": "True"
        }  # fmt: skip


def test_a_line_with_one_config_is_a_line_with_a_list():
    options = ["run", "training", "--config_file", "b/train.json", "--dataset_dir", "D"]
    line = this_line([PROGRAM, *options])
    assert line is not None and typed(line)[1] == line == this_line([PROGRAM, "run", *options[2:]])
    assert line.of_training(2).configs == ("b/train.json", "b/stage2.json")


def test_each_stage_has_the_configs_of_its_own_in_a_folder_of_overlays(tmp_path: Path):
    for name in ("all", "stage1", "stage3"):
        (tmp_path / f"{name}.json").write_text("{}")
    line = line_of("b/train.json", f"{tmp_path}/all.json", f"{tmp_path}/stage1.json")
    expected = {1: ["train", "all", "stage1"], 2: ["train", "stage2", "all"], 3: ["train", "stage3", "all", "stage3"]}
    for stage, names in expected.items():
        assert typed(line.of_training(stage))[0] == names
    assert typed(line.of_training(3).of_training(1))[0] == expected[1]
    assert typed(line.of_evaluation("OUT/evaluation"), "run")[0] == ["train", "evaluate", "all", "stage3"]
    (tmp_path / "other.json").write_text("{}")  # so that it is no such folder
    assert line.of_training(3).configs[2:] == line.configs[1:]


def test_the_evaluation_is_of_as_many_processes_and_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    line = line_of("b/train.json", "b/stage3.json", "b/multi_gpu_train.json", options=["--output_dir", "OUT"])
    assert line.of_training(3).typed("training").startswith("torchrun --standalone --nproc_per_node=2 -m monai.bundle")
    evaluation = line.of_evaluation("OUT/evaluation")
    assert evaluation.configs == ("b/train.json", "b/evaluate.json")
    assert dict(evaluation.options) == {"output_dir": "OUT/evaluation"} and evaluation.processes == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch.py", "train"],
        [PROGRAM, "verify_metadata"],
        [PROGRAM, "run", "--config_file", "b/inference.json"],
        [PROGRAM, "run", "--config_file", "['b/train.json', 'b/evaluate.json']"],
        [PROGRAM, "run", "--args_file", "line.json"],
    ],
)
def test_what_trains_nothing_is_no_such_line(arguments: list[str]):
    assert this_line(arguments) is None


def test_of_several_machines_no_line_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert this_line([PROGRAM, "run", "training", "--config_file", "b/train.json"]) is None


def test_where_nothing_is_known_the_command_that_makes_a_checkpoint_is_the_general_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert commands.following_command(1, "OUT") is None
    words = shlex.split(commands.training_command(2, "OUT").partition(" (")[0])
    names = [Path(name).name for name in ast.literal_eval(words[words.index("--config_file") + 1])]
    assert names == ["train.json", "stage2.json"]
