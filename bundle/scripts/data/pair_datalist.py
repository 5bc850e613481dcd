"""The datalist of fetched pairs: which radiographs are the frontal and the lateral one, and who is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import InputError, OutputError
from ..io.atomic_write import write_json
from ..io.dicom_headers import patient_id, place_in_series
from ..io.radiograph import XRAY_KEYS
from ..projection.geometry import BiplanarGeometry
from ..radiographs.told_view import ToldView, tell_view
from ..radiographs.transforms import GeometryFromRadiographsd, LoadRadiographsd
from .chest_ct import check_chest_ct
from .datalist import EXCLUDED, PAIR_SECTIONS, read_datalist
from .evaluation_records import DATALIST
from .fetched_datalist import left_out, print_counts
from .manifest import CT, RADIOGRAPHS, Manifest, Patient

SCORED, MET = PAIR_SECTIONS


def write_pair_datalist(
    manifest: Manifest, patients: Sequence[Patient], folder: Path, met: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """
    Reads the radiographs and CTs of fetched patients, and writes `folder/datalist.json`: section "pairs" of the records
    that may be scored, section "met" of those of patients whom weights have met, and "excluded", the patients that make
    no record, each with a reason that begins with its kind and a colon.

    Where a patient has several frontal or lateral radiographs, those pairs count first whose two files hold the same
    kind of values (`scale`), then those whose views more tags say; of these the first by Series Instance UID, Instance
    Number and SOP Instance UID. See `docs/data.md`.

    Args:
        manifest: says where the files come from.
        patients: of the manifest, as :func:`~scripts.data.fetching.fetch_patients` has brought them.
        folder: where.
        met: patients whom weights have met, see :func:`~scripts.data.met_patients.met_patients`.

    Returns:
        What is written, by section.

    Raises:
        OutputError: when the file cannot be written.
    """
    content: dict[str, list[dict[str, Any]]] = {SCORED: [], MET: [], EXCLUDED: []}
    for patient in tqdm(patients, desc="Reading", unit="patient"):
        try:
            section, entry = MET if patient.name in met else SCORED, _record(manifest, patient, folder)
        except InputError as reason:
            section, entry = EXCLUDED, left_out(patient.name, reason, folder)
        content[section].append(entry)
    write_json(str(folder / DATALIST), content)
    return content


def check_replaceable(folder: Path) -> None:
    """
    Raises:
        OutputError: when a folder has a datalist that :func:`write_pair_datalist` has not written.
    """
    path = folder / DATALIST
    if path.exists() and SCORED not in read_datalist(str(path)):
        raise OutputError(
            f"{path}: is a datalist without section '{SCORED}', which would be replaced by one of fetched pairs; move "
            f"it, or choose another folder."
        )


def print_pair_table(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """How many patients make pairs, have been met, and are left out, by the kind of their reasons."""
    counts = [
        ("patients", sum(map(len, content.values()))),
        (f"pairs, in section '{SCORED}'", len(content[SCORED])),
        (f"met by weights, in section '{MET}', in no score", len(content[MET])),
    ]
    print_counts(counts, content[EXCLUDED])


def _record(manifest: Manifest, patient: Patient, folder: Path) -> dict[str, Any]:
    """Raises :class:`InputError` with the reason why a patient has no pair."""
    place = folder / patient.name
    told = {path: tell_view(str(path)) for path in sorted((place / RADIOGRAPHS).glob("*.dcm"))}
    pair, ct = _chosen(told), place / CT
    _check_pair(pair)
    check_chest_ct(str(ct))
    _check_one_patient([*pair.values(), ct])
    return {
        **{field: path.relative_to(folder).as_posix() for field, path in {CT: ct, **pair}.items()},
        "name": patient.name,
        "patient": patient.name,
        "collection": manifest.collection,
        "licence": manifest.licence,
        "source": {kind: f"{manifest.address}/{series.name}/" for kind, series in patient.series.items()},
        "view_told": {field: told[path].by for field, path in pair.items()},
    }


def _chosen(told: Mapping[Path, ToldView]) -> dict[str, Path]:
    """The frontal and the lateral radiograph, see :func:`write_pair_datalist`."""
    found = {field: [path for path, view in told.items() if view.plane == field] for field in XRAY_KEYS}
    missing = [field for field, paths in found.items() if not paths]
    if missing:
        seen = "; ".join(f"{path.name}: {view.plane or 'neither'} by {view.by}" for path, view in told.items())
        raise InputError(f"no {' and no '.join(missing)} radiograph: of {len(told)} files {seen}")

    def rank(pair: tuple[Path, ...]) -> tuple:
        views = [told[path] for path in pair]
        return (
            len({view.scale for view in views}),
            sum(not view.is_declared for view in views),
            *map(place_in_series, pair),
        )

    return dict(zip(XRAY_KEYS, min(product(*found.values()), key=rank)))


def _check_pair(pair: Mapping[str, Path]) -> None:
    """Loads both as evaluation does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            record = LoadRadiographsd()({field: str(path) for field, path in pair.items()})
            GeometryFromRadiographsd(BiplanarGeometry())(record)
        except InputError as error:
            raise InputError(f"radiographs make no pair: {error}") from error


def _check_one_patient(paths: Sequence[Path]) -> None:
    patients = {patient_id(str(path)) for path in paths} - {""}
    if len(patients) > 1:
        found = ", ".join(sorted(patients))
        raise InputError(f"radiographs and CT of different patients: their Patient IDs are {found}.")
