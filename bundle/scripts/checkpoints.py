"""Loading what an earlier stage has written, with errors that say what is missing and which command makes it."""

from __future__ import annotations

import os

import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader

from .errors import CheckpointError


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


def _shortened(message: str, lines: int = 4) -> str:
    kept = [line.strip()[:300] for line in message.splitlines() if line.strip()]
    return " ".join(kept[:lines]) + (f" ... ({len(kept) - lines} more)" if len(kept) > lines else "")
