"""What a training run shows of its loss."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from ignite.metrics import Average

from .losses import MultiScaleLoss


class LossReport:
    """
    An Ignite handler for a trainer: every term of the loss by name, in the progress bar at each step and, averaged over
    the epoch and all processes, in the trainer's metrics.

    Args:
        loss: the loss of the trainer.
        desc: what the progress bar is called.
    """

    def __init__(self, loss: MultiScaleLoss, desc: str) -> None:
        self.loss, self.desc = loss, desc

    def attach(self, engine: Engine) -> None:
        for name in self.loss.names:
            Average(lambda output, name=name: self.loss.terms[name]).attach(engine, name)
        if idist.get_rank() == 0:
            ProgressBar(desc=self.desc).attach(engine, output_transform=lambda output: self.loss.terms)
