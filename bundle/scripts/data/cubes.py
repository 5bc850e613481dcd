"""
The records of a datalist as a dataset of cubes, see :mod:`scripts.io.cube_files`: made once, read by every training,
evaluation and registration, on any machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from tqdm import tqdm

from ..errors import InputError, OutputError, reason_of
from ..io.atomic_write import remove_unfinished, write_atomically, write_json
from ..io.ct_reader import EXTENT_MM
from ..io.cube_files import SUFFIX, CubeHeader, read_cube_header, write_cube, zarr_library
from ..io.radiograph import XRAY_KEYS
from .caching import files_of, state_of
from .datalist import IMAGE_FIELDS, SECTIONS, load_records, read_datalist
from .evaluation_records import DATALIST
from .shards import Shard
from .transforms import ResampleToCubed

FORMAT = 1
"""Of what is made of a CT; another number has all cubes made anew."""


@dataclass(frozen=True)
class CubeOf:
    """
    A record and what becomes of it.

    Args:
        source: the record, with whole paths.
        record: the same with files of the dataset of cubes, by their paths in its folder.
    """

    source: dict[str, Any]
    record: dict[str, Any]


def write_cubes(datalist: str, dataset_dir: str, folder: str, load: Compose, shard: str | None = None) -> None:
    """
    Makes a dataset of cubes: `SECTION/NAME.zarr.zip` of each record, copies of its radiographs, and `datalist.json` of
    all, whichever part is made. What is there, of the same files and settings, stays, so that the same call goes on
    after a stop; a CT that cannot be used is passed over and named in the end.

    Args:
        datalist: path of the JSON file.
        dataset_dir: where its paths start.
        folder: gets the dataset.
        load: what training applies to a record, :class:`~scripts.ResampleToCubed` among it.
        shard: such as "2/8", the part that is made here; None for all.

    Raises:
        InputError: as :func:`~scripts.load_records` does, before any work; and in the end when CTs could not be used.
        OutputError: when a file cannot be written.
    """
    part = Shard.of_text(shard)
    zarr_library(folder)
    to_cube = cube_transforms(load)
    sections = {name: cubes_of(datalist, name, dataset_dir) for name in _sections(datalist)}
    write_json(
        os.path.join(folder, DATALIST), {name: [each.record for each in cubes] for name, cubes in sections.items()}
    )
    own = part.of([each for cubes in sections.values() for each in cubes])
    todo = [each for each in own if not is_made(folder, each, to_cube)]
    failed = []
    with tqdm(total=len(own), initial=len(own) - len(todo), desc=f"Cubes, shard {part}") as bar:
        for each in todo:
            try:
                make(folder, each, to_cube)
            except OutputError:
                raise
            except Exception as error:  # whatever ends the loading of a record is a problem of that record
                failed.append(f"{each.record['ct']}: {reason_of(error)}")
            bar.update()
    print(f"{folder}: of shard {part}, {len(todo) - len(failed)} cubes made, {len(own) - len(todo)} there before.")
    if failed:
        count = f"{len(failed)} of {len(own)} CTs could not be made into cubes"
        raise InputError("\n".join([f"{count}; the same command goes on with these:", *failed]))


def cube_transforms(load: Compose) -> Compose:
    """The part of a record's loading that ends with the cube."""
    last = next(place for place, each in enumerate(load.transforms) if isinstance(each, ResampleToCubed))
    return Compose(load.transforms[: last + 1])


def cubes_of(datalist: str, section: str, dataset_dir: str) -> list[CubeOf]:
    """The records of a section, see :func:`~scripts.load_records`, with what becomes of them."""
    return [CubeOf(source, _record(source, section)) for source in load_records(datalist, section, dataset_dir)]


def is_made(folder: str, cube: CubeOf, to_cube: Compose) -> bool:
    """Whether the files of a record are there, made of the same files with the same settings."""
    path = os.path.join(folder, cube.record["ct"])
    try:
        if read_cube_header(path, path).made_of != _made_of(cube.source, to_cube):
            return False
    except (InputError, OSError):
        return False
    return all(os.path.isfile(os.path.join(folder, cube.record[view])) for view in XRAY_KEYS if view in cube.record)


def make(folder: str, cube: CubeOf, to_cube: Compose) -> None:
    """
    Makes the files of a record: radiographs first, so that a cube tells that all is there.

    Raises:
        Exception: whatever its loading raises.
        OutputError: when a file cannot be written.
    """
    made_of = _made_of(cube.source, to_cube)
    path = os.path.join(folder, cube.record["ct"])
    remove_unfinished(os.path.dirname(path), os.path.basename(path))
    for view in XRAY_KEYS:
        if view in cube.source:
            write_atomically(os.path.join(folder, cube.record[view]), partial(shutil.copyfile, cube.source[view]))
    ct = to_cube({"ct": cube.source["ct"]})["ct"]
    hu = ct.as_tensor()[0].round().to(torch.int16).numpy()
    middle = ct.affine.double() @ torch.tensor([(len(hu) - 1) / 2] * 3 + [1.0], dtype=torch.float64)
    fov_mm = _resampling(to_cube).fov_mm
    header = CubeHeader(len(hu), fov_mm, tuple(middle[:3].tolist()), tuple(ct.meta[EXTENT_MM]), made_of)
    write_cube(path, np.ascontiguousarray(hu), header)


def _sections(datalist: str) -> Sequence[str]:
    """Those of a datalist that hold records; all where none does, which is refused when they are read."""
    content = read_datalist(datalist)
    return [name for name in SECTIONS if content.get(name)] or SECTIONS


def _record(source: dict[str, Any], section: str) -> dict[str, Any]:
    """A record of the dataset of cubes, whose labels are written out, since they depend on where the CT was."""
    start = f"{section}/{source['name']}"
    radiographs = {view: f"{start}_{view}{_suffix(source[view])}" for view in XRAY_KEYS if view in source}
    others = {field: value for field, value in source.items() if field not in IMAGE_FIELDS}
    return {"ct": f"{start}{SUFFIX}", **radiographs, **others}


def _suffix(path: str) -> str:
    """With that of what is compressed, as of `.nii.gz`."""
    stem, suffix = os.path.splitext(path)
    return os.path.splitext(stem)[1] + suffix if suffix.lower() == ".gz" else suffix


def _made_of(source: dict[str, Any], to_cube: Compose) -> str:
    """
    SHA-256 of the settings, and of size and times of last change of a record's files; not of where they lie, which is
    another place on another machine.
    """
    resampling = _resampling(to_cube)
    settings = {"format": FORMAT, "size": resampling.size, "fov_mm": resampling.fov_mm}
    files = [
        [field, os.path.relpath(file, os.path.dirname(source[field])), *state_of(file)]
        for field in IMAGE_FIELDS
        if field in source
        for file in files_of(Path(source[field]))
    ]
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()


def _resampling(to_cube: Compose) -> ResampleToCubed:
    last = to_cube.transforms[-1]
    assert isinstance(last, ResampleToCubed)
    return last
