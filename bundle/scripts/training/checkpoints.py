"""The files of weights: read whole or not at all, with errors that say what is missing and which command makes it."""

from __future__ import annotations

import math
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ..data.known_views import Views, write_known_views
from ..data.met_records import Sections, write_met_records
from ..errors import CheckpointError, DivergenceError, one_line_message
from ..io.atomic_write import write_checkpoint
from ..io.foreign_files import LONGEST_START, foreign_content
from .commands import training_command


def read_checkpoint(path: str) -> Any:
    """
    What `torch.save` has written, onto the CPU, weights only. The file is read once. Unlike `torch.load`, compares
    every checksum, and inflates nothing: a checkpoint is stored as it is.

    Raises:
        CheckpointError: when the file cannot be read, is cut short, has changed since it was written, or is no
            checkpoint.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        said = error.strerror or one_line_message(error)
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({said}).") from error
    found = foreign_content(content[:LONGEST_START], may_be_zip=True)
    if found:
        raise CheckpointError(f"{path}: is {found}, expected a checkpoint.")
    _check_archive(path, content)
    try:
        return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what another archive raises depends on what it holds
        said = _shortened(one_line_message(error))
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({said}).") from error


def _check_archive(path: str, content: bytes) -> None:
    """Raises a :class:`CheckpointError` unless a file's content is a whole archive of stored members."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            deflated = next((m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED), None)
            damaged = archive.testzip() if deflated is None else None
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        found = "is damaged, it may be cut short" if content.startswith(b"PK") else "cannot be read as a checkpoint"
        raise CheckpointError(f"{path}: {found} ({_shortened(one_line_message(error))}).") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged: the checksum of '{damaged}' does not fit its content.")
    if deflated is not None:
        raise CheckpointError(
            f"{path}: is no checkpoint of PyTorch, which compresses nothing: '{deflated}' is compressed."
        )


class BestCheckpointSaver:
    """
    An Ignite handler for a validator: writes a network's flat state dict after each validation that beats all before
    it, and next to it the views and the records that it has met.

    MONAI's `CheckpointSaver` with a fixed file name removes the best weights before it writes better ones.

    Args:
        path: the checkpoint.
        network: whose state dict is written.
        views: the pairs of views that are met in training, see :func:`~scripts.data.known_views.write_known_views`.
        records: those that are met, see :func:`~scripts.data.met_records.records_of_training`; None to write none.
        view_dropout: the smallest of the network's stages, see :func:`~scripts.data.known_views.met_view_dropout`.

    Raises:
        DivergenceError: when the key metric is not a number; what has been written before stays.
    """

    def __init__(
        self,
        path: str,
        network: torch.nn.Module,
        views: Views,
        records: Sections | None = None,
        view_dropout: float = 0.0,
    ) -> None:
        self.path, self.network, self.views, self.records = path, network, views, records
        self.view_dropout = view_dropout

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        if math.isnan(state.metrics[state.key_metric_name]):
            raise DivergenceError(
                f"{state.key_metric_name} of epoch {state.epoch} is not a number. Weights written before are as they "
                f"were. Train with a lower learning rate, into another output folder."
            )
        if state.best_metric_epoch == state.epoch and idist.get_rank() == 0:
            write_checkpoint(self.path, self.network.state_dict())
            write_known_views(self.path, self.views, self.view_dropout)
            if self.records is not None:
                write_met_records(self.path, self.records)


class CascadeCheckpointLoader:
    """
    An Ignite handler that loads a flat state dict, strictly, weights only, when the engine starts.

    MONAI's `CheckpointLoader` reads a file by itself, without its checksums, and tells of a damaged one as of a misfit.

    Args:
        path: the checkpoint.
        network: what it goes into, such as :meth:`~scripts.networks.cascade.ProgressiveCascadeModel.up_to` of a stage.
        stage: the stage whose training writes such a checkpoint.

    Raises:
        CheckpointError: when the engine starts and the file is missing or damaged, is no state dict, does not fit the
            network, or holds a number that is not finite.
    """

    def __init__(self, path: str, network: torch.nn.Module, stage: int) -> None:
        self.path, self.network = path, network
        self.made_by = training_command(stage, os.path.dirname(path))

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if not os.path.isfile(self.path):
            raise CheckpointError(
                f"{self.path}: no such checkpoint; expected the weights of the cascade up to this point. "
                f"It is made by: {self.made_by}"
            )
        try:
            state = read_checkpoint(self.path)
        except CheckpointError as error:
            raise CheckpointError(f"{error} It is made by: {self.made_by}") from error
        try:
            self.network.load_state_dict(state, strict=True)
        except Exception as error:  # a state dict that holds other things than tensors raises what it pleases
            raise CheckpointError(
                f"{self.path}: does not fit the network of this configuration: {_shortened(str(error))}\n"
                f"Expected a flat state dict with exactly its parameters; a run with other sizes needs its own overlay "
                f"config. It is made by: {self.made_by}"
            ) from error
        spoilt = next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
        if spoilt is not None:
            raise CheckpointError(
                f"{self.path}: '{spoilt}' holds values that are not finite, expected numbers; such weights reconstruct "
                f"nothing. Take an earlier file, or train anew: {self.made_by}"
            )
        engine.logger.info(f"Restored all variables from {self.path}")


def _shortened(message: str, lines: int = 4) -> str:
    kept = [line.strip()[:300] for line in message.splitlines() if line.strip()]
    return " ".join(kept[:lines]) + (f" ... ({len(kept) - lines} more)" if len(kept) > lines else "")
