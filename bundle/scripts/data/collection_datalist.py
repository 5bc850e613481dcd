"""The datalist of fetched CTs of a collection: what training reads, by patient, and who is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import InputError, OutputError
from ..io.atomic_write import write_json
from ..io.dicom_headers import patient_id
from .chest_ct import check_chest_series
from .datalist import EXCLUDED, SECTIONS, read_datalist
from .datalist_builder import FRACTIONS, SEED, split_by_patient
from .evaluation_records import DATALIST
from .fetched_datalist import left_out, print_counts
from .manifest import CT, Manifest, Patient

COLLECTION = "collection"
"""Field of a datalist of this module, and of its records: where all of it comes from."""
TRAINING = SECTIONS[0]


def write_collection_datalist(
    manifest: Manifest,
    patients: Sequence[Patient],
    folder: Path,
    met: Mapping[str, str],
    passed_over: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """
    Reads the headers of fetched CTs, and writes `folder/datalist.json`: the sections of training, split by patient as
    :func:`~scripts.data.datalist_builder.build_datalist` does, and "excluded", the patients that make no record, each
    with a reason that begins with its kind and a colon. Patients whom weights have met are all in the training section,
    so that these weights, and what is trained from them, are not tested on them; their field `source.met` says so.

    Args:
        manifest: says where the files come from.
        patients: of the manifest, as :func:`~scripts.data.fetching.fetch_patients` has brought them.
        folder: where.
        met: patients whom weights have met, see :func:`~scripts.data.met_patients.met_patients`.
        passed_over: patients of whom nothing was fetched, each with `patient` and `reason`.

    Returns:
        What is written.

    Raises:
        OutputError: when the file cannot be written.
    """
    records, excluded = [], [dict(entry) for entry in passed_over]
    for patient in tqdm(patients, desc="Reading", unit="patient"):
        try:
            records.append(_record(manifest, patient, folder, met))
        except InputError as reason:
            excluded.append(left_out(patient.name, reason, folder))
    sections = _sections([record["patient"] for record in records], met)
    content = {
        COLLECTION: manifest.collection,
        **{name: [record for record in records if record["patient"] in sections[name]] for name in SECTIONS},
        EXCLUDED: sorted(excluded, key=lambda entry: entry["patient"]),
    }
    write_json(str(folder / DATALIST), content)
    return content


def check_replaceable(manifest: Manifest, folder: Path) -> None:
    """
    Raises:
        OutputError: when a folder has a datalist that is not of this collection's fetched CTs.
    """
    path = folder / DATALIST
    if path.exists() and read_datalist(str(path)).get(COLLECTION) != manifest.collection:
        raise OutputError(
            f"{path}: is a datalist whose field '{COLLECTION}' is not '{manifest.collection}', which would be replaced "
            f"by one of its fetched CTs; move it, or choose another folder."
        )


def print_table(content: Mapping[str, Any], met: Mapping[str, str]) -> None:
    """How many patients are in each section, have been met, and are left out, by the kind of their reasons."""
    known = sum(record["patient"] in met for record in content[TRAINING])
    counts = [
        ("patients", sum(len(content[name]) for name in (*SECTIONS, EXCLUDED))),
        *((f"section '{name}'", len(content[name])) for name in SECTIONS),
        (f"met by weights, of '{TRAINING}'", known),
    ]
    print_counts(counts, content[EXCLUDED])
    for name in SECTIONS:
        if not content[name]:
            print(f"The section '{name}' is empty; fetch more patients.")


def _record(manifest: Manifest, patient: Patient, folder: Path, met: Mapping[str, str]) -> dict[str, Any]:
    """Raises :class:`InputError` with the reason why a patient has no record."""
    ct = folder / patient.name / CT
    check_chest_series(str(ct))
    found = patient_id(str(ct))
    if found != patient.name:
        raise InputError(f"CT of another patient: its Patient ID is {found!r}, expected {patient.name!r}.")
    source = {
        CT: f"{manifest.address}/{patient.series[CT].name}/",
        "doi": manifest.doi,
        "licence_url": manifest.licence_url,
        "attribution": manifest.attribution,
    }
    return {
        "ct": ct.relative_to(folder).as_posix(),
        "name": patient.name,
        "patient": patient.name,
        COLLECTION: manifest.collection,
        "licence": manifest.licence,
        "source": source | ({"met": met[patient.name]} if patient.name in met else {}),
    }


def _sections(patients: Sequence[str], met: Mapping[str, str]) -> dict[str, set[str]]:
    """Patients by section: the unmet ones are split, the others are all in training."""
    unmet = [name for name in patients if name not in met]
    sections = split_by_patient(unmet, FRACTIONS, SEED) if unmet else {name: set() for name in SECTIONS}
    sections[TRAINING] |= {name for name in patients if name in met}
    return sections
