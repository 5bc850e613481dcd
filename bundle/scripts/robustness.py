"""How the reconstruction bears X-rays that are taken otherwise than the network is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, decollate_batch
from monai.engines import PrepareBatch
from monai.metrics import PSNRMetric

from .batch import PrepareBiplanarBatch, ProjectCT
from .conditions import AS_TOLD, Condition
from .distributed import gathered
from .files import write_json, write_whole
from .geometry import BiplanarGeometry
from .metrics import DEFINITIONS, truth_at
from .pictures import NOTICE
from .records import FILM_FIELDS
from .robustness_picture import robustness_figure
from .summary import INTERVAL_DEFINITION, summarise, write_table
from .transforms import XRAY_KEYS

COMBINATION = ("change", "value", "unit", "stage", "size")
ROBUSTNESS_DEFINITIONS = {
    "psnr_db": f"{DEFINITIONS['psnr_db']}; each stage at its own size, against the truth averaged to it",
    "psnr_change_db": f"psnr_db less that of the same case and stage under '{AS_TOLD.change}'",
    "change": "how the X-rays are taken otherwise than the network is told; the truth stays where it is, so that a "
    "patient who stands turned is also charged with lying elsewhere",
}


class ConditionedRecords(Dataset):
    """
    Every case under every condition, the conditions of a case one after the other. A case is loaded once for all of
    them, by the process that comes to it. X-rays are projected from the CT also where a record has films, which nobody
    can take again.

    Args:
        data: records, see :func:`~scripts.load_records`.
        conditions: the conditions; a sample has the place of its own in `condition`, and that of its case in `number`.
        transform: loads a record.
    """

    def __init__(self, data: Sequence[dict[str, Any]], conditions: Sequence[Condition], transform: Callable) -> None:
        films = (*XRAY_KEYS, *FILM_FIELDS)
        without_films = [{key: value for key, value in record.items() if key not in films} for record in data]
        super().__init__(without_films, transform)
        self.conditions = conditions
        self.loaded: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.data) * len(self.conditions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, condition = divmod(index, len(self.conditions))
        if self.loaded is None or self.loaded[0] != number:
            self.loaded = number, super().__getitem__(number)
        return {**self.loaded[1], "condition": condition, "number": number}


class PrepareConditionedBatch(PrepareBatch):
    """
    As :class:`~scripts.PrepareBiplanarBatch`, in batches of one, the X-rays taken under the sample's condition. What is
    random about them is the same for a case under every condition.

    Args:
        stages: the stage to stop after.
        geometry: the nominal set-up, which the network is told unless the condition says otherwise.
        xray_scale: line integral that is called 1.
        hu_window: the HU that are scaled to 0 and 1.
        conditions: those of :class:`ConditionedRecords`.
        seed: of the first case; the following ones have the following seeds.
    """

    def __init__(
        self,
        stages: int,
        geometry: BiplanarGeometry,
        xray_scale: float,
        hu_window: Sequence[float],
        conditions: Sequence[Condition],
        seed: int,
    ) -> None:
        self.seed = seed
        self.told = [condition.told or geometry for condition in conditions]
        self.prepared_by = [
            PrepareBiplanarBatch(
                stages,
                ProjectCT(condition.geometry or geometry, xray_scale),
                hu_window,
                augment=condition.ct,
                augment_xrays=condition.films,
            )
            for condition in conditions
        ]

    def __call__(self, batchdata: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple:
        torch.manual_seed(self.seed + int(batchdata["number"]))
        condition = int(batchdata["condition"])
        xrays, target, further, arguments = self.prepared_by[condition](batchdata, *args, **kwargs)
        return xrays, target, further, {**arguments, "geometry": self.told[condition]}


class RobustnessReport:
    """
    An Ignite handler that scores each stage under each condition and writes, when the engine has finished,
    `robustness.json` (definitions, a summary by condition and stage with intervals over patients, every case),
    `robustness.csv` and `robustness.png`.

    Args:
        output_dir: where to write.
        conditions: those of :class:`ConditionedRecords`.
    """

    def __init__(self, output_dir: str, conditions: Sequence[Condition]) -> None:
        self.output_dir, self.conditions = output_dir, conditions
        self.psnr = PSNRMetric(max_val=1.0)
        self.rows: list[list[dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    @torch.no_grad()
    def score(self, engine: Engine) -> None:
        """Scores every stage of the samples of one batch."""
        output = engine.state.output
        for index, record in enumerate(decollate_batch(engine.state.batch)):
            condition, truth = self.conditions[int(record["condition"])], output["label"]["ct"][index : index + 1]
            volumes = [volume[index : index + 1].float().clamp(0, 1) for volume in output["pred"]]
            self.rows.append(
                [
                    {
                        "case": record["name"],
                        **{name: record[name] for name in ("patient", "group")},
                        **{name: getattr(condition, name) for name in ("change", "value", "unit")},
                        "stage": stage,
                        "size": volume.shape[-1],
                        "psnr_db": self.psnr(volume, truth_at(truth.float(), volume.shape[-1])).item(),
                    }
                    for stage, volume in enumerate(volumes, start=1)
                ]
            )

    def write(self, engine: Engine) -> None:
        """Writes the three files, of the cases of all processes in the order of the datalist."""
        rows = compared([row for sample in gathered(self.rows) for row in sample])
        if idist.get_rank() != 0:
            return
        summary = summarise(rows, COMBINATION)
        report = {
            "notice": NOTICE,
            "definitions": {**ROBUSTNESS_DEFINITIONS, **INTERVAL_DEFINITION},
            "summary": summary,
            "cases": rows,
        }
        write_json(os.path.join(self.output_dir, "robustness.json"), report)
        write_table(os.path.join(self.output_dir, "robustness.csv"), rows)
        write_whole(os.path.join(self.output_dir, "robustness.png"), robustness_figure(summary).savefig)


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `psnr_change_db`, the difference from the row of the same case and stage as the network is told."""
    nominal = {(row["case"], row["stage"]): row["psnr_db"] for row in rows if row["change"] == AS_TOLD.change}
    return [{**row, "psnr_change_db": row["psnr_db"] - nominal[row["case"], row["stage"]]} for row in rows]
