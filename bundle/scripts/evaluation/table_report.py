"""The table of an evaluation: rows of every test case, gathered over processes and summarised, as JSON and CSV."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch

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
        """Writes the files, of the cases of all processes in the order of the datalist."""
        rows = self.completed([row for case in gathered(self.rows) for row in case])
        if idist.get_rank() == 0:
            self.write_files(rows)

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
