"""Robustness: the reconstruction under perturbations of the acquisition that the network does not know of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch

from ..anatomy.neighbours import Neighbours
from ..data.batch import PrepareBiplanarBatch
from ..data.shards import WHOLE, Shard
from ..projection.imaging import ImagingModel
from .perturbations import Perturbation
from .repeated_cases import RepeatedCases


class PerturbedRecords(RepeatedCases):
    """
    Every case under every perturbation, the perturbations of a case one after the other.

    Args:
        data: records, see :func:`~scripts.load_records`.
        perturbations: a sample has the place of its own in `perturbation`, and that of its case among those of all
            shards in `number`.
        transform: loads a record.
        shard: the part that the records are of all.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        perturbations: Sequence[Perturbation],
        transform: Callable,
        shard: Shard = WHOLE,
    ) -> None:
        super().__init__(data, transform)
        self.perturbations, self.shard = perturbations, shard

    def __len__(self) -> int:
        return len(self.data) * len(self.perturbations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, perturbation = divmod(index, len(self.perturbations))
        return {**self.case(number), "perturbation": perturbation, "number": self.shard.place(number)}


class PreparePerturbedBatch(PrepareBatch):
    """
    As :class:`~scripts.PrepareBiplanarBatch`, in batches of one, the X-rays acquired under the sample's perturbation.
    What is random about them is the same for a case under every perturbation.

    Args:
        stages: the stage to stop after.
        imaging: the nominal acquisition, whose geometry the network receives unless the perturbation says otherwise.
        perturbations: those of :class:`PerturbedRecords`.
        seed: of the first case; the following ones have the following seeds.
        anatomy: as in :class:`~scripts.PrepareBiplanarBatch`.
    """

    def __init__(
        self,
        stages: int,
        imaging: ImagingModel,
        perturbations: Sequence[Perturbation],
        seed: int,
        anatomy: Neighbours | None = None,
    ) -> None:
        self.seed = seed
        self.received = [perturbation.received or imaging.geometry for perturbation in perturbations]
        self.prepared_by = [
            PrepareBiplanarBatch(
                stages,
                imaging.in_geometry(perturbation.geometry or imaging.geometry),
                augment=perturbation.ct,
                augment_xrays=perturbation.xrays,
                anatomy=anatomy,
            )
            for perturbation in perturbations
        ]

    def __call__(self, batchdata: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple:
        torch.manual_seed(self.seed + int(batchdata["number"]))
        perturbation = int(batchdata["perturbation"])
        xrays, target, further, arguments = self.prepared_by[perturbation](batchdata, *args, **kwargs)
        return xrays, target, further, {**arguments, "geometry": self.received[perturbation]}
