"""
Headers of NRRD and MetaImage, read and checked before ITK sees the file: at some damaged ones it ends the whole
process, and a detached header may name any file of the machine as its voxels.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from .foreign_files import check_content
from .limits import MAX_VOXELS, check_extent

LONGEST_HEADER = 2**16
"""Bytes in which a header has to end."""
DETACHED = (".mhd", ".nhdr")
"""Suffixes of headers whose voxels are in other files."""
VOXELS = re.compile(rb"^[ \t]*(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*(\S.*?)[ \t\r]*$", re.I | re.M)
"""The name of that file, in MetaImage (MetaIO, ElementDataFile) and in NRRD (section 5, data file)."""
LARGEST_NUMBER = 1e6
"""In size, of a header's lengths and places in mm."""
NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
}
"""Bytes of a voxel by the names of NRRD's types (teem.sourceforge.net/nrrd/format.html, section 5)."""
NRRD_SPACES = re.compile(r"(right|left)-(anterior|posterior)-superior(-time)?|[rl][ap]st?")
META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
"""Bytes of a voxel by the names of MetaImage's types; MET_LONG, whose size differs by system, is none of them."""


def check_nrrd(path: str, where: str) -> None:
    """
    Refuses a NRRD whose header ITK should not see.

    Args:
        path: of a `.nrrd` or `.nhdr`.
        where: the file and field, for messages.

    Raises:
        InputError: when the header is damaged, too long or says a field twice, numbers are missing or beyond reason,
            voxels have no sides or no orientation, or the values are too many, in another folder, or not all there.
    """
    content = _start(path)
    header, end, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    is_detached = path.lower().endswith(".nhdr")
    if not re.match(rb"NRRD000[1-5]\n", header) or not header.isascii() or not (end or is_detached):
        raise InputError(
            f"{where} has a damaged header, expected NRRD, lines of ASCII and an empty line at their end; convert the "
            f"original again."
        )
    lines = [line for line in header.decode().split("\n")[1:] if line.strip() and not line.startswith("#")]
    fields = _fields((line.partition(":") for line in lines if ":=" not in line), where)
    fields = {name.replace(" ", ""): value for name, value in fields.items()}  # "data file" and "datafile" are one

    sizes = _sizes(fields, "sizes", "dimension", where)
    _check_nrrd_place(fields, where)
    bytes_each = NRRD_BYTES.get(fields.get("type", "").lower())
    if bytes_each is None:
        raise _wrong(where, "type", fields.get("type"), "a type of numbers such as short or float")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz", "ascii", "text", "txt"):
        raise _wrong(where, "encoding", fields.get("encoding"), "raw, gzip or text")
    skipped = _skipped(fields, where, is_raw=encoding == "raw")

    voxels = path
    if "datafile" in fields:
        voxels = _neighbour(path, fields["datafile"], "data file", where)
    elif is_detached:
        raise _wrong(where, "data file", None, "the name of a file in the same folder")
    if encoding == "raw":
        start = 0 if voxels != path else len(header) + 2
        _check_length(voxels, start + skipped, math.prod(sizes) * bytes_each, where)


def check_meta_image(path: str, where: str) -> None:
    """
    Refuses a MetaImage whose header ITK should not see; arguments and errors as for :func:`check_nrrd`.
    """
    content = _start(path)
    ending = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[^\n]*(\n|\Z)", content, re.M)
    header = content[: ending.end()] if ending else b""
    if not header or not header.isascii():
        raise InputError(
            f"{where} has a damaged header, expected MetaImage, lines of ASCII such as 'NDims = 3', ElementDataFile "
            f"the last of them; convert the original again."
        )
    lines = [line for line in header.decode().replace("\r\n", "\n").split("\n") if line.strip()]
    fields = _fields((line.partition("=") for line in lines), where)

    sizes = _sizes(fields, "DimSize", "NDims", where)
    _check_meta_place(fields, len(sizes), where)
    bytes_each = META_BYTES.get(fields.get("elementtype", "").upper())
    if bytes_each is None:
        raise _wrong(where, "ElementType", fields.get("elementtype"), f"one of {', '.join(META_BYTES)}")
    channels = _whole({"elementnumberofchannels": "1"} | fields, "elementnumberofchannels", where)
    if channels != [1]:
        raise _wrong(where, "ElementNumberOfChannels", fields["elementnumberofchannels"], "1")
    skipped = _whole({"headersize": "0"} | fields, "headersize", where)
    if len(skipped) != 1 or skipped[0] < -1:
        raise _wrong(where, "HeaderSize", fields["headersize"], "a number of bytes, or -1 for values at the file's end")

    name = fields["elementdatafile"]
    voxels = path if name.upper() == "LOCAL" else _neighbour(path, name, "ElementDataFile", where)
    is_plain = fields.get("compresseddata", "false").lower() in ("false", "0")
    if is_plain and fields.get("binarydata", "true").lower() in ("true", "1"):
        start = len(header) if voxels == path else max(skipped[0], 0)
        _check_length(voxels, start, math.prod(sizes) * bytes_each, where)


def named_voxels(path: Path) -> list[Path]:
    """The files that a detached header, one of :data:`DETACHED`, names as those of its voxels, be they there or not."""
    if not path.name.lower().endswith(DETACHED):
        return []
    return [path.parent / os.fsdecode(name) for name in VOXELS.findall(_start(str(path)))]


def _start(path: str) -> bytes:
    """The bytes in which a header has to end."""
    with open(path, "rb") as file:
        return file.read(LONGEST_HEADER)


def _fields(lines: Iterable[tuple[str, str, str]], where: str) -> dict[str, str]:
    """By names in lower case; `lines`: each parted into name, separator and value."""
    fields: dict[str, str] = {}
    for name, separator, value in lines:
        name = name.strip().lower()
        if not separator or name in fields:
            problem = "twice" if name in fields else "without a value"
            raise InputError(f"{where} has a header that names '{shown(name)}' {problem}; convert the original again.")
        fields[name] = value.strip()
    return fields


def _whole(fields: dict[str, str], name: str, where: str) -> list[int]:
    words = fields.get(name, "").split()
    if not words or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise _wrong(where, name, fields.get(name), "whole numbers")
    return [int(word) for word in words]


def _sizes(fields: dict[str, str], name: str, count_name: str, where: str) -> list[int]:
    """The voxels along each axis, of as many axes as another field says."""
    sizes = _whole(fields, name.lower(), where)
    if _whole(fields, count_name.lower(), where) != [len(sizes)] or not 3 <= len(sizes) <= 4:
        found = fields[count_name.lower()]
        raise _wrong(where, count_name, found, f"the number of sizes ({len(sizes)}), 3 or 4")
    check_extent(sizes, MAX_VOXELS, where)
    return sizes


def _numbers(text: str, name: str, where: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if not numbers or not all(abs(number) <= LARGEST_NUMBER for number in numbers):  # NaN is below no limit
        raise _wrong(where, name, text, f"numbers of at most {LARGEST_NUMBER:g}")
    return numbers


def _check_nrrd_place(fields: dict[str, str], where: str) -> None:
    """Sides and orientation of the voxels; a NRRD without `space` does not say which side is the patient's right."""
    for name in ("spacedirections", "spacings"):
        if name in fields:
            vectors = re.sub(r"none|nan", "", fields[name], flags=re.I)
            _numbers(re.sub(r"[(),]", " ", vectors), name, where)
    if "spaceorigin" in fields:
        _numbers(re.sub(r"[(),]", " ", fields["spaceorigin"]), "space origin", where)
    if "spacedirections" not in fields:
        found = f"spacings {fields['spacings']} alone" if "spacings" in fields else None
        raise _wrong(where, "space directions", found, "the sides of a voxel in mm and their directions")
    for name in ("oldmin", "oldmax"):
        if name in fields:
            raise _wrong(where, name, fields[name], "no such field, as its values are no HU but quantised ones")
    units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", '"mm"')))
    if units - {"mm", "millimeter", "millimeters", "millimetre", "millimetres", ""}:
        raise _wrong(where, "space units", fields["spaceunits"], '"mm" for each axis')
    if not NRRD_SPACES.fullmatch(fields.get("space", "").lower()):
        raise _wrong(where, "space", fields.get("space"), "one such as left-posterior-superior")


def _check_meta_place(fields: dict[str, str], dimensions: int, where: str) -> None:
    """
    MetaIO takes a side of 1 mm and axes to the left, posterior and superior where a header is silent; here it speaks.
    """
    lengths = {"elementspacing": dimensions, "offset": dimensions, "position": dimensions, "origin": dimensions}
    matrices = dict.fromkeys(("transformmatrix", "rotation", "orientation"), dimensions**2)
    for name, count in (lengths | matrices | {"elementsize": dimensions, "centerofrotation": dimensions}).items():
        if name in fields and len(_numbers(fields[name], name, where)) != count:
            raise _wrong(where, name, fields[name], f"{count} numbers")
    _check_meta_values(fields, where)
    if "elementspacing" not in fields:
        raise _wrong(where, "ElementSpacing", None, "the sides of a voxel in mm")
    if 0 in _numbers(fields["elementspacing"], "ElementSpacing", where):
        raise _wrong(where, "ElementSpacing", fields["elementspacing"], "the sides of a voxel in mm, none of them 0")
    given = [name for name in matrices if name in fields]
    for one, other in (*itertools.pairwise(given), *itertools.pairwise(set(fields) & {"offset", "position", "origin"})):
        if not np.allclose(_numbers(fields[one], one, where), _numbers(fields[other], other, where)):
            raise _wrong(where, one, fields[one], f"what '{other}' says ({shown(fields[other])})")
    if not given:
        raise _wrong(where, "TransformMatrix", None, "the directions of the axes, such as 1 0 0 0 1 0 0 0 1")
    matrix = np.reshape(_numbers(fields[given[0]], given[0], where), (dimensions, dimensions))
    if not abs(np.linalg.det(matrix)) > 0:
        raise _wrong(where, given[0], fields[given[0]], "directions of axes that span the space")
    if dimensions == 3:
        _warn_of_orientation(fields, matrix, where)


def _warn_of_orientation(fields: dict[str, str], matrix: np.ndarray, where: str) -> None:
    """AnatomicalOrientation says in letters, from where each axis comes, what the matrix says; ITK passes it over."""
    said = fields.get("anatomicalorientation", "").upper()
    pairs = ("RL", "AP", "IS")
    main = [int(np.argmax(abs(axis))) for axis in matrix]
    found = "".join(pairs[place][int(axis[place] < 0)] for place, axis in zip(main, matrix))
    if re.fullmatch("[RLAPIS]{3}", said) and said != found:
        warnings.warn(
            f"{where}: 'AnatomicalOrientation' of its header is {said}, but by its matrix {found}, which is used; look "
            f"on which side the heart lies.",
            stacklevel=4,
        )


def _check_meta_values(fields: dict[str, str], where: str) -> None:
    """What MetaIO reads, and ITK does not apply: units of length, and a function from the values to intensities."""
    if fields.get("distanceunits", "mm").lower() not in ("mm", "?", ""):
        raise _wrong(where, "DistanceUnits", fields["distanceunits"], "mm")
    for name, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        if name.lower() in fields and _numbers(fields[name.lower()], name, where) != [neutral]:
            raise _wrong(where, name, fields[name.lower()], f"{neutral}, the values being HU as they are")


def _skipped(fields: dict[str, str], where: str, is_raw: bool) -> int:
    """Bytes before a NRRD's values; -1, "the values end the file", is of raw ones alone (section 4.6 of the format)."""
    skipped = _whole({"byteskip": "0"} | fields, "byteskip", where)
    if len(skipped) != 1 or skipped[0] < (-1 if is_raw else 0):
        raise _wrong(
            where, "byte skip", fields["byteskip"], "a number of bytes, or -1 for raw values at the file's end"
        )
    lines = _whole({"lineskip": "0"} | fields, "lineskip", where)
    if len(lines) != 1 or lines[0] < 0:
        raise _wrong(where, "line skip", fields["lineskip"], "a number of lines")
    return max(skipped[0], 0)


def _neighbour(path: str, name: str, field: str, where: str) -> str:
    """
    The file of the values that a detached header names: a plain name in its folder, no pattern and no list. It may be a
    link only where the header is one too, as in the caches of Hugging Face and git-annex.
    """
    if (
        not re.fullmatch(r"[^/\\:%*?\"<>|]+", name)
        or name in (".", "..")
        or name.split()[0] == "LIST"
        or name[0] == "@"
    ):
        raise _wrong(where, field, name, "the name of one file in the same folder")
    voxels = os.path.join(os.path.dirname(path), name)
    if os.path.isfile(voxels):
        check_content(voxels, where)
    else:
        raise InputError(
            f"{where} has its voxels in '{name}', expected that file next to the header; put it there under this name."
        )
    if os.path.islink(voxels) and not os.path.islink(path):
        raise InputError(
            f"{where} has its voxels in '{name}', a link to {shown(os.path.realpath(voxels))}, expected a file; copy "
            "it there."
        )
    return voxels


def _check_length(voxels: str, start: int, expected: int, where: str) -> None:
    found = os.path.getsize(voxels) - start
    if found < expected:
        raise InputError(
            f"{where} has {max(found, 0)} bytes of voxels in {shown(os.path.basename(voxels))}, expected {expected} by "
            f"its header; fetch it again."
        )


def _wrong(where: str, field: str, found: str | None, expected: str) -> InputError:
    said = "is missing" if found is None else f"is '{shown(found)}'"
    return InputError(f"{where}: '{field}' of its header {said}, expected {expected}; convert the original again.")
