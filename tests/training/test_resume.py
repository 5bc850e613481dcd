from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from bundle_runs import ROOT, stage_configs
from scripts import (
    CheckpointError,
    DivergenceError,
    OutputError,
)
from scripts.training.checkpoints import read_checkpoint
from scripts.training.resume import differences, is_finished, saved_epochs
from small_training import left, stop, stopped, training

MOMENTS = {
    1: ["step 1", "writing stage1_epoch0001.pth", "written stage1_best.pth"],
    2: ["writing stage2_best.pth", "step 3"],
    3: ["written stage3_best.pth"],
}


SMALLER = {
    "geometry#detector_pixels": 96,
    "network_def#tokens": 3,
    "network_def#context_size": 12,
    "batch_size": 1,
    "repeats": 1,
    "validate#dataset#data": "$scripts.load_records(@datalist, 'validation')[:1]",
}
"""Two steps an epoch and one validation case, at 12, 24 and 48 voxels."""


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The folder of a training that was left alone."""
    training(tmp_path / "alone").run()
    return tmp_path / "alone"


def checkpoint(folder: Path, epoch: int) -> Path:
    return folder / "resume" / f"stage3_epoch{epoch:04d}.pth"


def refusal(folder: Path, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        training(folder, **settings).run()
    return str(caught.value)


@pytest.fixture(scope="module")
def twins(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of three stages, the second by Muon with an average, left alone, and killed again and again."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked, to import once")
    folder = tmp_path_factory.mktemp("twins")
    (folder / "smaller.json").write_text(json.dumps({**json.loads(overlay.read_text()), **SMALLER}))
    runs = []
    for name, moments in (("alone", {}), ("killed", MOMENTS)):
        places = {"dataset_dir": str(dataset), "ckpt_dir": str(folder / name), "output_dir": str(folder / name)}
        for stage in (1, 2, 3):
            configs = stage_configs(stage, folder / "smaller.json")
            further = {"ema": 0.3, "optimizer#_target_": "scripts.MuonWithAdamW"} if stage == 2 else {}
            runs.append({"configs": configs, "moments": moments.get(stage, []), "overrides": {**places, **further}})
    line = [sys.executable, str(ROOT / "tests" / "killed_runs.py"), json.dumps(runs)]
    run = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert run.returncode == 0, run.stdout[-3000:]
    return folder / "alone", folder / "killed"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_training_killed_again_and_again_ends_with_the_bytes_of_one_left_alone(twins: tuple[Path, Path], stage: int):
    alone, killed = twins
    for name in (f"stage{stage}_best.pth", f"resume/stage{stage}_epoch0001.pth", f"resume/stage{stage}_epoch0002.pth"):
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    lines = [json.loads(line) for line in (killed / f"stage{stage}_epochs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert not list(killed.rglob(".unfinished-*"))


def test_the_next_stage_takes_the_average_and_keeps_what_was_frozen(twins: tuple[Path, Path]):
    """Four steps of the second stage, of which the momentum of three is 1, 0.65 and 0.3."""
    first, second, third = (read_checkpoint(str(twins[0] / f"stage{stage}_best.pth")) for stage in (1, 2, 3))
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert all(torch.equal(third[name], value) for name, value in second.items())
    trained = [read_checkpoint(str(twins[0] / "resume" / f"stage2_epoch000{epoch}.pth")) for epoch in (1, 2)]
    own = [name for name in second if name not in first]
    averages = [dict(zip(own, state["ema"].values(), strict=True)) for state in trained]
    assert any(all(torch.equal(second[name], average[name]) for name in own) for average in averages)
    for state, average in zip(trained, averages):
        assert any(not torch.equal(state["network"][name], average[name]) for name in own)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_every_kind_of_randomness_is_that_of_the_epoch_wherever_it_was_stopped(tmp_path: Path, workers: int, step: int):
    """Order, dropout, the transforms' draws in the loader's workers, and those of `prepare_batch`; 4 steps an epoch."""
    training(tmp_path / "alone", epochs=2, workers=workers).run()
    stopped(tmp_path / "stopped", step, epochs=2, workers=workers)
    training(tmp_path / "stopped", epochs=2, workers=workers).run()
    assert left(tmp_path / "stopped") == left(tmp_path / "alone")


def test_epochs_draw_anew(tmp_path: Path):
    drawn = []
    trainer = training(tmp_path, epochs=3)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: drawn.append(engine.state.output["image"]))
    trainer.run()
    images = torch.cat(drawn)
    assert len(images.unique(dim=0)) == len(images) == 21


def test_the_last_two_checkpoints_are_kept(alone: Path):
    assert saved_epochs(str(alone / "resume"), 3) == [3, 4]


def test_a_finished_training_is_left_as_it_is(alone: Path):
    before = left(alone)
    assert is_finished(str(alone / "resume"), 3)
    trainer = training(alone)
    trainer.add_event_handler(Events.EPOCH_STARTED, stop)
    trainer.run()
    assert left(alone) == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(read_checkpoint(str(path))["network"]["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)


def replace_by_weights(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def replace_by_an_object(path: Path) -> None:
    torch.save(Path("code that weights_only does not run"), path)


def take_away_a_parameter(path: Path) -> None:
    state = read_checkpoint(str(path))
    del state["network"]["0.bias"]
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, replace_by_weights, replace_by_an_object, take_away_a_parameter]
)
def test_an_unusable_checkpoint_is_named_and_the_one_before_it_used(alone: Path, tmp_path: Path, damage: Callable):
    stopped(tmp_path / "damaged", step=14)
    assert saved_epochs(str(tmp_path / "damaged" / "resume"), 3) == [2, 3]
    damage(checkpoint(tmp_path / "damaged", 3))
    with pytest.warns(UserWarning, match=r"stage3_epoch0003\.pth: .* goes on after epoch 2 instead"):
        training(tmp_path / "damaged").run()
    assert left(tmp_path / "damaged") == left(alone)


def test_a_checkpoint_of_another_training_is_named_and_the_one_before_it_used(alone: Path, tmp_path: Path):
    training(tmp_path / "other", lr=0.02).run()
    stopped(tmp_path / "stopped", step=14)
    shutil.copy(checkpoint(tmp_path / "other", 3), checkpoint(tmp_path / "stopped", 3))
    with pytest.warns(UserWarning, match=r"stage3_epoch0003\.pth: belongs to a training with other settings"):
        training(tmp_path / "stopped").run()
    assert left(tmp_path / "stopped") == left(alone)


def test_a_file_of_a_later_epoch_takes_no_place_of_the_last_two(alone: Path, tmp_path: Path):
    stopped(tmp_path / "stopped", step=6)
    checkpoint(tmp_path / "stopped", 9).write_bytes(b"of something else")
    with pytest.warns(UserWarning, match=r"stage3_epoch0009\.pth: cannot be read"):
        training(tmp_path / "stopped").run()
    assert saved_epochs(str(tmp_path / "stopped" / "resume"), 3) == [3, 4, 9]


def test_without_a_usable_checkpoint_training_does_not_start_anew_in_silence(alone: Path):
    before = (alone / "best.pth").read_bytes()
    for epoch in (3, 4):
        truncate(checkpoint(alone, epoch))
    message = refusal(alone)
    assert message.startswith(f"{checkpoint(alone, 4)}: is damaged, it may be cut short")
    assert f"remove {alone}/resume to train this stage anew" in message
    assert (alone / "best.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.02}, "optimizer.lr was 0.01, is 0.02"),
        ({"epochs": 5}, "epochs was 4, is 5"),
        ({"batch": 3}, "batch_size was 2, is 3"),
        ({"records": 8}, "records.training.7.0 was absent, is case_7"),
        ({"target": 2.0}, "prepare_batch.target was 1.0, is 2.0"),
        ({"ema": 0.1}, "ema was absent, is 0.1"),
        ({"dropout": 0.25}, "network.1 was Dropout(p=0.5, inplace=False), is Dropout(p=0.25, inplace=False)"),
    ],
)
def test_changed_settings_are_named(alone: Path, settings: dict, message: str):
    before = left(alone)
    assert message in refusal(alone, **settings)
    assert left(alone) == before


def test_missing_best_weights_are_missed(alone: Path):
    (alone / "best.pth").unlink()
    assert f"its best weights, {alone}/best.pth, are missing" in refusal(alone)


def test_missing_checkpoints_of_a_finished_training_are_missed(alone: Path):
    for epoch in (3, 4):
        checkpoint(alone, epoch).unlink()
    assert "a finished training whose checkpoints are missing" in refusal(alone)


def test_other_weights_of_the_stage_before_are_noticed(tmp_path: Path):
    """The first layer stands for it: it is frozen, and loaded before the trainer starts."""
    for changed in (False, True):
        trainer = training(tmp_path, epochs=2, frozen=True)
        with torch.no_grad():
            trainer.network[0].bias += changed
        if changed:
            with pytest.raises(
                CheckpointError, match=r"other weights .* than stage2_best.pth has now \('0\.bias' differs\)"
            ):
                trainer.run()
        else:
            trainer.run()


def test_a_full_disk_leaves_what_was_written_before(alone: Path, tmp_path: Path):
    resource = pytest.importorskip("resource")
    trainer, limits = training(tmp_path / "full"), resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer.add_event_handler(
        Events.EPOCH_STARTED(once=3), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    )
    try:
        with pytest.raises(OutputError, match="File too large.*start the same command again"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    read_checkpoint(str(tmp_path / "full" / "best.pth"))
    assert saved_epochs(str(tmp_path / "full" / "resume"), 3) == [1, 2]
    assert not list(tmp_path.rglob(".unfinished-*"))
    training(tmp_path / "full").run()
    assert left(tmp_path / "full") == left(alone)


@pytest.mark.parametrize("poisoned", ["loss", "gradient"])
def test_values_that_are_not_finite_stop_the_training_before_the_weights_are_spoilt(tmp_path: Path, poisoned: str):
    trainer = training(tmp_path)

    def poison(engine) -> None:
        if engine.state.iteration == 11:
            factor = torch.full((), torch.nan, requires_grad=True)
            if poisoned == "loss":
                engine.state.output["pred"] = engine.state.output["pred"] * factor
            else:
                engine.network[0].weight.register_hook(lambda gradient: gradient * torch.nan)

    trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, poison)
    saved = {}
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: saved.update(weight=engine.network[0].weight.detach().clone())
    )
    with pytest.raises(DivergenceError, match=r"Epoch 3, step 11: .* is nan, expected a finite value"):
        trainer.run()
    assert torch.equal(trainer.network[0].weight, saved["weight"])
    assert saved_epochs(str(tmp_path / "resume"), 3) == [1, 2]
    for path in tmp_path.rglob("*.pth"):
        read_checkpoint(str(path))


def test_a_validation_that_is_not_a_number_never_becomes_the_best(tmp_path: Path):
    with pytest.raises(DivergenceError, match="score of epoch 1 is not a number"):
        training(tmp_path, validation_target=float("nan")).run()
    assert not list(tmp_path.rglob("*.pth"))


def rewritten(folder: Path, change: Callable[[str], str]) -> None:
    """Changes the classes that the settings of all checkpoints name."""
    for path in (folder / "resume").glob("stage3_epoch*.pth"):
        state = torch.load(path, weights_only=True)
        is_class = [name for name in state["settings"] if name.split(".")[-1] == "class"]
        assert is_class
        state["settings"].update({name: change(state["settings"][name]) for name in is_class})
        torch.save(state, path)


def test_a_training_goes_on_when_its_classes_have_moved_to_other_modules(tmp_path: Path):
    """As checkpoints had them before: with the module, which may be another now."""
    stopped(tmp_path, 10)
    rewritten(tmp_path, lambda name: f"scripts.where_it_was.{name}")
    trainer = training(tmp_path)
    trainer.run()
    assert trainer.state.epoch == 4 and trainer.state.iteration > 10


def test_a_training_of_another_class_is_refused_by_its_name(tmp_path: Path):
    stopped(tmp_path, 10)
    rewritten(tmp_path, lambda name: name.replace("NoisyBatch", "OtherBatch"))
    assert "prepare_batch.class was OtherBatch, is NoisyBatch" in refusal(tmp_path)


BEFORE = {
    "prepare_batch.project.class": "ProjectCT",
    "prepare_batch.project.geometry.class": "BiplanarGeometry",
    "prepare_batch.project.geometry.fov_mm": 360.0,
    "prepare_batch.project.xray_scale": 8.0,
    "prepare_batch.scale.class": "ScaleIntensityRange",
    "prepare_batch.scale.a_min": -1024,
    "prepare_batch.scale.a_max": 1024,
    "prepare_batch.noise.xray_scale": 8.0,
    "network.stages.0.reprojection.class": "Reprojection",
    "network.stages.0.reprojection.xray_scale": 8.0,
    "transforms.0.geometry.fov_mm": 360.0,
    "transforms.1.geometry.fov_mm": 360.0,
    "transforms.1.xray_scale": 8.0,
}
MODEL = {
    "class": "ImagingModel",
    "geometry.class": "BiplanarGeometry",
    "geometry.fov_mm": 360.0,
    "hu_window.0": -1024,
    "hu_window.1": 1024,
    "xray_scale": 8.0,
}
HOLDERS = ("prepare_batch", "network.stages.0", "transforms.1")
NOW = {
    **{f"{holder}.imaging.{name}": value for holder in HOLDERS for name, value in MODEL.items()},
    "prepare_batch.noise.xray_scale": 8.0,
    "transforms.0.geometry.fov_mm": 360.0,
}


def test_a_training_of_before_the_imaging_model_goes_on():
    """Of version 0.3, in whose settings geometry, window and scale stood in each object apart."""
    assert differences(BEFORE, NOW) == ""


@pytest.mark.parametrize("name", ["prepare_batch.scale.a_max", "prepare_batch.project.geometry.fov_mm"])
def test_a_training_of_before_the_imaging_model_is_refused_with_another_one(name: str):
    assert " was 500.0, is " in differences({**BEFORE, name: 500.0}, NOW)


@pytest.mark.parametrize("name", ["prepare_batch.noise.xray_scale", "transforms.0.geometry.fov_mm"])
def test_what_is_no_part_of_the_imaging_model_is_compared_as_ever(name: str):
    assert f"{name} was 500.0, is " in differences({**BEFORE, name: 500.0}, NOW)


def test_a_training_whose_network_was_not_told_of_random_geometries_goes_on_under_the_present_names():
    former = {"class": "RandGeometry", "geometry.class": "BiplanarGeometry", "geometry.fov_mm": 360.0, "distance": 0.05}
    before = {f"prepare_batch.augment_geometry.{name}": value for name, value in former.items()}
    now = {"class": "RandGeometry", "distance": 0.05, "views": None}
    untold = {f"prepare_batch.geometry_error.{name}": value for name, value in now.items()}
    assert differences(before, {**untold, "prepare_batch.augment_geometry": None}) == ""
    told = {f"prepare_batch.augment_geometry.{name}": value for name, value in now.items()}
    assert "prepare_batch.geometry_error.distance was 0.05, is absent" in differences(before, told)


def test_a_training_of_before_mirror_averaging_goes_on_without_it():
    assert differences({"seed": 0}, {"seed": 0, "network.mirror_averaging": False}) == ""
    averaging = {"seed": 0, "network.mirror_averaging": True}
    assert differences({"seed": 0}, averaging) == "network.mirror_averaging was False, is True"


def test_a_training_of_before_view_dropout_goes_on_without_it_and_not_with_it():
    settings = {"prepare_batch.class": "PrepareBiplanarBatch", "prepare_batch.crop": None}
    now = {**settings, "prepare_batch.view_dropout": 0.0, "prepare_batch.only": None}
    assert differences(settings, now) == ""
    dropped = {**now, "prepare_batch.view_dropout": 0.5}
    assert differences(settings, dropped) == "prepare_batch.view_dropout was 0.0, is 0.5"


def test_a_checkpoint_that_a_training_goes_on_from_is_opened_once(tmp_path: Path):
    """By Python's own record of what is opened."""
    stopped(tmp_path, 10)
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    training(tmp_path, epochs=4).run()
    assert opened.count(str(checkpoint(tmp_path, 2))) == 1


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 2)])
def test_another_number_of_threads_is_told_when_a_training_goes_on(tmp_path: Path, before: int, now: int, caplog):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        stopped(tmp_path, 10)
        torch.set_num_threads(now)
        trainer = training(tmp_path)
        trainer.logger.disabled = False
        trainer.run()
    finally:
        torch.set_num_threads(threads)
    message = f"computed by {before} threads, these are by {now}: sums are taken in another order"
    assert (message in caplog.text) is (before != now)
