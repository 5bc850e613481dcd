"""CTs of a folder as patients: who is left out of which fold, endless deformations of the others, and means of all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Lambda
from torch.utils.data import Dataset

from scripts.evaluation.summary import mean_and_interval

Record = dict[str, Any]
ENDLESS = 2**31
"""Steps in a sequence of deformations; seeds from here on belong to deformations that no training sees."""


def records_in(folder: Path) -> list[Record]:
    """A record for each `*.nii.gz` of the folder, grouped by patient: the file's name up to `_s` and a digit."""
    paths = sorted(folder.glob("*.nii.gz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no CT, expected files *.nii.gz.")
    names = {path: path.name.removesuffix(".nii.gz") for path in paths}
    return [{"ct": str(path), "name": name, "group": re.sub(r"_s\d.*$", "", name)} for path, name in names.items()]


def left_out(records: Sequence[Record], folds: int) -> list[set[str]]:
    """The patients of each fold, every patient in one; all scans of a patient are left out together."""
    patients = sorted({record["group"] for record in records})
    if not 2 <= folds <= len(patients):
        raise ValueError(f"folds is {folds}, expected 2 to {len(patients)}, the number of patients.")
    return [set(patients[fold::folds]) for fold in range(folds)]


def held_out(records: Sequence[Record], split: Path) -> dict[str, set[str]]:
    """The patients of each section of a datalist but `training`; its CTs are found by their files' names."""
    sections = json.loads(split.read_text(encoding="utf-8"))
    groups = {Path(record["ct"]).name: record["group"] for record in records}
    named = {
        section: [Path(item["ct"]).name for item in items]
        for section, items in sections.items()
        if isinstance(items, list)
    }
    missing = sorted({name for names in named.values() for name in names} ^ set(groups))
    if missing:
        raise ValueError(f"{split} and the folder of CTs do not name the same files; in one of them alone: {missing}.")
    return {section: {groups[name] for name in names} for section, names in named.items() if section != "training"}


def with_interval(values: Iterable[float]) -> str:
    """The mean of patients' values, and its 95 % interval where they are two or more."""
    values = list(values)
    found = mean_and_interval(values)
    return ("{mean:.4g}" if len(values) == 1 else "{mean:.4g} ({low:.4g} to {high:.4g})").format(**found)


class DeformedPatients(Dataset):
    """
    A sequence of random samples of patients in which the step alone decides what comes: each record once in a turn, in
    a new order every turn. When all have come, they come again. They are kept on disk, since making one takes as long
    as several training steps.

    Args:
        records: loaded ones.
        sample: makes a sample of a record, at random by torch's generator.
        count: how many samples there are.
        folder: where they are kept; one for the same records and samples only.
    """

    def __init__(self, records: Sequence[Record], sample: Callable[[Record], Record], count: int, folder: Path) -> None:
        self.records, self.sample, self.count = list(records), sample, count
        steps = [{"step": step} for step in range(count)]
        self.kept = PersistentDataset(steps, Lambda(self._at, track_meta=False), folder)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Record:
        return self.kept[step % self.count]

    def deformed(self, index: int, seed: int) -> Record:
        """A sample of a record, as the seed has it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.sample(self.records[index])

    def _at(self, item: dict[str, int]) -> Record:
        turn, place = divmod(item["step"], len(self.records))
        return self.deformed(np.random.RandomState(turn).permutation(len(self.records))[place], item["step"])
