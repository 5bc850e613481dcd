"""A compiled training. The small one is traced and its gradients are as ever; a compiler makes code of the stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bundle_runs import bundle_run_here, stage_configs
from scripts.training.checkpoints import read_checkpoint
from small_training import left, stopped, training


def test_a_compiled_training_comes_to_the_same_weights_under_the_same_names(tmp_path: Path):
    for compiled in (False, True):
        training(tmp_path / str(compiled), epochs=2, compile=compiled, ema=0.3).run()
    for name in ("best.pth", "resume/stage3_epoch0002.pth"):
        plain, compiled = (read_checkpoint(str(tmp_path / folder / name)) for folder in ("False", "True"))
        torch.testing.assert_close(compiled.get("network", compiled), plain.get("network", plain))


def test_a_compiled_training_that_was_stopped_ends_with_the_bytes_of_one_left_alone(tmp_path: Path):
    training(tmp_path / "alone", epochs=2, compile=True).run()
    stopped(tmp_path / "stopped", 6, epochs=2, compile=True)
    training(tmp_path / "stopped", epochs=2, compile=True).run()
    assert left(tmp_path / "stopped") == left(tmp_path / "alone")


def test_a_training_goes_on_compiled(tmp_path: Path):
    stopped(tmp_path, 6, epochs=2)
    trainer = training(tmp_path, epochs=2, compile=True)
    trainer.run()
    assert trainer.state.iteration == 8


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_compiled_epoch_of_each_stage_is_that_of_the_plain_one(
    trained, dataset: Path, overlay: Path, tmp_path: Path, stage: int
):
    """Without dropout, whose draws a compiler makes in its own way. Losses and validation are compared."""
    config = tmp_path / "further.json"
    config.write_text(json.dumps({**json.loads(overlay.read_text()), "network_def#feature_dropout": 0.0, "epochs": 1}))
    lines = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        for earlier in trained.folder.glob("stage?_best.pth"):
            (folder / earlier.name).write_bytes(earlier.read_bytes())
        places = {"dataset_dir": str(dataset), "ckpt_dir": str(folder), "output_dir": str(folder)}
        bundle_run_here("training", stage_configs(stage, config), compile=compiled, **places)
        line = json.loads((folder / f"stage{stage}_epochs.jsonl").read_text())
        lines.append([line["loss"], line["psnr_db"]])
    assert lines[1] == pytest.approx(lines[0], rel=1e-3)
