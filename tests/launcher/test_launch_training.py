"""Which trainings the launcher begins and goes on with, and what they leave next to their weights."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from bundle_runs import ROOT
from launch_fixtures import command, installed, lines, next_arguments, option_of, places  # noqa: F401  fixtures
from launcher.failures import LaunchError
from launcher.overlays import content_of, shared_with_inference
from launcher.training import demo_dataset
from launcher.weights import sidecar_overlay

TINY = ROOT / "bundle" / "configs" / "tiny.json"
SIZES = '{"network_def#tokens": 5}'


@pytest.mark.parametrize(("before", "options"), [(SIZES, []), (SIZES, ["--tiny"]), (None, ["--tiny"])])
def test_a_training_of_other_sizes_is_not_begun_over_one_that_can_go_on(
    command, dataset: Path, tmp_path: Path, before: str | None, options: list[str], capfd
):
    (tmp_path / "resume").mkdir()
    if before:
        (tmp_path / "overlay.json").write_text(before)
    assert command("train", "--dataset_dir", dataset, "--output", tmp_path, *options) == 1
    output = capfd.readouterr()
    assert f"{tmp_path} holds a training with " in output.err and "Choose another --output" in output.err
    assert "$ python" not in output.out
    assert [path.read_text() for path in tmp_path.glob("*.json")] == ([before] if before else [])


def trainings(lines: list[list[str]]) -> list[list[str]]:
    """The lines that train a stage."""
    return [line for line in lines if line[:4] == ["-m", "monai.bundle", "run", "training"]]


def test_an_overlay_of_the_training_alone_leaves_nothing_to_evaluation_and_inference(command, lines, tmp_path):
    """As that of the shipped weights: its datalist and the size of its CTs are not those of what is evaluated."""
    weights, output = places.CONFIGS / "weights", tmp_path / "output"
    assert {"datalist", "volume_size", "augment", "epochs"} <= content_of(weights, 1).keys()
    assert command("train", "--overlay", ROOT / weights, "--dataset_dir", tmp_path, "--output", output) == 0
    assert sidecar_overlay(output / "stage3_best.pth") == []
    shutil.copyfile(ROOT / weights / "all.json", output / "overlay.json")
    with pytest.raises(LaunchError, match="overlay.json: id 'datalist' is no part"):
        sidecar_overlay(output / "stage3_best.pth")


def test_of_an_overlay_with_sizes_these_alone_are_left_next_to_the_weights(command, lines, tmp_path: Path):
    (tmp_path / "overlay.json").write_text("{}")
    assert command("train", "--tiny", "--dataset_dir", tmp_path, "--output", tmp_path) == 0
    (left,) = sidecar_overlay(tmp_path / "stage3_best.pth")
    overlay, found = (json.loads(path.read_text(encoding="utf-8")) for path in (TINY, left))
    assert found == {name: overlay[name] for name in overlay if name.startswith(("geometry#", "network_def#"))}
    assert found and "epochs" not in found


def test_a_training_goes_on_with_a_schedule_that_is_its_own_to_judge(command, lines, tmp_path: Path):
    """The sizes are compared here; a change of anything else is found, and named, by the training itself."""
    overlay = tmp_path / "mine.json"
    for epochs in (1, 2):
        overlay.write_text(json.dumps({"epochs": epochs, "network_def#tokens": 4}))
        assert command("train", "--overlay", overlay, "--dataset_dir", tmp_path, "--output", tmp_path) == 0
        (tmp_path / "resume").mkdir(exist_ok=True)
    assert len(trainings(lines())) == 6


def test_the_next_line_of_each_stage_leads_to_the_evaluation(command, lines, tmp_path: Path, capfd):
    """Each is pasted as it was printed; what the first line has chosen holds for all."""
    output, line = tmp_path / "a folder", ["train", "--stage", "1", "--tiny", "--dataset_dir", tmp_path]
    line += ["--output", output, "--threads", "1", "--device", "cpu"]
    for _ in range(3):
        assert command(*line) == 0
        line = next_arguments(capfd.readouterr().out)
    (output / "stage3_best.pth").touch()
    (output / "evaluation").mkdir()
    (output / "evaluation" / "metrics.json").write_text('{"summary": [], "worst_cases": []}')
    assert command(*line) == 0
    *stages, evaluation = lines()
    for number, stage in enumerate(stages, start=1):
        configs = [Path(name).stem for name in ast.literal_eval(option_of(stage, "config_file"))]
        assert configs == ["train", *([f"stage{number}"] if number > 1 else []), "tiny"]
    assert option_of(evaluation, "weights") == str(output / "stage3_best.pth")
    assert len({(option_of(each, "dataset_dir"), option_of(each, "device")) for each in lines()}) == 1


def test_what_register_has_written_is_trained_on_by_all_stages(command, lines, tmp_path: Path, capfd):
    dataset, shapes, datalist = tmp_path / "data", tmp_path / "shapes", tmp_path / "mine.json"
    line = ["register", "--dataset_dir", dataset, "--output", shapes, "--threads", "1"]
    assert command(*line, "--datalist", datalist) == 1
    assert f"--datalist {datalist}: no such file." in capfd.readouterr().err and not lines()
    datalist.write_text("{}")
    assert command(*line, "--datalist", datalist) == 0
    (registered,) = lines()
    configs = [Path(name).stem for name in ast.literal_eval(option_of(registered, "config_file"))]
    assert configs == ["train", "anatomy", "register"]
    assert option_of(registered, "output_dir") == str(shapes) and option_of(registered, "datalist") == str(datalist)
    following = next_arguments(capfd.readouterr().out)
    following += ["--stage", "1", "--output", tmp_path]
    for _ in range(3):
        assert command(*following) == 0
        following = next_arguments(capfd.readouterr().out)
    assert {option_of(each, "shapes_dir") for each in trainings(lines())} == {str(shapes)}


@pytest.mark.parametrize("is_finished", [False, True])
def test_what_later_stages_need_is_checked_until_the_first_has_ended(command, lines, tmp_path, is_finished, capfd):
    (tmp_path / "resume").mkdir()
    if is_finished:
        (tmp_path / "resume" / "stage1_finished.json").write_text("{}")
    assert command("train", "--dataset_dir", tmp_path, "--output", tmp_path) == 0
    assert ("=== What the later stages need ===" in capfd.readouterr().out) is not is_finished
    assert len(trainings(lines())) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file."),
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object of config ids."),
        ('{"datalist": "split.json"}', "names a datalist: say by --dataset_dir where the files of its records lie."),
    ],
)
def test_an_overlay_that_cannot_be_used_is_refused_at_once(
    command, lines, tmp_path: Path, content, message: str, capfd
):
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    assert command("train", "--overlay", tmp_path / "mine.json", "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"\nlaunch.py: error: {tmp_path}/mine.json") and message in error
    assert not lines() and not (tmp_path / "output").exists()


def test_the_demos_dataset_is_not_written_again_under_a_training(lines, tmp_path: Path):
    tiny = places.CONFIGS / "tiny.json"
    assert demo_dataset(tmp_path, tiny) == tmp_path / "data"
    assert [option_of(line, "dataset_dir") for line in lines()] == [f"{tmp_path}/data"]
    for folder in ("data", "resume"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "datalist.json").write_text("{}")
    (tmp_path / "overlay.json").write_text(json.dumps(shared_with_inference(ROOT / tiny)))
    assert demo_dataset(tmp_path, tiny) == tmp_path / "data"
    assert [option_of(line, "dataset_dir") for line in lines()] == [f"{tmp_path}/data"]


def stage_overlay(folder: Path, **contents: dict) -> Path:
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_each_stage_is_trained_by_its_own_overlay(command, lines, tmp_path: Path):
    contents = {"all": {"vgg": 0}, "stage1": {"epochs": 3}, "stage3": {"epochs": 4}}
    overlay = stage_overlay(tmp_path / "mine", **contents)
    assert command("train", "--overlay", overlay, "--dataset_dir", tmp_path, "--output", tmp_path / "out") == 0
    found = [ast.literal_eval(option_of(line, "config_file"))[1:] for line in trainings(lines())]
    own = [
        [str(overlay / f"{name}.json") for name in names] for names in (["all", "stage1"], ["all"], ["all", "stage3"])
    ]
    assert found == [own[0], ["bundle/configs/stage2.json", *own[1]], ["bundle/configs/stage3.json", *own[2]]]


@pytest.mark.parametrize(
    ("contents", "refused"),
    [
        (
            {"all": {}, "stage2": {"network_def#tokens": 4}},
            "stages 1 and 2 have different values of 'network_def#tokens'",
        ),
        ({"stage2": {"datalist": "a.json"}}, "names a datalist"),
        ({"all": {"+loss": {"l1": 1}}, "stage3": {"+loss": {"l1": 2}}}, "'\\+loss' is in all.json too"),
        ({"stage_1": {}}, "holds stage_1.json, expected some of all.json"),
        ({}, "holds no config"),
    ],
)
def test_a_folder_of_overlays_that_cannot_be_used_is_refused_at_once(
    command, lines, tmp_path: Path, contents: dict, refused: str, capsys
):
    overlay = stage_overlay(tmp_path / "mine", **contents)
    data = [] if "datalist" in refused else ["--dataset_dir", tmp_path]
    assert command("train", "--overlay", overlay, *data, "--output", tmp_path / "output") == 1
    assert re.search(refused, capsys.readouterr().err) and not lines()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Weights with sizes of their own."""
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "overlay.json").write_text('{"network_def#tokens": 4, "geometry#fov_mm": 360.0}')
    (tmp_path / "shipped" / "model.pt").touch()
    return tmp_path / "shipped" / "model.pt"


def test_a_training_from_weights_has_their_sizes_and_what_the_overlay_changes_of_them(
    command, lines, shipped: Path, tmp_path: Path, capfd
):
    knee, output = places.CONFIGS / "knee.json", tmp_path / "out"
    line = ["train", "--stage", "1", "--overlay", ROOT / knee, "--from", shipped, "--dataset_dir", tmp_path]
    line += ["--output", output]
    for _ in range(3):
        assert command(*line) == 0
        line = next_arguments(capfd.readouterr().out)
        (output / "resume").mkdir(exist_ok=True)
    for number, stage in enumerate(trainings(lines()), start=1):
        own = [f"bundle/configs/stage{number}.json"] if number > 1 else []
        of_start = str(shipped.parent / "overlay.json")
        assert ast.literal_eval(option_of(stage, "config_file"))[1:] == [*own, of_start, knee.as_posix()]
        assert option_of(stage, "start_from") == str(shipped)
    left = json.loads((output / "overlay.json").read_text())
    assert (left["network_def#tokens"], left["geometry#fov_mm"], left["xray_scale"]) == (4, 180.0, 4.0)
    assert command("train", "--dataset_dir", tmp_path, "--output", output) == 1
    assert f"{output} holds a training with the sizes of {output}/overlay.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("none.pt", ["--dataset_dir", "data"], "no such file, expected weights, such as stage3_best.pth"),
        ("", ["--dataset_dir", "data"], "is a folder, expected a file in it, such as stage3_best.pth"),
        ("model.pt", [], "--from needs --dataset_dir"),
        ("model.pt", ["--dataset_dir", "data", "--output", "{folder}"], "lies in --output, which is written over"),
    ],
)
def test_what_a_training_cannot_start_from_is_refused_at_once(
    command, lines, shipped: Path, weights: str, options: list[str], message: str, capfd
):
    given = [option.format(folder=shipped.parent) for option in options]
    assert command("train", "--from", shipped.parent / weights, *given) == 1
    assert message in capfd.readouterr().err and not lines()
