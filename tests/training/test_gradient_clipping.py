from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from scripts import InputError, autocast_dtype
from scripts.training.gradient_clipping import part_of_batch
from small_training import left, stopped, training


def weights(folder: Path, **settings) -> list[torch.Tensor]:
    """What a short training without noise or dropout, whose batches can be taken in parts, comes to."""
    trainer = training(folder, epochs=2, **{"dropout": 0.0, "noise": 0.0, "target": 3.0, "still": True, **settings})
    trainer.run()
    return [parameter.detach() for parameter in trainer.network.parameters()]


@pytest.mark.parametrize(("records", "batch"), [(8, 4), (8, 8), (6, 4)])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(tmp_path: Path, records: int, batch: int):
    """Also where the epoch ends with fewer parts, here one of two parts of two records."""
    whole = weights(tmp_path / "whole", records=records, batch=batch)
    parts = weights(tmp_path / "parts", records=records, batch=batch, parts=2)
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_is_taken_in_equal_parts_only():
    assert [part_of_batch(8, parts) for parts in (1, 2, 4, 8)] == [8, 4, 2, 1]
    for parts in (0, 3, 16):
        with pytest.raises(InputError, match=f"accumulation_steps {parts}, expected a divisor"):
            part_of_batch(8, parts)


def test_the_optimizer_steps_once_for_the_whole_batch(tmp_path: Path):
    steps = []
    trainer = training(tmp_path, epochs=2, records=8, batch=4, parts=2)
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert steps == [2, 4, 6, 8]


@pytest.mark.parametrize("max_norm", [0.001, None])
def test_gradients_are_clipped_to_their_norm_and_not_without_one(tmp_path: Path, max_norm: float | None):
    norms = []
    trainer = training(tmp_path, epochs=1, max_norm=max_norm)

    def norm(optimizer, *_) -> None:
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in optimizer.param_groups[0]["params"]]).item())

    trainer.optimizer.register_step_pre_hook(norm)
    trainer.run()
    assert len(norms) == 4
    if max_norm:
        assert norms == pytest.approx([max_norm] * 4, rel=1e-3)
    else:
        assert min(norms) > 0.01


@pytest.mark.parametrize(("interval", "last", "step"), [(1, 4, 10), (5, 10, 35)])
def test_the_training_ends_early_at_the_same_epoch_when_it_was_stopped_before(
    tmp_path: Path, interval: int, last: int, step: int
):
    """The learning rate is zero, so that no validation is better than the first; one is due every so many epochs."""
    settings = {"epochs": 20, "lr": 0.0, "patience": 3, "interval": interval}
    trainer = training(tmp_path / "alone", **settings)
    trainer.run()
    assert trainer.state.epoch == last
    stopped(tmp_path / "stopped", step=step, **settings)
    for _ in range(2):  # the second finds the training at its end
        trainer = training(tmp_path / "stopped", **settings)
        trainer.run()
        assert trainer.state.epoch == last
        assert left(tmp_path / "stopped") == left(tmp_path / "alone")


def test_a_training_without_patience_does_not_end_early(tmp_path: Path):
    trainer = training(tmp_path, epochs=6, lr=0.0)
    trainer.run()
    assert trainer.state.epoch == 6


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_mixed_precision_is_float16_on_what_is_no_gpu_of_cuda(name: str):
    assert autocast_dtype(torch.device(name)) == torch.float16


def test_the_learning_rate_warms_up_and_then_follows_a_cosine(tmp_path: Path):
    trainer, rates = training(tmp_path), []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([0.001, 0.01, 0.0075, 0.0025])
