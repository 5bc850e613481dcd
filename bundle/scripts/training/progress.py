"""What a training run shows of itself: a bar, a line for each epoch, a line of JSON for scripts, a summary."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import Average
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents

from ..io.atomic_write import write_atomically
from ..losses.stage_losses import MultiScaleLoss
from .commands import following_command
from .loading import was_launched

try:
    import resource
except ImportError:  # Windows has none
    resource = None


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
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, _as_list)
        if idist.get_rank() == 0:
            ProgressBar(desc=self.desc).attach(engine, output_transform=lambda output: self.loss.terms)


class EpochReport:
    """
    An Ignite handler for a trainer: tells after each epoch the best validation so far, the time left and the peak
    memory, writes them with all losses and metrics as one line of JSON, and tells at the end where the best weights are
    and which command comes next.

    After a resumption the lines of epochs that are run again are replaced. Attach it after the validation.

    Args:
        path: the file of JSON lines: `epoch`, `step`, `learning_rate`, `seconds`, `peak_memory_gib`, the mean of each
            term of the loss, and, where the epoch ended with a validation, its metrics and `best_epoch`.
        validator: whose metrics are printed.
        best_path: where the best weights are.
        stage: the stage that is trained.
    """

    def __init__(self, path: str, validator: Evaluator, best_path: str, stage: int) -> None:
        self.path, self.validator, self.best_path, self.stage = path, validator, best_path, stage
        self.started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)
        engine.add_event_handler(Events.COMPLETED, self.summarise)

    def start(self, engine: Engine) -> None:
        self.started = time.monotonic()

    def report(self, engine: Engine) -> None:
        """Writes the epoch's line and tells how the training stands."""
        state, validation = engine.state, self.validator.state
        line = {
            "epoch": state.epoch,
            "step": state.iteration,
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self.started, 3),
            "peak_memory_gib": peak_memory_gib(state.device),
            **state.metrics,
        }
        if validation.epoch == state.epoch:
            line |= {**validation.metrics, "best_epoch": validation.best_metric_epoch}
        lines = [earlier for earlier in self._lines() if earlier["epoch"] < state.epoch] + [line]
        write_atomically(self.path, lambda temporary: _write_lines(temporary, lines))
        left = sum(each["seconds"] for each in lines) / len(lines) * (state.max_epochs - state.epoch)
        engine.logger.info(
            f"Stage {self.stage}, epoch {state.epoch} of {state.max_epochs}: {self._best()}, {in_words(left)} left, "
            f"peak memory {line['peak_memory_gib']} GiB"
        )

    def summarise(self, engine: Engine) -> None:
        """Tells what has been written and what comes next."""
        print(f"\nStage {self.stage} has ended after epoch {engine.state.epoch}: {self._best()}.")
        if self.validator.state.best_metric_epoch > 0:
            print(f"Weights of that epoch: {self.best_path}", flush=True)
            following = None if was_launched() else following_command(self.stage, os.path.dirname(self.best_path))
            if following is not None:
                print(f"Next: {following}", flush=True)

    def _best(self) -> str:
        best = self.validator.state
        if best.best_metric_epoch < 1:
            return "no validation yet, so that no weights have been written"
        return f"best {best.key_metric_name} {best.best_metric:.2f} at epoch {best.best_metric_epoch}"

    def _lines(self) -> list[dict[str, Any]]:
        if not os.path.isfile(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def peak_memory_gib(device: torch.device) -> float | None:
    """The largest memory so far: of tensors on a GPU, else of the process; None where the system does not tell it."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    if resource is None:
        return None
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def in_words(seconds: float) -> str:
    """A length of time, such as `2 h 05 min` or `40 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _as_list(engine: Engine) -> None:
    """MONAI's own handlers, such as that of `--tracking mlflow`, look for the loss in the first item of a list."""
    engine.state.output = [engine.state.output]


def _write_lines(path: str, lines: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
