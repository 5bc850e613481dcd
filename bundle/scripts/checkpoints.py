"""The files of weights: read whole or not at all, with errors that say what is missing and which command makes it."""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader

from .cascade import NUMBER_OF_STAGES
from .errors import CheckpointError, DivergenceError, told
from .files import write_checkpoint


def read_checkpoint(path: str) -> Any:
    """
    What `torch.save` has written, onto the CPU, weights only. Unlike `torch.load`, compares every checksum.

    Raises:
        CheckpointError: when the file is cut short, has changed since it was written, or is no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_shortened(told(error))}).") from error
    raise CheckpointError(f"{path}: is damaged: the checksum of '{damaged}' does not fit its content.")


class BestCheckpointSaver:
    """
    An Ignite handler for a validator: writes a network's flat state dict after each validation that beats all before it.

    MONAI's `CheckpointSaver` with a fixed file name removes the best weights before it writes better ones.

    Args:
        path: the checkpoint.
        network: whose state dict is written.

    Raises:
        DivergenceError: when the key metric is not a number; what has been written before stays.
    """

    def __init__(self, path: str, network: torch.nn.Module) -> None:
        self.path, self.network = path, network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        if math.isnan(state.metrics[state.key_metric_name]):
            raise DivergenceError(
                f"{state.key_metric_name} of epoch {state.epoch} is not a number. Weights written before are as they were. "
                f"Train with a lower learning rate, into another output folder."
            )
        if state.best_metric_epoch == state.epoch and idist.get_rank() == 0:
            write_checkpoint(self.path, self.network.state_dict())


class CascadeCheckpointLoader(CheckpointLoader):
    """
    Loads a flat state dict, strictly, weights only, when the engine starts.

    Args:
        path: the checkpoint.
        network: what it goes into, such as :meth:`~scripts.cascade.ProgressiveCascadeModel.up_to` of a stage.
        stage: the stage whose training writes such a checkpoint.

    Raises:
        CheckpointError: when the engine starts and the file is missing, is no state dict, or does not fit the network.
    """

    def __init__(self, path: str, network: torch.nn.Module, stage: int) -> None:
        super().__init__(load_path=path, load_dict={"network": network}, map_location="cpu", strict=True)
        self.made_by = training_command(stage, os.path.dirname(path))

    def __call__(self, engine: Engine) -> None:
        if not os.path.isfile(self.load_path):
            raise CheckpointError(
                f"{self.load_path}: no such checkpoint; expected the weights of the cascade up to this point. "
                f"It is made by: {self.made_by}"
            )
        try:
            read_checkpoint(self.load_path)  # for its checksums
            super().__call__(engine)
        except Exception as error:
            raise CheckpointError(
                f"{self.load_path}: does not fit the network of this configuration: {_shortened(str(error))}\n"
                f"Expected a flat state dict with exactly its parameters; a run with other sizes needs its own overlay "
                f"config. It is made by: {self.made_by}"
            ) from error


def training_command(stage: int, ckpt_dir: str) -> str:
    """The command that trains a stage, from the folder that holds the bundle, and leaves its checkpoint in `ckpt_dir`."""
    overlay = "" if stage == 1 else f",'bundle/configs/stage{stage}.json'"
    configs = f"\"['bundle/configs/train.json'{overlay}]\""
    line = f"python -m monai.bundle run training --config_file {configs} --bundle_root bundle"
    return f"{line} --dataset_dir DIR --ckpt_dir {ckpt_dir} (with the overlay configs of this run, if it has any)"


def following_command(stage: int, ckpt_dir: str) -> str:
    """The command that comes after the training of a stage: that of the next one, or the evaluation."""
    if stage < NUMBER_OF_STAGES:
        return training_command(stage + 1, ckpt_dir)
    configs = "\"['bundle/configs/train.json','bundle/configs/evaluate.json']\""
    line = f"python -m monai.bundle run --config_file {configs} --bundle_root bundle --dataset_dir DIR"
    return f"{line} --ckpt_dir {ckpt_dir} --output_dir OUT (with the overlay configs of this run, if it has any)"


def _shortened(message: str, lines: int = 4) -> str:
    kept = [line.strip()[:300] for line in message.splitlines() if line.strip()]
    return " ".join(kept[:lines]) + (f" ... ({len(kept) - lines} more)" if len(kept) > lines else "")
