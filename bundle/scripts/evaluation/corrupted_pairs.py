"""Corruptions of pairs of X-rays, made on purpose, to measure which of them out-of-distribution detection flags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ..io.atomic_write import NOTICE, write_json
from ..io.radiograph import XRAY_KEYS
from .out_of_distribution import MISTAKES, of_view, read_detector, reduced_pairs

CORRUPTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda pair: pair,
    **MISTAKES,
    **{f"{view} mirrored": of_view(view, lambda xray: xray.flip(-1)) for view in XRAY_KEYS},
    "frontal twice": lambda pair: pair[:1].repeat(2, 1, 1),
    "lateral twice": lambda pair: pair[1:].repeat(2, 1, 1),
    "lateral lower by a sixteenth": of_view("lateral", lambda xray: xray.roll(xray.shape[-2] // 16, -2)),
    "noise": lambda pair: torch.rand(pair.shape, generator=torch.Generator().manual_seed(0)),
    "blank": lambda pair: torch.full_like(pair, 0.3),
}
"""A pair `(2, P, P)`, frontal then lateral, to the corrupted pair."""


def measure_corruptions(
    records: Iterable[Mapping[str, Any]],
    others: Iterable[Mapping[str, Any]],
    prepare_batch: Callable,
    parameters: str,
    weights: str,
    path: str,
) -> None:
    """
    Writes, for each pair of X-rays, distance and flag under every corruption of :data:`CORRUPTIONS`, and with its
    frontal or lateral X-ray replaced by that of another patient; and the false-positive rate, by which the pair without
    a corruption is to be read.

    Args:
        records: batches of one record, whose pairs are corrupted.
        others: batches of one record, whose X-rays are taken.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch` that does not augment.
        parameters: the file that `familiarity.json` wrote.
        weights: the weights that it belongs to.
        path: the file to write.
    """
    detector = read_detector(parameters, weights)
    pairs, strangers = (reduced_pairs(each, prepare_batch) for each in (records, others))
    cases = []
    for pair, name, patient in zip(*pairs):
        corrupted = {corruption: corrupt(pair) for corruption, corrupt in CORRUPTIONS.items()}
        for stranger, other, another in zip(*strangers):
            if another != patient:
                corrupted[f"lateral of {other}"] = torch.stack([pair[0], stranger[1]])
                corrupted[f"frontal of {other}"] = torch.stack([stranger[0], pair[1]])
        found = {corruption: detector.assess(each) for corruption, each in corrupted.items()}
        faults = {
            corruption: {key: each[key] for key in ("distance", "mistake", "flagged")}
            for corruption, each in found.items()
        }
        cases.append({"case": name, "faults": faults})
    head = {"notice": NOTICE, "threshold": detector.threshold, "false_alarms": detector.false_positives.as_content()}
    write_json(path, {**head, "cases": cases})
