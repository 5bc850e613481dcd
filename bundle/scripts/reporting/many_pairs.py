"""Many pairs in one run: what is done is passed over, what fails is listed, each result is whole or not there."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform

from ..data.pair_list import ListedPair
from ..errors import InputError, reason_of, shown
from ..evaluation.measurements import MEASURES
from ..evaluation.summary import write_table
from ..io.atomic_write import remove_unfinished_folders, write_folder_atomically
from ..io.folder_lock import LOCK, hold_folder, leave_folder
from ..io.run_manifest import RUN, RunManifest, read_run
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import ImagingModel
from ..radiographs.transforms import GEOMETRY_KEY
from ..training.progress import in_words
from .assessment import ASSESSMENT_FILES, CONTENT, SaveAssessmentd, figures_of
from .reconstruction import RESULTS, SaveReconstructiond

TABLE = "pairs.csv"
RESERVED = (TABLE, LOCK, "error.log")
"""Names in the folder of all pairs that are no pair's."""
NAME_KEY, PATHS_KEY, OBSTACLE_KEY, DONE_KEY = "name", "paths", "obstacle", "is_done"
"""Fields of a record: its id; the paths of its radiographs; why there is nothing to reconstruct; a result is there."""
FOREIGN = "holds other files than results of `infer`"


class PairDataset(Dataset):
    """
    The records of pairs for an evaluator. One that cannot be loaded has an `obstacle` in place of its X-rays, and one
    whose result is there is marked so, so that :class:`PairRun` can pass over both.

    Args:
        pairs: what is to be reconstructed.
        transform: makes the network's input of `{"frontal", "lateral"}`.
        output_dir: holds a folder for each pair, by its name.
        manifest: tells which results are of the same files and settings.
    """

    def __init__(
        self,
        pairs: Sequence[ListedPair],
        transform: Callable[[Mapping[Hashable, Any]], Mapping[Hashable, Any]],
        output_dir: str,
        manifest: RunManifest,
    ) -> None:
        super().__init__(list(pairs), transform)
        self.output_dir, self.manifest = output_dir, manifest

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair: ListedPair = self.data[index]
        views = {} if pair.views is None else {"views": pair.views}
        self.manifest.start(pair.radiographs, views)
        name, folder = {NAME_KEY: pair.name}, os.path.join(self.output_dir, pair.name)
        obstacle = pair.obstacle or _foreign(folder)
        if obstacle:
            return {**name, OBSTACLE_KEY: obstacle}
        if not os.path.islink(folder) and self.manifest.is_of(read_run(folder) or {}):
            return {**name, DONE_KEY: True}
        try:
            return {
                **name,
                **self.transform({**pair.radiographs, GEOMETRY_KEY: views}),
                PATHS_KEY: dict(pair.radiographs),
            }
        except Exception as error:  # what another package raises of a file depends on the file
            return {**name, OBSTACLE_KEY: reason_of(error)}


class SavePaird(Transform):
    """
    Writes what :class:`~scripts.SaveReconstructiond` does into a folder of the record's `name`, which gets its name
    when all of it is whole, and takes the place of an earlier result.

    Args:
        output_dir: holds the folders.
        copy_patient: whether a DICOM series takes the patient's identification of the frontal file, or of the one that
            is given alone.
        imaging: of an assessment that is written there as well, see :class:`~scripts.SaveAssessmentd`; None for none.
        how: further arguments of that transform, `dicom`, `xray_scale` and `manifest`.
    """

    def __init__(
        self,
        output_dir: str,
        geometry: BiplanarGeometry,
        copy_patient: bool,
        imaging: ImagingModel | None = None,
        **how: Any,
    ) -> None:
        self.output_dir, self.geometry, self.copy_patient, self.how = output_dir, geometry, copy_patient, how
        self.imaging = imaging

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        source = next(iter(record[PATHS_KEY].values())) if self.copy_patient else None

        def write(folder: str) -> None:
            if self.imaging is not None:
                SaveAssessmentd(folder, self.imaging)(record)
            SaveReconstructiond(folder, self.geometry, copy_patient_from=source, **self.how)(record)

        write_folder_atomically(os.path.join(self.output_dir, record[NAME_KEY]), write)
        return dict(record)


class PairRun:
    """
    The `iteration_update` of an evaluator of :class:`PairDataset`, one record a batch: reconstructs a pair, goes on
    where that fails, says how far the run is and how long it will take, and writes `pairs.csv` after each pair.

    Args:
        output_dir: holds the folders of the pairs; used by one process at a time. What a killed one has left of
            unfinished results is removed.
        pairs: all of them.
        assessed: whether they are assessed, and `pairs.csv` has the figures of that too.

    Raises:
        OutputError: when another process uses the folder.
    """

    def __init__(self, output_dir: str, pairs: Sequence[ListedPair], assessed: bool = False) -> None:
        self.output_dir, self.total, self.assessed = output_dir, len(pairs), assessed
        hold_folder(output_dir)
        for pair in pairs:
            remove_unfinished_folders(output_dir, pair.name)
        self.rows: list[dict[str, Any]] = []
        self.seconds: list[float] = []

    def __call__(self, engine: SupervisedEvaluator, batch: Mapping[str, Any]) -> dict[str, Any]:
        name, obstacle = batch[NAME_KEY][0], batch.get(OBSTACLE_KEY, [None])[0]
        started, status = time.monotonic(), "done before" if DONE_KEY in batch else "done"
        output: dict[str, Any] = {}
        if obstacle is None and status == "done":
            try:
                output = engine._iteration(engine, dict(batch))
            except Exception as error:  # one pair's, such as a body that cannot be measured; the others go on
                obstacle = reason_of(error)
        if obstacle is not None:
            status = "failed"
        folder = os.path.join(self.output_dir, name)
        row = row_of(name, status, obstacle, folder)
        if self.assessed:
            row |= figures_of(_read(os.path.join(folder, CONTENT)) if status != "failed" else None)
        self._report(row, time.monotonic() - started)
        return output

    def finish(self) -> None:
        """
        Raises:
            InputError: when pairs have failed, with each and why.
        """
        leave_folder(self.output_dir)
        if self.assessed:
            failed_rules = Counter(rule for row in self.rows for rule in (row["rules_failed"] or "").split())
            for rule, count in failed_rules.most_common():
                print(f"The rule {rule} fails in {count} of {self.total} pairs.", flush=True)
        failed = [f"{row['id']}: {row['reason']}" for row in self.rows if row["status"] == "failed"]
        count = f"{len(failed)} of {self.total} pairs failed"
        print(f"{self.total - len(failed)} of {self.total} pairs are reconstructed, see {self._path}.", flush=True)
        if failed:
            raise InputError("\n".join([f"{count}; the same command goes on with these:", *failed]))

    @property
    def _path(self) -> str:
        return os.path.join(self.output_dir, TABLE)

    def _report(self, row: dict[str, Any], seconds: float) -> None:
        self.rows.append(row)
        write_table(self._path, self.rows)
        if row["status"] == "done":
            self.seconds.append(row["seconds"] or seconds)
        said = {"failed": f"failed: {row['reason']}", "done": f"done in {row['seconds']} s"}.get(
            row["status"], "is done"
        )
        left = self.total - len(self.rows)
        mean = sum(self.seconds) / len(self.seconds) if self.seconds else None
        more = f"; about {in_words(mean * left)} left" if left and mean is not None else ""
        print(f"[{len(self.rows)} of {self.total}] {shown(row['id'])} {shown(said)}{more}", flush=True)


def row_of(name: str, status: str, reason: str | None, folder: str) -> dict[str, Any]:
    """
    The row of `pairs.csv` of a pair: the figures of its folder of results where the status says that there is one.
    `calibration` is empty where none was needed, or "flagged" or "not flagged"; `out_of_distribution` likewise, empty
    where it was not looked for; measurements are called as in `measurements.json`.
    """
    is_there = status != "failed"
    run, known, pair, measured = (
        _read(os.path.join(folder, file)) if is_there else {}
        for file in (RUN, "familiarity.json", "calibration.json", "measurements.json")
    )
    figures = {each["key"]: each["value"] for each in measured.get("measurements", ())}
    return {
        "id": name,
        "status": status,
        "seconds": run.get("seconds"),
        "reason": reason,
        "calibration": _flag(pair),
        "out_of_distribution": _flag(known),
        "distance": known.get("distance"),
        **{measure.key: figures.get(measure.key) for measure in MEASURES},
    }


def _flag(content: Mapping[str, Any]) -> str | None:
    return None if "flagged" not in content else "flagged" if content["flagged"] else "not flagged"


def _read(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8")) if os.path.isfile(path) else {}


def _foreign(folder: str) -> str | None:
    """Why a folder may not be replaced: it is there and holds what no reconstruction has written."""
    if os.path.islink(folder) or not os.path.lexists(folder):
        return None
    if not os.path.isdir(folder):
        return f"{folder}: is a file, expected the place of a folder of results; choose another output folder."
    others = sorted(set(os.listdir(folder)) - {*RESULTS, *ASSESSMENT_FILES, "error.log"})
    if others:
        return f"{folder}: {FOREIGN}, such as {others[0]}; it would be replaced: choose another output folder."
    return None
