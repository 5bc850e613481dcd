"""Robustness: the reconstruction under perturbations of the acquisition that the network is not told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import PrepareBatch

from ..data.batch import PrepareBiplanarBatch
from ..data.datalist import FILM_FIELDS
from ..io.radiograph import XRAY_KEYS
from ..projection.imaging import ImagingModel
from .perturbations import Condition


class PerturbedRecords(Dataset):
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


class PreparePerturbedBatch(PrepareBatch):
    """
    As :class:`~scripts.PrepareBiplanarBatch`, in batches of one, the X-rays taken under the sample's condition. What is
    random about them is the same for a case under every condition.

    Args:
        stages: the stage to stop after.
        imaging: the nominal acquisition, whose geometry the network receives unless the condition says otherwise.
        conditions: those of :class:`PerturbedRecords`.
        seed: of the first case; the following ones have the following seeds.
    """

    def __init__(
        self,
        stages: int,
        imaging: ImagingModel,
        conditions: Sequence[Condition],
        seed: int,
    ) -> None:
        self.seed = seed
        self.told = [condition.told or imaging.geometry for condition in conditions]
        self.prepared_by = [
            PrepareBiplanarBatch(
                stages,
                imaging.in_geometry(condition.geometry or imaging.geometry),
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
