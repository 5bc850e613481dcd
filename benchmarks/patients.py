"""CTs of a folder as patients: who is left out of which fold, and endless deformations of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose
from torch.utils.data import Dataset

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


class DeformedPatients(Dataset):
    """
    An endless sequence of random deformations, in which the step alone decides what comes: each record once in a
    turn, in a new order every turn.

    Args:
        records: loaded ones.
        augment: random MONAI transforms.
        project: what makes a training sample of a deformed record.
    """

    def __init__(self, records: Sequence[Record], augment: Callable, project: Callable) -> None:
        self.records, self.transform = list(records), Compose([augment, project])

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Record:
        turn, place = divmod(step, len(self.records))
        return self.deformed(np.random.RandomState(turn).permutation(len(self.records))[place], step)

    def deformed(self, index: int, seed: int) -> Record:
        """A record, deformed as the seed has it."""
        self.transform.set_random_state(seed=seed)
        return self.transform(self.records[index])
