from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from bundle_runs import bundle_run, stage_configs
from scripts import InputError
from scripts.training.checkpoints import read_checkpoint
from small_training import left, stopped, training

MOMENTUM = 0.1
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
"""The momentum of the first ten steps."""


def trained(folder: Path, **settings) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The weights after each step of the optimizer, and those of the network in each of two validation cases."""
    trainer, after_steps, validated = training(folder, **settings), [], []

    def weights(*_) -> torch.Tensor:
        return parameters_to_vector(trainer.network.parameters()).detach().clone()

    trainer.optimizer.register_step_post_hook(lambda *_: after_steps.append(weights()))
    trainer.network.register_forward_hook(lambda network, *_: None if network.training else validated.append(weights()))
    trainer.run()
    return after_steps, validated


@pytest.mark.parametrize("parts", [1, 2])
def test_the_average_follows_its_formula_once_a_step_of_the_optimizer(tmp_path: Path, parts: int):
    """Also where an epoch of 7 records ends with a step of one part alone. Validation and the best weights have it."""
    after_steps, validated = trained(tmp_path, ema=MOMENTUM, parts=parts)
    assert len(after_steps) == 16
    average, expected = torch.zeros_like(after_steps[0]), []
    for step, (weights, momentum) in enumerate(zip(after_steps, FALLING + [MOMENTUM] * 6), start=1):
        average = (1 - momentum) * average + momentum * weights
        if step % 4 == 0:
            expected += [average] * 2
    torch.testing.assert_close(torch.stack(validated), torch.stack(expected))
    best = torch.cat([value.flatten() for value in read_checkpoint(str(tmp_path / "best.pth")).values()])
    assert any(torch.equal(best, weights) for weights in validated)


def test_the_trained_weights_are_those_of_a_training_without_average(tmp_path: Path):
    with_average, validated = trained(tmp_path / "with", ema=MOMENTUM)
    without, also_validated = trained(tmp_path / "without")
    assert torch.equal(torch.stack(with_average), torch.stack(without))
    assert not torch.equal(torch.stack(validated), torch.stack(also_validated))
    assert torch.equal(torch.stack(also_validated[::2]), torch.stack(without[3::4]))


@pytest.mark.parametrize("step", [1, 4, 7, 14])
def test_a_stopped_training_ends_with_the_bytes_of_one_left_alone(tmp_path: Path, step: int):
    """In the warm-up of ten steps and after it."""
    training(tmp_path / "alone", ema=MOMENTUM).run()
    stopped(tmp_path / "stopped", step, ema=MOMENTUM)
    training(tmp_path / "stopped", ema=MOMENTUM).run()
    assert left(tmp_path / "stopped") == left(tmp_path / "alone")


def test_frozen_parameters_keep_their_bits(tmp_path: Path):
    trainer = training(tmp_path, ema=MOMENTUM, frozen=True)
    before = {name: value.clone() for name, value in trainer.network[0].state_dict().items()}
    trainer.run()
    best = read_checkpoint(str(tmp_path / "best.pth"))
    assert all(torch.equal(best[f"0.{name}"], value) for name, value in before.items())
    assert not torch.equal(best["2.weight"], trainer.network[2].weight)


@pytest.mark.parametrize("momentum", [0, 1, -0.1, 1.5, float("nan")])
def test_a_momentum_that_is_none_is_refused_by_its_id(tmp_path: Path, momentum: float):
    with pytest.raises(InputError, match=rf"ema is {momentum}, expected a momentum between 0 and 1"):
        training(tmp_path, ema=momentum)


def test_every_process_has_the_same_average(dataset: Path, overlay: Path, tmp_path: Path):
    """Two train the first stage; the best weights are the average after their one epoch."""
    kept = "$torch.save(@average.state_dict(), @ckpt_dir + '/average' + os.environ['RANK'] + '.pth')"
    config = tmp_path / "further.json"
    further = {"epochs": 1, "batch_size": 1, "ema": 0.4, "+imports": ["$import os"], "+training": [kept]}
    config.write_text(json.dumps({**json.loads(overlay.read_text()), **further}))
    configs = [*stage_configs(1), "bundle/configs/multi_gpu_train.json", str(config)]
    places = {"dataset_dir": dataset, "ckpt_dir": tmp_path, "output_dir": tmp_path}
    run = bundle_run("training", configs, processes=2, **places)
    assert run.returncode == 0, run.stdout[-3000:]
    one, other = (read_checkpoint(str(tmp_path / f"average{rank}.pth")) for rank in (0, 1))
    assert one["ema_steps"] == other["ema_steps"] > 1
    assert all(torch.equal(one["ema"][name], other["ema"][name]) for name in one["ema"])
    best = read_checkpoint(str(tmp_path / "stage1_best.pth"))
    assert all(map(torch.equal, best.values(), one["ema"].values()))
    last = read_checkpoint(str(tmp_path / "resume" / "stage1_epoch0001.pth"))["network"]
    assert not all(map(torch.equal, best.values(), last.values()))
