"""Training that was stopped at any moment goes on from its last completed epoch, to the same bits."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import Evaluator
from monai.utils import set_determinism

from ..errors import CheckpointError
from ..io.atomic_write import remove_unfinished, write_checkpoint, write_json
from ..io.folder_lock import hold_folder, leave_folder
from ..io.sidecar import sha256_of
from .checkpoints import read_checkpoint
from .former_names import (
    ABSENT_UNTIL_NOW,
    FORMER_NAMES,
    with_geometry_error,
    with_imaging_model,
    with_optimizer_class,
)
from .moving_average import ExponentialMovingAverage

KEPT = 2
"""How many of the last epochs' checkpoints are kept."""
DESCRIBED = ("monai.", "scripts.", "torch.optim.lr_scheduler")
"""Packages whose objects count as settings, with all that they hold."""
CLASS = "class"
"""Name of the setting that says what an object is: its class, in whatever module that lies."""
# Without it MKL adds up in an order that depends on the CPU's other work; MKL reads it at its first call.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class Resume:
    """
    An Ignite handler for a trainer: when it starts, goes on from the last epoch that was completed in `folder`; when an
    epoch is completed, writes all that the next one depends on.

    No random state is stored. Each epoch starts from random states that follow from the seed, the epoch and the process
    alone: those of Python, NumPy, PyTorch, the dataset's transforms, its loader's workers and `prepare_batch`. So an
    epoch that was not completed is run again from its start, with the result that it would have had.

    Attach it last: after the handler that loads an earlier stage, whose weights are compared with those that this
    training has started from, and after those that write the best weights.

    Args:
        folder: holds the checkpoints of the last two epochs, `stage<stage>_epoch<epoch>.pth`.
        stage: the stage that is trained.
        network: what the checkpoint of the stage holds, see :meth:`~scripts.ProgressiveCascadeModel.up_to`.
        lr_scheduler: the learning rate's schedule.
        validator: its best metric so far is kept.
        average: of the weights, kept next to them.
        best_path: where the best weights are written.
        seed: of the training.
        start_from: the weights that the stage has started from, see :func:`~scripts.start_from`; None for none.

    Raises:
        CheckpointError: when the trainer starts, and no checkpoint that is there can be used, the settings of the
            training have changed, the earlier stage's weights are others, or the best weights are missing.
        OutputError: when a checkpoint cannot be written, or another training writes into the folder.

    Warns:
        UserWarning: when a checkpoint cannot be used and the one before it is taken.
    """

    def __init__(
        self,
        folder: str,
        stage: int,
        network: torch.nn.Module,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
        validator: Evaluator,
        average: ExponentialMovingAverage,
        best_path: str,
        seed: int,
        start_from: str | None = None,
    ) -> None:
        self.folder, self.stage, self.best_path, self.seed = folder, stage, best_path, seed
        self.start_from = start_from
        self.network, self.lr_scheduler, self.validator, self.average = network, lr_scheduler, validator, average
        self.settings: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.set_random_states)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Goes on from the last usable checkpoint, if there is any; the folder is this training's until it ends."""
        self.settings = settings_of(engine, self.validator, self.network, self.lr_scheduler, self.average, self.seed)
        if self.start_from is not None:
            self.settings["start_from"] = sha256_of(self.start_from)
        epoch, state = 0, None
        if idist.get_rank() == 0:
            hold_folder(self.folder)
            epoch, state = self._choose()
        epoch = int(idist.broadcast(epoch, src=0))
        if epoch:
            self._load(engine, state or read_checkpoint(checkpoint_path(self.folder, self.stage, epoch)))
            engine.logger.info(f"Goes on after epoch {epoch}.")

    def set_random_states(self, engine: Engine) -> None:
        """Before the loader starts its workers, whose seeds PyTorch draws."""
        seeds = np.random.SeedSequence([self.seed, engine.state.epoch, idist.get_rank()]).generate_state(3)
        set_determinism(int(seeds[0]))
        for part, seed in zip((engine.data_loader.dataset, engine.prepare_batch), seeds[1:]):
            set_rnd(part, int(seed))

    def save(self, engine: Engine) -> None:
        """Writes the epoch's checkpoint, then removes those before the last two."""
        if idist.get_rank() != 0:
            return
        last = engine.state.epoch
        write_checkpoint(checkpoint_path(self.folder, self.stage, last), self._state(engine))
        for epoch in [epoch for epoch in saved_epochs(self.folder, self.stage) if epoch <= last][:-KEPT]:
            os.remove(checkpoint_path(self.folder, self.stage, epoch))

    def finish(self, engine: Engine) -> None:
        """Leaves a mark, so that the next start need not load the data, see :func:`is_finished`."""
        if idist.get_rank() == 0:
            write_json(_mark(self.folder, self.stage), {"epochs": engine.state.epoch})
            leave_folder(self.folder)

    def _state(self, engine: Engine) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "threads": torch.get_num_threads(),
            "epoch": engine.state.epoch,
            "network": self.network.state_dict(),
            "optimizer": engine.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else {},
            "best_metric": float(self.validator.state.best_metric),
            "best_metric_epoch": self.validator.state.best_metric_epoch,
            "validated_epoch": self.validator.state.epoch,
            **self.average.state_dict(),
        }

    def _choose(self) -> tuple[int, Mapping[str, Any] | None]:
        """The last epoch whose checkpoint is whole and of this training, and that; 0 when there is none of any kind."""
        epochs, reasons = saved_epochs(self.folder, self.stage), []
        if not epochs and is_finished(self.folder, self.stage):
            reasons = [f"{_mark(self.folder, self.stage)}: tells of a finished training whose checkpoints are missing."]
        for epoch in reversed(epochs):
            path = checkpoint_path(self.folder, self.stage, epoch)
            try:
                state = read_checkpoint(path)
                self._check(path, state, epoch)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                warnings.warn(f"{reason} Training goes on after epoch {epoch} instead.", stacklevel=2)
            self._remove_leftovers()
            return epoch, state
        if reasons:
            raise CheckpointError(
                f"{reasons[0]}\nNo other checkpoint of stage {self.stage} in {self.folder} can be used. Start the "
                f"command that this training was started with, choose another output folder, or remove {self.folder} "
                f"to train this stage anew."
            )
        self._remove_leftovers()
        return 0, None

    def _check(self, path: str, state: Any, epoch: int) -> None:
        if not isinstance(state, Mapping) or "settings" not in state or state.get("epoch") != epoch:
            raise CheckpointError(f"{path}: is no checkpoint of epoch {epoch} of a training.")
        changed = differences(state["settings"], self.settings)
        if changed:
            raise CheckpointError(f"{path}: belongs to a training with other settings: {changed}.")
        expected, found = self.network.state_dict(), state["network"]
        if {name: value.shape for name, value in expected.items()} != {n: v.shape for n, v in found.items()}:
            raise CheckpointError(f"{path}: has the parameters of another network.")
        for name, parameter in self.network.named_parameters():
            if not parameter.requires_grad and not torch.equal(parameter.cpu(), found[name]):
                raise CheckpointError(
                    f"{path}: was trained on other weights of the stage before it than stage{self.stage - 1}_best.pth "
                    f"has now ('{name}' differs)."
                )
        if state["best_metric_epoch"] > 0 and not os.path.isfile(self.best_path):
            raise CheckpointError(f"{path}: its best weights, {self.best_path}, are missing.")

    def _load(self, engine: Engine, state: Mapping[str, Any]) -> None:
        threads = torch.get_num_threads()
        if state.get("threads", threads) != threads:
            engine.logger.warning(
                f"The epochs so far were computed by {state['threads']} threads, these are by {threads}: sums are "
                f"taken in another order, so that last digits may be others than those of a training left alone."
            )
        self.network.load_state_dict(state["network"])
        engine.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.average.load_state_dict(state)
        if engine.scaler is not None and state["scaler"]:
            engine.scaler.load_state_dict(state["scaler"])
        self.validator.state.best_metric = state["best_metric"]
        self.validator.state.best_metric_epoch = state["best_metric_epoch"]
        self.validator.state.epoch = state["validated_epoch"]
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length

    def _remove_leftovers(self) -> None:
        remove_unfinished(self.folder, f"stage{self.stage}_*")
        remove_unfinished(*os.path.split(self.best_path))


def is_finished(folder: str, stage: int) -> bool:
    """Whether a stage's training has come to its end, as far as `folder` tells, see :class:`Resume`."""
    return os.path.isfile(_mark(folder, stage))


def default_cache_rate(folder: str, stage: int) -> float:
    """The fraction of the records that are kept in memory: all, or none where the stage's training has ended."""
    return 0.0 if is_finished(folder, stage) else 1.0


def saved_epochs(folder: str, stage: int) -> list[int]:
    """The epochs that have a checkpoint in `folder`, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = (re.fullmatch(rf"stage{stage}_epoch(\d+)\.pth", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def checkpoint_path(folder: str, stage: int, epoch: int) -> str:
    """Where the checkpoint of an epoch is."""
    return os.path.join(folder, f"stage{stage}_epoch{epoch:04d}.pth")


def settings_of(
    engine: Engine,
    validator: Evaluator,
    network: torch.nn.Module,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    average: ExponentialMovingAverage,
    seed: int,
) -> dict[str, Any]:
    """What a training depends on, each value under its place; records by name, wherever their files are."""
    datasets = {"training": engine.data_loader.dataset, "validation": validator.data_loader.dataset}
    records = {key: [(record["name"], record["group"]) for record in data.data] for key, data in datasets.items()}
    settings = {
        "seed": seed,
        "epochs": engine.state.max_epochs,
        "processes": idist.get_world_size(),
        "batch_size": engine.data_loader.batch_size,
        "accumulation_steps": engine.accumulation_steps,
        "amp": engine.amp,
        "optimizer": {CLASS: type(engine.optimizer).__qualname__, **engine.optimizer.defaults},
        "lr_scheduler": lr_scheduler,
        "loss": engine.loss_function,
        "network": network,
        "prepare_batch": engine.prepare_batch,
        "transforms": {key: data.transform for key, data in datasets.items()},
        "records": records,
    }
    if average.momentum is not None:
        settings["ema"] = average.momentum
    return dict(_flat("", _described(settings)))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], named: int = 4) -> str:
    """The first values that differ, in words; empty when none does."""
    before = with_optimizer_class(with_geometry_error(with_imaging_model(before, now)), now)
    before = ABSENT_UNTIL_NOW | _with_present_classes(before)
    now = ABSENT_UNTIL_NOW | _with_present_classes(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = [f"{name} was {before.get(name, 'absent')}, is {now.get(name, 'absent')}" for name in names[:named]]
    return "; ".join(changes) + (f"; and {len(names) - named} more" if len(names) > named else "")


def _with_present_classes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Each class by its present name. Until version 0.3 their modules stood in a checkpoint as well, so that a class could
    not be moved.
    """
    texts = {name: value for name, value in settings.items() if name.split(".")[-1] == CLASS and isinstance(value, str)}
    classes = {name: value.rpartition(".")[2] for name, value in texts.items()}
    return {**settings, **{name: FORMER_NAMES.get(value, value) for name, value in classes.items()}}


def _described(value: Any) -> Any:
    """A value as nested dictionaries and lists of plain values; what is no setting is named by its type."""
    if isinstance(value, Enum):
        return _described(value.value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(each) for each in value]
    name = type(value).__qualname__
    parts = dict(value.named_children()) if isinstance(value, torch.nn.Module) else {}
    if f"{type(value).__module__}.".startswith(DESCRIBED):
        held = {key: each for key, each in vars(value).items() if not key.startswith("_") and key != "training"}
        return {CLASS: name, **_described(held), **_described(parts)}
    if isinstance(value, torch.nn.Module) and not parts:
        return repr(value)
    return {CLASS: name, **_described(parts)}


def _flat(place: str, value: Any) -> Sequence[tuple[str, Any]]:
    if not isinstance(value, (dict, list)):
        return [(place, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [pair for key, each in items for pair in _flat(f"{place}.{key}".lstrip("."), each)]


def _mark(folder: str, stage: int) -> str:
    return os.path.join(folder, f"stage{stage}_finished.json")
