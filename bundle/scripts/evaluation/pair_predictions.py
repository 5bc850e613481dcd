"""Where the volumes of a benchmark on pairs come from: reconstructed by weights, or read from a folder."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Orientationd
from torch import Tensor

from ..data.datalist import RADIOGRAPH_FIELDS
from ..data.transforms import LoadCTd
from ..errors import InputError, shown
from ..io.ct_reader import LUNG_HU
from ..io.radiograph import XRAY_KEYS
from ..io.sidecar import sha256_of
from ..projection.imaging import ImagingModel
from .pair_assessment import assess_pair

SUFFIXES = (".nii.gz", ".nii")
OUTLINES = ("outline_dice", "outline_distance_mm")
"""Scores that need to know where a volume lies before the detector."""
PREDICTION_KEY = "prediction"


class Predictor(Protocol):
    """
    What gives a pair its volume.

    Attributes:
        identity: what `pairs.json` says of the system.
    """

    identity: dict[str, str]

    def files(self, record: Mapping[str, Any]) -> list[str]:
        """The files that the volume of a record is made from; raises :class:`InputError` where there is none."""

    def __call__(self, record: Mapping[str, Any]) -> tuple[MetaTensor, dict[str, float]]:
        """A volume in HU, `(1, X, Y, Z)`, RAS+ with its affine, and the scores of :data:`OUTLINES`, NaN for none."""


class PairReconstruction:
    """
    Reconstructs a pair as `infer` does.

    Args:
        evaluator: runs the network on one record at a time; its postprocessing leaves `pred` in HU.
        preprocessing: what makes the network's `image` of a record's radiographs.
        imaging: scales and nominal geometry.
        weights: that are in use.
    """

    def __init__(
        self,
        evaluator: SupervisedEvaluator,
        preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        imaging: ImagingModel,
        weights: str,
    ) -> None:
        self.evaluator, self.preprocessing, self.imaging, self.weights = evaluator, preprocessing, imaging, weights
        evaluator.logger.setLevel(logging.WARNING)  # five lines a pair would bury the progress

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "weights", "file": os.path.basename(self.weights), "sha256": sha256_of(self.weights)}

    def files(self, record: Mapping[str, Any]) -> list[str]:
        return [record[view] for view in XRAY_KEYS]

    def __call__(self, record: Mapping[str, Any]) -> tuple[MetaTensor, dict[str, float]]:
        pair = {key: record[key] for key in (*XRAY_KEYS, *RADIOGRAPH_FIELDS) if key in record}
        self.evaluator.data_loader = DataLoader(Dataset([self.preprocessing(pair)]), batch_size=1)
        self.evaluator.run()
        (found,) = self.evaluator.state.output
        fields = assess_pair(found, self.imaging).content["lung_fields"]
        outlines = (fields["dice"], fields["contour_distance_mm"])
        return found["pred"], {name: _number(value) for name, value in zip(OUTLINES, outlines)}


class PredictionFolder:
    """
    Reads the volumes of another system: NIfTI in HU named by the patient, by the record's name or by the file name of
    its CT, on any grid, in any orientation that its affine says.

    Args:
        folder: holds `NAME.nii.gz` or `NAME.nii`.
        records: of the benchmark; a name that two of them have is looked for by none.

    Raises:
        InputError: when there is no such folder; when it is used, where a record has no file, or two, or a file is no
            volume in HU.
    """

    def __init__(self, folder: str, records: Sequence[Mapping[str, Any]]) -> None:
        self.folder = os.path.abspath(str(folder))
        if not os.path.isdir(self.folder):
            raise InputError(f"{shown(self.folder)}: no such folder, expected one with a volume for each patient.")
        self.times = Counter(name for record in records for name in set(_names_of(record)))
        self.load = Compose([LoadCTd(PREDICTION_KEY), Orientationd(PREDICTION_KEY, axcodes="RAS", labels=None)])

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "folder", "file": os.path.basename(self.folder)}

    def files(self, record: Mapping[str, Any]) -> list[str]:
        names = [name for name in dict.fromkeys(_names_of(record)) if self.times[name] == 1]
        there = [
            path
            for path in (os.path.join(self.folder, name + suffix) for name in names for suffix in SUFFIXES)
            if os.path.isfile(path)
        ]
        if len(there) != 1:
            found = " and ".join(map(os.path.basename, there)) or "no volume"
            wanted = " or ".join(f"{name}{SUFFIXES[0]}" for name in names)
            raise InputError(
                f"{shown(self.folder)}: holds {shown(found)} of this patient, expected one file {shown(wanted)}; add "
                f"it, or remove one."
            )
        return there

    def __call__(self, record: Mapping[str, Any]) -> tuple[MetaTensor, dict[str, float]]:
        (path,) = self.files(record)
        volume = self.load({PREDICTION_KEY: path})[PREDICTION_KEY]
        check_hu(volume, path)
        return volume, dict.fromkeys(OUTLINES, float("nan"))


def check_hu(volume: Tensor, path: str) -> None:
    """Raises :class:`InputError` where a volume holds nothing as light as lungs are in HU."""
    low, high = float(volume.min()), float(volume.max())
    if low > LUNG_HU:
        raise InputError(
            f"{shown(path)}: holds values from {low:g} to {high:g}, expected HU, where air is -1000 and water 0; write "
            f"the volume in HU, as 16-bit integers or float."
        )


def _names_of(record: Mapping[str, Any]) -> list[str]:
    """What a record's volume may be called."""
    stem = os.path.basename(record["ct"].rstrip("/\\"))
    for suffix in SUFFIXES:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return [record["patient"], record["name"], stem]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
