"""The table of an evaluation: rows of every test case, gathered over processes and summarised, as JSON and CSV."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch

from ..data.shards import WHOLE
from ..io.atomic_write import NOTICE, write_json
from ..projection.geometry import BiplanarGeometry
from ..training.distributed import gathered
from .baselines import Baselines
from .summary import write_table


class TableReport(ABC):
    """
    Base of the Ignite handlers that score the cascade on each test case and write, when the engine has finished,
    `<name>.json` (what :meth:`summary` returns, then every row) and `<name>.csv` (the rows).

    A case has a row for each stage, size and method. MONAI's `MetricsSaver` has one for each case, and writes no JSON.

    Args:
        output_dir: where to write.
        name: of the files.
        baselines: are prepared when the engine starts; None for none.
    """

    def __init__(self, output_dir: str, name: str, baselines: Baselines | None = None) -> None:
        self.output_dir, self.name, self.baselines = output_dir, name, baselines
        self.rows: list[list[dict[str, Any]]] = []
        self.shard = WHOLE
        self.write_rows: Callable[[Sequence[list[dict[str, Any]]]], None] | None = None
        """What becomes of the rows of each sample in a shard of an evaluation, which writes no files."""

    def attach(self, engine: Engine) -> None:
        if self.baselines is not None:
            engine.add_event_handler(Events.STARTED, lambda engine: self.baselines.prepare())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    @torch.no_grad()
    def score(self, engine: Engine) -> None:
        """Scores the cases of one batch."""
        output = engine.state.output
        for index, record in enumerate(decollate_batch(engine.state.batch)):
            volumes = [volume[index : index + 1].float() for volume in output["pred"]]
            label = {name: _of_case(value, index) for name, value in output["label"].items()}
            self.rows.append(self.case_rows(record, volumes, label))

    def write(self, engine: Engine) -> None:
        """Writes the files, of the cases of all processes in the order of the datalist; of a shard its rows alone."""
        samples = gathered(self.rows)
        if self.write_rows is None:
            rows = self.completed([row for sample in samples for row in sample])
            if idist.get_rank() == 0:
                self.write_files(rows)
        elif idist.get_rank() == 0:
            self.write_rows(samples)

    def merge(self, records: Sequence[list[dict[str, Any]]], common: dict[str, Any]) -> None:
        """
        Writes the files of the rows that shards have left.

        Args:
            records: the rows of each record, in the order of the datalist.
            common: what :meth:`common` was there.
        """
        if self.baselines is not None:
            self.baselines.mean_of = common["mean_volume"]
        self.write_files(self.completed([row for record in records for row in record]))

    def common(self) -> dict[str, Any]:
        """What the files say beside the rows, and is the same in all shards."""
        return {"mean_volume": None if self.baselines is None else self.baselines.mean_of}

    def place(self, sample: int) -> int:
        """Where the next sample of this process stands among all samples, by how many it has had."""
        return self.shard.place(sample * idist.get_world_size() + idist.get_rank())

    def write_files(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes the JSON and the CSV; called in the first process alone."""
        content = {"notice": NOTICE, **self.summary(rows), "cases": rows}
        write_json(os.path.join(self.output_dir, f"{self.name}.json"), content)
        write_table(os.path.join(self.output_dir, f"{self.name}.csv"), rows)

    @abstractmethod
    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """
        The rows of one case, all with the same columns.

        Args:
            record: the case, with `name`, `patient` and `group`.
            volumes: each stage's, `(1, 1, S, S, S)`, scaled, not clipped.
            label: of the case alone, see :class:`~scripts.PrepareBiplanarBatch`.
        """

    @abstractmethod
    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the JSON holds before the rows: definitions, and the summary over patients."""

    def completed(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the rows of all cases are, once there are all; called in every process."""
        return rows


def _of_case(value: torch.Tensor | BiplanarGeometry, index: int) -> torch.Tensor | BiplanarGeometry:
    return value.of_case(index) if isinstance(value, BiplanarGeometry) else value[index : index + 1].float()
