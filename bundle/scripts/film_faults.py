"""Faults that pairs of X-rays may have, made on purpose, to measure which of them are flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from .familiarity import read_familiarity, reduced_pairs
from .files import write_json
from .pictures import NOTICE


def _inverted(films: torch.Tensor) -> torch.Tensor:
    return films.amax((-2, -1), keepdim=True) - films


FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda films: films,
    "exchanged": lambda films: films.flip(0),
    "both upside down": lambda films: films.flip(1),
    "frontal upside down": lambda films: torch.stack([films[0].flip(0), films[1]]),
    "lateral upside down": lambda films: torch.stack([films[0], films[1].flip(0)]),
    "frontal mirrored": lambda films: torch.stack([films[0].flip(1), films[1]]),
    "lateral mirrored": lambda films: torch.stack([films[0], films[1].flip(1)]),
    "both turned by 90 degrees": lambda films: films.rot90(1, (1, 2)),
    "both inverted": _inverted,
    "frontal inverted": lambda films: torch.stack([_inverted(films)[0], films[1]]),
    "frontal twice": lambda films: films[:1].repeat(2, 1, 1),
    "lateral twice": lambda films: films[1:].repeat(2, 1, 1),
    "lateral lower by a sixteenth": lambda films: torch.stack([films[0], films[1].roll(films.shape[-1] // 16, 0)]),
    "noise": lambda films: torch.rand(films.shape, generator=torch.Generator().manual_seed(0)),
    "blank": lambda films: torch.full_like(films, 0.3),
}
"""A pair `(2, P, P)`, frontal then lateral, to the pair with a fault."""


def measure_faults(
    records: Iterable[Mapping[str, Any]],
    others: Iterable[Mapping[str, Any]],
    prepare_batch: Callable,
    parameters: str,
    weights: str,
    path: str,
) -> None:
    """
    Writes, for each pair of X-rays, distance and flag with every fault of :data:`FAULTS`, and with its frontal or lateral
    film taken from another patient; with the rate of false alarms, which the pair without a fault is to be read by.

    Args:
        records: batches of one record, whose pairs are spoilt.
        others: batches of one record, whose films are taken.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch` that does not augment.
        parameters: the file that `familiarity.json` wrote.
        weights: the weights that it belongs to.
        path: the file to write.
    """
    familiarity = read_familiarity(parameters, weights)
    pairs, strangers = (reduced_pairs(each, prepare_batch) for each in (records, others))
    cases = []
    for films, name, patient in zip(*pairs):
        spoilt = {fault: spoil(films) for fault, spoil in FAULTS.items()}
        for stranger, other, another in zip(*strangers):
            if another != patient:
                spoilt[f"lateral of {other}"] = torch.stack([films[0], stranger[1]])
                spoilt[f"frontal of {other}"] = torch.stack([stranger[0], films[1]])
        found = {fault: familiarity.assess(pair) for fault, pair in spoilt.items()}
        faults = {fault: {key: each[key] for key in ("distance", "flagged")} for fault, each in found.items()}
        cases.append({"case": name, "faults": faults})
    head = {"notice": NOTICE, "threshold": familiarity.threshold, "false_alarms": familiarity.false_alarms.as_content()}
    write_json(path, {**head, "cases": cases})
