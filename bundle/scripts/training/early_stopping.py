"""A stage's training ends when its validation no longer improves."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class EarlyStopping:
    """
    An Ignite handler for a trainer: ends the training when so many epochs have brought no better validation. It looks
    at the validator's last and best epoch alone, which :class:`~scripts.Resume` keeps, and so stops where it would
    have.

    Args:
        validator: whose key metric is watched.
        patience: epochs to wait; null never stops.
    """

    def __init__(self, validator: Evaluator, patience: int | None) -> None:
        self.validator, self.patience = validator, math.inf if patience is None else patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        validated = self.validator.state
        if validated.epoch - max(validated.best_metric_epoch, 0) >= self.patience:
            engine.logger.info(f"No better validation for {self.patience} epochs: the training ends early.")
            engine.terminate()
