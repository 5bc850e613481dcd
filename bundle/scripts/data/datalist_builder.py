"""Datalists made of the studies of a folder, split by patient."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from monai.data import partition_dataset

from ..errors import InputError, shown
from ..io.atomic_write import write_json
from ..io.dicom_headers import UNNAMED
from .datalist import SECTIONS, is_inside
from .folder_scan import find_records
from .study_pairing import Excluded, PatientRecord, patient_names

FRACTIONS = (0.7, 0.15, 0.15)
"""Of the patients in training, validation and test, unless others are asked for."""
SEED = 0
"""Of the split, unless another is asked for."""
SHOWN_ALONE = 3
"""Files of one folder that are excluded for one reason are listed one by one up to this number."""


def build_datalist(folder: Path, datalist: Path, fractions: Sequence[float], seed: int, overwrite: bool) -> None:
    """
    Writes a datalist of all studies of a folder, split by patient; prints what it holds and what it excludes.

    Args:
        folder: searched with all folders below it; hidden files and links to folders are passed over.
        datalist: where to write. Paths are relative to its folder when that holds `folder`, else absolute.
        fractions: of the patients in training, validation and test, see :func:`split_by_patient`.
        seed: of the split.
        overwrite: whether a datalist that is there may be replaced.

    Raises:
        InputError: when `folder` is none or holds no study, or `datalist` is there and `overwrite` is not set.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of studies.")
    if datalist.exists() and not overwrite:
        raise InputError(
            f"{datalist}: is there already. Replace it by --overwrite, or write another by --datalist FILE."
        )
    records, excluded = find_records(folder)
    print_excluded([entry for entry in excluded if (folder / entry.path).resolve() != datalist.resolve()])
    print_unnamed(records)
    if not records:
        raise InputError(f"{folder}: no CT found, expected at least one (their names: bundle/docs/data.md).")
    sections = split_by_patient([record.patient for record in records], fractions, seed)
    members = {name: [r for r in records if r.patient in patients] for name, patients in sections.items()}
    repeated = _names_of_repeated(records)
    entries = {
        section: [{**_fields(r, folder, datalist), **repeated.get(r.patient, {})} for r in found]
        for section, found in members.items()
    }
    write_json(str(datalist), entries)
    _print_sections(datalist, members)
    _print_single_patient(records)


def split_by_patient(patients: Iterable[str], fractions: Sequence[float], seed: int) -> dict[str, set[str]]:
    """
    Patients by section, drawn by MONAI's `partition_dataset`. Each section with a fraction above 0 gets a patient
    before any gets a second one, training first; the others go where most are wanting.

    Args:
        patients: in any order, also repeatedly.
        fractions: of training, validation and test; they need not sum to 1.
        seed: of the draw.

    Raises:
        InputError: when fractions are not three finite numbers, none negative and that of training above 0.
    """
    if len(fractions) != 3 or not all(math.isfinite(f) and f >= 0 for f in fractions) or fractions[0] == 0:
        raise InputError(f"fractions {list(fractions)}: expected three numbers, none negative, the first above 0.")
    ordered = sorted(set(patients))
    wanted = [fraction / sum(fractions) * len(ordered) for fraction in fractions]
    counts = [0, 0, 0]
    for _ in ordered:
        empty = [i for i in range(3) if fractions[i] > 0 and counts[i] == 0]
        counts[empty[0] if empty else max(range(3), key=lambda i: wanted[i] - counts[i])] += 1
    parts = partition_dataset(ordered, ratios=counts, shuffle=True, seed=seed)
    return {name: set(part) for name, part in zip(SECTIONS, parts)}


def _names_of_repeated(records: Sequence[PatientRecord]) -> dict[str, dict[str, str]]:
    """The field `patient` of patients with several CTs, by their identity in the files; others need none."""
    counts, names = Counter(record.patient for record in records), patient_names(records)
    return {patient: {"patient": names[patient]} for patient, count in counts.items() if count > 1}


def _fields(record: PatientRecord, folder: Path, datalist: Path) -> dict[str, str]:
    start = datalist.absolute().parent
    is_below = is_inside(str(folder), str(start))
    root = Path(os.path.relpath(os.path.realpath(folder), os.path.realpath(start)) if is_below else folder.absolute())
    return {field: (root / path).as_posix() for field, path in record.fields().items()}


def print_excluded(excluded: Sequence[Excluded]) -> None:
    """All that is excluded with its reason; many files of one folder with the same reason in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in excluded:
        groups.setdefault((PurePosixPath(entry.path).parent.as_posix(), entry.reason), []).append(entry.path)
    print(f"Excluded: {len(excluded) or 'nothing'}")
    for (parent, reason), paths in groups.items():
        alone = len(paths) <= SHOWN_ALONE
        for path in paths if alone else [f"{parent}/ ({len(paths)} files such as {PurePosixPath(paths[0]).name})"]:
            print(f"  {shown(path)}: {shown(reason)}")


def print_unnamed(records: Iterable[PatientRecord]) -> None:
    """Which CTs were taken for one patient each time, as their files have no Patient ID."""
    patients: dict[str, list[str]] = {}
    for record in records:
        if record.patient.startswith(UNNAMED):
            patients.setdefault(record.patient, []).append(record.ct)
    if patients:
        print(f"Without a Patient ID, a patient for each folder, study and frame of reference: {len(patients)}")
    for cts in patients.values():
        print(f"  {', '.join(map(shown, cts))}: one patient")


def _print_sections(datalist: Path, members: dict[str, list[PatientRecord]]) -> None:
    print(f"Wrote {shown(datalist)}\n{'section':<12}{'patients':>9}{'CTs':>6}{'with radiographs':>18}")
    for section, records in members.items():
        patients, paired = {record.patient for record in records}, [record for record in records if record.radiographs]
        print(f"{section:<12}{len(patients):>9}{len(records):>6}{len(paired):>18}")
    for section, reader in (("validation", "training"), ("test", "evaluation")):
        if not members[section]:
            print(f"The section '{section}' is empty; {reader} needs at least one patient there.")


def _print_single_patient(records: Sequence[PatientRecord]) -> None:
    """What may be the matter where all CTs are of one patient."""
    folders = {PurePosixPath(record.ct).parts[0] for record in records}
    if len(records) > 1 and len({record.patient for record in records}) == len(folders) == 1:
        print(f"All CTs lie below '{shown(min(folders))}' and count as one patient's; if it holds patients, search it.")
