"""Exponential moving average (EMA) of the trained weights, which validation scores and the best weights are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import Evaluator
from torch import nn

from ..errors import InputError
from .gradient_clipping import batches_of_step


class ExponentialMovingAverage:
    """
    An Ignite handler for a trainer: after each step of the optimizer, brings an average of the trained weights nearer
    to them, `average = (1 - m) average + m weights`, by Ignite's `EMAHandler`. While the validator runs, the network
    has the average in their place, so that the best weights are averaged ones.

    m falls linearly from 1 to `momentum` within the first `1 / momentum` steps: the average starts from the weights
    after the first step, and forgets them.

    Only what is trained is averaged. `EMAHandler` copies what it is given, and rounds the average of a weight that
    stays as it is; frozen parameters and buffers are the network's own.

    Args:
        parameters: what is trained.
        momentum: m after the warm-up, between 0 and 1; null averages nothing.
        validator: scores the average.

    Raises:
        InputError: when the momentum is not between 0 and 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float | None, validator: Evaluator) -> None:
        self.momentum, self.validator = momentum, validator
        if momentum is None:
            return
        if not 0 < momentum < 1:
            raise InputError(f"ema is {momentum}, expected a momentum between 0 and 1, such as 0.01, or null for none.")
        self.handler = EMAHandler(nn.ParameterList(parameters), momentum, 1.0, round(1 / momentum))

    def attach(self, engine: Engine) -> None:
        if self.momentum is None:
            return
        steps = Events.ITERATION_COMPLETED(event_filter=lambda engine, _: batches_of_step(engine) > 0)
        self.handler.attach(engine, event=steps)
        self.validator.add_event_handler(Events.STARTED, self.exchange)
        self.validator.add_event_handler(Events.COMPLETED, self.exchange)

    @torch.no_grad()
    def exchange(self) -> None:
        """Gives the average to the network and keeps its weights, or the other way round."""
        for average, weight in zip(self.handler.ema_model.parameters(), self.handler.model.parameters()):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, once this is attached; empty where nothing is averaged."""
        if self.momentum is None:
            return {}
        return {"ema": self.handler.ema_model.state_dict(), "ema_steps": self.handler.momentum_scheduler.event_index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint, which may hold other things as well."""
        if self.momentum is not None:
            self.handler.ema_model.load_state_dict(state["ema"])
            self.handler.momentum_scheduler.event_index = state["ema_steps"]
