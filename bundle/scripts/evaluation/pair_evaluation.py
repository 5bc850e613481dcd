"""Scores a system on pairs of radiographs with a CT of the same patient: patient by patient, goes on after a stop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.transforms import Compose, Orientationd
from tqdm import tqdm

from ..data.pair_records import Pairs
from ..data.transforms import LoadCTd
from ..errors import CheckpointError, InputError, OutputError, reason_of, root_cause
from ..io.atomic_write import NOTICE, remove_earlier, write_json
from ..io.metadata import bundle_metadata
from .measurement_report import DESCRIBED, limits_of_agreement
from .pair_predictions import OUTLINES, Predictor
from .pair_scores import PAIR_DEFINITIONS, PAIR_MEASURES, SURVIVE, VERSION, Chest, chest_of, pair_scores
from .summary import INTERVAL_DEFINITION, patient_means, summarise, write_table

NAME = "pairs"
DONE = "patients"
"""Folder of the scores of each patient, from which the same command goes on."""
COLUMNS = ("case", "patient", "group", "method")
PREDICTION, REFERENCE = "prediction", "another patient's CT"
METHOD_DEFINITIONS = {
    REFERENCE: "as a method: the CT of the record before, the first one's of the last, in place of the prediction; "
    "what any chest scores, and what the alignments forgive",
}
CTS_KEPT = 2
"""A patient's and that of the record before."""
FATAL = (OutputError, CheckpointError)
"""What is wrong for all patients alike."""


class PairEvaluation:
    """
    Scores a volume of each pair against its CT by :mod:`~scripts.evaluation.pair_scores`, and writes `pairs.csv` and
    `pairs.json` when all are done. A patient that fails is listed with the reason.

    Args:
        pairs: what is scored, and who is left out.
        predictor: gives each pair its volume.
        output_dir: where to write; `patients` in it holds what is done, and is used again as long as the files that it
            was made from, the system and the definitions are the same.
    """

    def __init__(self, pairs: Pairs, predictor: Predictor, output_dir: str) -> None:
        self.pairs, self.predictor, self.output_dir = pairs, predictor, output_dir
        self.load = Compose([LoadCTd("ct"), Orientationd("ct", axcodes="RAS", labels=None)])
        self.chest_of_ct = lru_cache(CTS_KEPT)(lambda path: chest_of(self.load({"ct": path})["ct"]))

    def run(self) -> None:
        """
        Raises:
            InputError: at the end, when patients have failed, with each and why; what the others score is written.
            OutputError: when a result cannot be written.
            CheckpointError: when the weights cannot be used.
        """
        for suffix in ("json", "csv"):
            remove_earlier(self._path(suffix))
        rows, failed = self._score_all()
        self._write(rows, failed)
        if failed:
            listed = [f"{patient}: {reason}" for patient, reason in failed.items()]
            count = len(self.pairs.records) + len(self.pairs.unusable)
            raise InputError("\n".join([f"{len(failed)} of {count} pairs failed:", *listed]))

    def _score_all(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        rows: list[dict[str, Any]] = []
        failed, identity = dict(self.pairs.unusable), self.predictor.identity
        with tqdm(self.pairs.records, desc="Pairs", unit="pair") as progress:
            for number, record in enumerate(progress):
                progress.set_description(record["name"])
                try:
                    rows += self._rows_of(record, self.pairs.records[number - 1], identity)
                except Exception as error:  # another patient's can be whole
                    if isinstance(root_cause(error), FATAL):
                        raise
                    failed[record["name"]] = reason_of(error)
                    progress.write(f"{record['name']} failed: {failed[record['name']]}")
        return rows, failed

    def _rows_of(self, record: dict[str, Any], before: dict[str, Any], identity: dict[str, str]) -> list[dict]:
        path = os.path.join(self.output_dir, DONE, f"{record['name']}.json")
        used = [record["ct"], before["ct"], *self.predictor.files(record)]
        made_from = {"version": VERSION, **_versions(), "system": identity, "files": [state_of(file) for file in used]}
        if (rows := _rows_done(path, made_from)) is None:
            rows = self._scored(record, before)
            write_json(path, {"notice": NOTICE, "made_from": made_from, "rows": rows})
        return rows

    def _scored(self, record: dict[str, Any], before: dict[str, Any]) -> list[dict[str, Any]]:
        truth = self.chest_of_ct(record["ct"])
        volume, outlines = self.predictor(record)
        rows = [self._row(record, PREDICTION, pair_scores(chest_of(volume), truth), outlines)]
        if before["patient"] != record["patient"] and (other := self._other(before)) is not None:
            rows.append(self._row(record, REFERENCE, pair_scores(other, truth), dict.fromkeys(OUTLINES, float("nan"))))
        return rows

    def _other(self, record: dict[str, Any]) -> Chest | None:
        """The CT of another patient; one that cannot be read is that patient's failure."""
        try:
            return self.chest_of_ct(record["ct"])
        except InputError:
            return None

    def _row(
        self, record: dict[str, Any], method: str, scores: dict[str, float], outlines: dict[str, float]
    ) -> dict[str, Any]:
        identity = (record["name"], record["patient"], record["group"], method)
        return {**dict(zip(COLUMNS, identity)), **scores, **outlines}

    def _write(self, rows: Sequence[dict[str, Any]], failed: dict[str, str]) -> None:
        content = {
            "notice": NOTICE,
            "benchmark": "LIDC-Pairs",
            "version": VERSION,
            **_versions(),
            "system": self.predictor.identity,
            "definitions": {**PAIR_DEFINITIONS, **METHOD_DEFINITIONS, **INTERVAL_DEFINITION},
            "measures": [{name: getattr(each, name) for name in DESCRIBED} for each in PAIR_MEASURES],
            "scored": len({row["case"] for row in rows}),
            "failed": failed,
            "met": self.pairs.met,
            "excluded": self.pairs.excluded,
            "summary": summarised_pairs(rows),
            "cases": rows,
        }
        if rows:
            write_table(self._path("csv"), rows)
        write_json(self._path("json"), content)

    def _path(self, suffix: str) -> str:
        return os.path.join(self.output_dir, f"{NAME}.{suffix}")


def summarised_pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """:func:`~scripts.evaluation.summary.summarise`, with the limits of agreement of each error."""
    entries = summarise(rows, by=("group", "method"))
    for entry in entries:
        chosen = [row for row in rows if all(row[name] == entry[name] for name in ("group", "method"))]
        for key in SURVIVE:
            entry[f"{key}_error"] |= limits_of_agreement(patient_means(chosen, f"{key}_error"))
    return entries


def state_of(path: str) -> str:
    """Names, sizes and times of a file, or of a folder's files, as one SHA-256: whether it is still the same."""
    files = [path] if os.path.isfile(path) else [str(file) for file in sorted(Path(path).rglob("*")) if file.is_file()]
    states = [(os.path.abspath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _rows_done(path: str, made_from: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What an earlier run has scored of the same; None where it has not."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["made_from"] != made_from:
            return None
        return [{name: np.nan if value is None else value for name, value in row.items()} for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _versions() -> dict[str, Any]:
    return {
        "versions": {"bundle": bundle_metadata()["version"], "monai": monai.__version__, "torch": torch.__version__}
    }
