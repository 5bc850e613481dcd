"""
Files of cubes: CTs as the network takes them, RAS+, in whole HU, of which a part is read without the rest.

A file is a ZIP archive that stores a Zarr array (Zarr core specification, version 3) of chunks of :data:`CHUNK` voxels
a side, each compressed by Blosc and with its CRC-32 in the archive, so that damage is found as it is read. Any reader
of Zarr opens it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import zipfile
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import optional_import

from ..errors import InputError, one_line_message
from .atomic_write import write_atomically
from .foreign_files import check_content
from .limits import MAX_VOXELS, check_extent

if TYPE_CHECKING:
    from jaxtyping import Int16

SUFFIX = ".zarr.zip"
CHUNK = 64
"""Voxels along a side: a part of 128³ of a cube of 256³ lies in 8 to 27 of its 64 chunks."""
COMPRESSION = {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle"}
"""
Of Blosc. Measured on chest CTs of 256³ by `benchmarks/loading.py` of the repository: a third of the bytes, and a slower
level takes four times as long to write for 4 % less.
"""
LONGEST_HEADER = 2**16
"""Bytes of a file's `zarr.json`, a dozen lines of which each is known."""
BLOSC_LENGTH = slice(4, 8)
"""Bytes of a Blosc chunk that say how long it is without compression (c-blosc, README_CHUNK_FORMAT)."""
MAKE_ANEW = "delete it, and make it anew by `launch.py preprocess`"


@dataclass(frozen=True)
class CubeHeader:
    """
    What a file says of its cube.

    Args:
        size: voxels along a side.
        fov_mm: length of a side.
        centre_mm: where its middle lies in the CT's space, RAS+.
        extent_mm: sides of the CT that it was made of, to right, anterior and superior.
        made_of: tells files and settings that it was made of from others.
    """

    size: int
    fov_mm: float
    centre_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    made_of: str


def is_cube_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of such files."""
    return os.fspath(path).lower().endswith(SUFFIX)


def write_cube(path: str, hu: Int16[np.ndarray, "S S S"], header: CubeHeader) -> None:
    """
    Writes a cube, whole and on the disk before it gets its name.

    Raises:
        InputError: without Zarr.
        OutputError: when it cannot be written.
    """
    zarr = zarr_library(path)

    def write(temporary: str) -> None:
        with zarr.storage.ZipStore(temporary, mode="w") as store:
            zarr.create_array(
                store,
                shape=hu.shape,
                chunks=(min(CHUNK, header.size),) * 3,
                dtype=hu.dtype,
                compressors=[zarr.codecs.BloscCodec(**COMPRESSION)],
                attributes=_attributes(header),
                config={"write_empty_chunks": True},
            )[:] = hu
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())

    write_atomically(path, write)


def read_cube(
    path: str, where: str, part: tuple[slice, slice, slice] | None = None
) -> tuple[Int16[np.ndarray, "X Y Z"], CubeHeader]:
    """
    Reads a cube, or a part of it, of which no other chunks are read.

    Args:
        path: of the file.
        where: start of each message.
        part: along X, Y, Z; None for the whole.

    Returns:
        HU, and what the file says of the cube.

    Raises:
        InputError: when it is damaged, or no file that :func:`write_cube` has written; without Zarr too.
    """
    header = read_cube_header(path, where)
    zarr = zarr_library(path)
    try:
        with zarr.storage.ZipStore(path, mode="r") as store:
            return np.asarray(zarr.open_array(store, mode="r")[part or ...]), header
    except Exception as error:  # whatever a damaged chunk makes zipfile, Blosc and Zarr stumble over
        raise _damaged(where, one_line_message(error)) from error


def read_cube_header(path: str, where: str) -> CubeHeader:
    """
    What a file says of its cube, checked before Zarr sees it: of a stranger's file the codecs could be any.

    Args:
        path: of the file.
        where: start of each message.

    Raises:
        InputError: when the archive is no cube's: other entries than its chunks, other codecs, sizes that contradict
            each other, more voxels than :data:`~scripts.io.limits.MAX_VOXELS`, or numbers that no cube has.
    """
    check_content(path, where, may_be_zip=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
            if not is_stored or entries["zarr.json"].file_size > LONGEST_HEADER:
                raise _damaged(where, "entries are compressed, or zarr.json is too long")
            content = json.loads(archive.read("zarr.json"))
            header = _header(content, where)
            if set(entries) != {"zarr.json", *_chunks(header.size)} or len(entries) != len(archive.infolist()):
                raise _damaged(where, f"{len(entries)} entries, not those of a cube of {header.size}³ voxels")
            _check_lengths(archive, header.size, where)
            return header
    except InputError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile and json stumble over
        raise _damaged(where, one_line_message(error)) from error


def _header(content: Any, where: str) -> CubeHeader:
    try:
        header = CubeHeader(**{field.name: content["attributes"][field.name] for field in fields(CubeHeader)})
        numbers = [header.fov_mm, *header.extent_mm, *header.centre_mm]
        are_numbers = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
        has_places = len(header.centre_mm) == len(header.extent_mm) == 3 and min(header.fov_mm, *header.extent_mm) > 0
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(where, f"attributes of zarr.json: {one_line_message(error)}") from error
    if not (are_numbers and has_places and type(header.size) is int and isinstance(header.made_of, str)):
        raise _damaged(where, f"attributes of zarr.json are {content['attributes']}")
    check_extent([header.size] * 3, MAX_VOXELS, where)
    wrong = [name for name, value in _metadata(header.size).items() if content.get(name, []) != value]
    if wrong:
        raise _damaged(where, f"'{wrong[0]}' of zarr.json is {content.get(wrong[0])!r}")
    return CubeHeader(header.size, header.fov_mm, tuple(header.centre_mm), tuple(header.extent_mm), header.made_of)


def _attributes(header: CubeHeader) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(header).items()}


def _metadata(size: int) -> dict[str, Any]:
    """What Zarr writes of a cube, field by field."""
    side = min(CHUNK, size)
    blosc = {"typesize": 2, **COMPRESSION, "blocksize": 0}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [size] * 3,
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [side] * 3}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
        ],
        "storage_transformers": [],
    }


def _chunks(size: int) -> list[str]:
    """The names of a cube's chunks; those at the far sides are as long as the others."""
    places = range(-(-size // min(CHUNK, size)))
    return [f"c/{x}/{y}/{z}" for x, y, z in itertools.product(places, repeat=3)]


def _check_lengths(archive: zipfile.ZipFile, size: int, where: str) -> None:
    """A chunk that says that it is longer would be given as much memory."""
    expected = 2 * min(CHUNK, size) ** 3
    for name in _chunks(size):
        with archive.open(name) as chunk:
            length = int.from_bytes(chunk.read(BLOSC_LENGTH.stop)[BLOSC_LENGTH], "little")
        if length != expected:
            raise _damaged(where, f"chunk {name} has {length} bytes, not {expected}")


def _damaged(where: str, said: str) -> InputError:
    return InputError(f"{where} cannot be read as a cube ({said}), expected a whole file of `preprocess`; {MAKE_ANEW}.")


def zarr_library(where: str) -> ModuleType:
    """
    Zarr, imported where it is needed.

    Raises:
        InputError: when it is not installed; `where` is the start of the message.
    """
    zarr, has_zarr = optional_import("zarr", "3")
    if not has_zarr:
        raise InputError(
            f"{where}: cubes need Zarr 3, which is not installed: `pip install zarr`, by Python 3.11 or newer."
        )
    return zarr
