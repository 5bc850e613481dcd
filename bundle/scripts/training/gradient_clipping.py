"""Gradient clipping, a guard against values that are not finite, and micro-batches of accumulated gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from ..errors import DivergenceError, InputError


class GradientClipping:
    """
    An Ignite handler for a MONAI trainer: scales the gradients down to a norm, and stops at a loss or at gradients that
    are not finite before the step that would spoil the weights. The last checkpoint is then as good as it was.

    With gradient accumulation it acts once for each step of the optimizer, and weights a shorter group of batches at
    an epoch's end as its batches would be by themselves.

    Args:
        parameters: what is trained.
        max_norm: the largest norm of all gradients together; null does not clip.

    Raises:
        DivergenceError: when the loss, or the gradients' norm, is not finite. With float16 the gradient scaler leaves
            out a step whose gradients overflow, as it should, and only the loss is looked at.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], max_norm: float | None) -> None:
        self.parameters, self.max_norm = list(parameters), math.inf if max_norm is None else max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check_loss)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.before_step)

    def check_loss(self, engine: Engine) -> None:
        if not torch.isfinite(engine.state.output["loss"]):
            raise _divergence(engine, f"the loss is {engine.state.output['loss'].item()}")

    def before_step(self, engine: Engine) -> None:
        batches = batches_of_step(engine)
        if not batches:
            return
        scaled = engine.scaler is not None and engine.scaler.is_enabled()
        if scaled:
            engine.scaler.unscale_(engine.optimizer)
        if batches < engine.accumulation_steps:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad *= engine.accumulation_steps / batches
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        if not scaled and not torch.isfinite(norm):
            raise _divergence(engine, f"the norm of the gradients is {norm.item()}")


def batches_of_step(engine: Engine) -> int:
    """How many batches the optimizer's step that follows this batch is of, 0 when none follows it."""
    done = (engine.state.iteration - 1) % engine.state.epoch_length + 1
    group = (done - 1) % engine.accumulation_steps + 1
    return group if group == engine.accumulation_steps or done == engine.state.epoch_length else 0


def part_of_batch(batch_size: int, accumulation_steps: int) -> int:
    """
    How many records are taken at a time.

    Raises:
        InputError: when the batch cannot be taken in that many equal parts.
    """
    if accumulation_steps < 1 or batch_size % accumulation_steps:
        raise InputError(
            f"batch_size is {batch_size} and accumulation_steps {accumulation_steps}, expected a divisor of batch_size."
        )
    return batch_size // accumulation_steps


def _divergence(engine: Engine, found: str) -> DivergenceError:
    return DivergenceError(
        f"Epoch {engine.state.epoch}, step {engine.state.iteration}: {found}, expected a finite value. The weights "
        "were not changed by this step, and the checkpoints of the epochs before are good. Train with a lower learning "
        f"rate or a smaller max_gradient_norm, into another output folder."
    )
