"""Brings the series of a manifest from a public bucket into a folder, and goes on after a stop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import InputError, OutputError
from ..io.atomic_write import write_json
from ..io.folder_lock import hold_folder, leave_folder
from ..io.object_listing import StoredObject
from ..io.object_store import ObjectStore, is_whole
from .manifest import SERIES, Manifest, Patient, Series

SOURCE = "source.json"
"""Says in the folder where its files come from and what may be done with them."""
SAID = ("collection", "doi", "licence", "licence_url", "attribution", "citation")
"""Fields of a manifest that it has."""


def fetch_patients(manifest: Manifest, patients: Sequence[Patient], folder: Path, store: ObjectStore) -> None:
    """
    Brings all files of patients to `folder/PATIENT/KIND/FILE.dcm`. What is there and whole stays; what is there and
    damaged is named and fetched again.

    Args:
        manifest: says where they come from.
        patients: of the manifest.
        folder: is made where it is missing.
        store: holds them.

    Raises:
        InputError: when the store lists what the manifest does not say, or cannot be had.
        OutputError: when the disk is too small, or another process fetches into the folder.
    """
    hold_folder(str(folder))
    try:
        _check_space(folder, patients)
        said = {name: getattr(manifest, name) for name in SAID}
        write_json(str(folder / SOURCE), {name: text for name, text in said.items() if text})
        size = sum(patient.size for patient in patients)
        with tqdm(total=size, unit="B", unit_scale=True, desc="Fetching", smoothing=0.05) as progress:
            store.say = progress.write
            for patient in patients:
                progress.set_description(patient.name)
                for kind, series in patient.series.items():
                    _fetch_series(series, folder / patient.name / kind, store, progress)
    finally:
        store.close()
        leave_folder(str(folder))


def _fetch_series(series: Series, folder: Path, store: ObjectStore, progress: tqdm) -> None:
    for wanted in _listed(series, store):
        path = str(folder / wanted.key.rpartition("/")[2])
        if is_whole(path, wanted):
            progress.update(wanted.size)
            continue
        if os.path.lexists(path):
            progress.write(f"{path}: is damaged, fetched again")
        store.fetch(wanted, path, progress.update)


def _listed(series: Series, store: ObjectStore) -> list[StoredObject]:
    """The objects of a series: as many bytes as the manifest says, each of a name that stays within a folder."""
    objects = list(store.objects(f"{series.name}/", series.objects))
    where = f"{store.address}: series {series.name}"
    for each in objects:
        start, _, name = each.key.partition("/")
        if start != series.name or not name.endswith(".dcm") or not SERIES.fullmatch(name[: -len(".dcm")]):
            raise InputError(f"{where} lists {each.key!r}, expected {series.name}/UUID.dcm; correct the address.")
    size = sum(each.size for each in objects)
    names = {each.key for each in objects}
    if len(names) != series.objects or len(objects) != series.objects or size != series.size:
        raise InputError(
            f"{where} lists {len(names)} objects of {size} bytes, expected {series.objects} of {series.size} as the "
            f"manifest says; the collection has changed, or the address is of another bucket."
        )
    return objects


def _check_space(folder: Path, patients: Sequence[Patient]) -> None:
    """Raises :class:`OutputError` when the disk cannot hold what is not there yet."""
    files = [path for patient in patients for path in (folder / patient.name).rglob("*") if path.is_file()]
    there = sum(path.stat().st_size for path in files)
    lacking, free = sum(patient.size for patient in patients) - there, shutil.disk_usage(folder).free
    if lacking > free:
        raise OutputError(
            f"{folder}: {lacking / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free; free the place, choose "
            f"another folder, or fewer patients."
        )
