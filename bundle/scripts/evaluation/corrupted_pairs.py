"""Corruptions of pairs of X-rays, made on purpose, to measure which of them out-of-distribution detection flags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ..io.atomic_write import NOTICE, write_json
from ..io.radiograph import XRAY_KEYS
from .out_of_distribution import MISTAKES, of_view, read_familiarity, reduced_pairs

FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda films: films,
    **MISTAKES,
    **{f"{view} mirrored": of_view(view, lambda film: film.flip(-1)) for view in XRAY_KEYS},
    "frontal twice": lambda films: films[:1].repeat(2, 1, 1),
    "lateral twice": lambda films: films[1:].repeat(2, 1, 1),
    "lateral lower by a sixteenth": of_view("lateral", lambda film: film.roll(film.shape[-2] // 16, -2)),
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
    Writes, for each pair of X-rays, distance and flag with every fault of :data:`FAULTS`, and with its frontal or
    lateral film taken from another patient; with the rate of false alarms, which the pair without a fault is to be read
    by.

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
        faults = {
            fault: {key: each[key] for key in ("distance", "mistake", "flagged")} for fault, each in found.items()
        }
        cases.append({"case": name, "faults": faults})
    head = {"notice": NOTICE, "threshold": familiarity.threshold, "false_alarms": familiarity.false_alarms.as_content()}
    write_json(path, {**head, "cases": cases})
