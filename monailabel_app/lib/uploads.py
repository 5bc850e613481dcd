"""Files that come with a request: under which names, of which kinds and sizes they are taken."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pydicom
from pydicom.misc import is_dicom
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from lib.request_keys import shown
from scripts.data.datalist import LONGEST_NAME
from scripts.data.name_conventions import IMAGE_FILE_SUFFIXES
from scripts.errors import InputError, one_line_message
from scripts.io.ct_reader import NIFTI
from scripts.io.image_files import image_extent
from scripts.io.limits import check_extent, check_nifti_extent, is_deflated

DICOM = (".dcm", ".dicom", ".dic", ".ima")
SUFFIXES = (*NIFTI, *IMAGE_FILE_SUFFIXES, *DICOM)
STEM = re.compile(r"\w(?:[\w .-]*\w)?")
RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)\d)(?:\..*)?", re.I | re.S)
"""Names of devices on Windows."""
FREE_BYTES = 2**30
"""What has to stay free on the disk."""


@asynccontextmanager
async def form_of(request: Request, files: Collection[str]) -> AsyncIterator[FormData]:
    """
    The form of a request, with `files` and JSON as `params`; each of them at most once. Its files are gone afterwards.

    Raises:
        HTTPException: 415 when the body is no form, 507 when the disk has no place for it.
        InputError: when a field is unknown, given twice, or no file where it has to be one.
    """
    length = int(request.headers.get("content-length", 0))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if length and kind != "multipart/form-data":
        raise HTTPException(415, f"the body is of type {shown(kind)}, expected multipart/form-data.")
    if shutil.disk_usage(tempfile.gettempdir()).free < length + FREE_BYTES:
        raise HTTPException(507, "the server's disk has no place for this upload; ask its operator to free some.")
    async with request.form(max_files=len(files), max_fields=1, max_part_size=2**16) as form:
        for name, value in form.multi_items():
            _check_field(name, value, form, files)
        yield form


def _check_field(name: str, value: str | UploadFile, form: FormData, files: Collection[str]) -> None:
    if name not in ("params", *files):
        raise InputError(f"{shown(name)} is no field of this form, expected {', '.join(('params', *files))}.")
    if len(form.getlist(name)) > 1:
        raise InputError(f"the field {name} is given twice, expected once.")
    if isinstance(value, UploadFile) != (name in files):
        raise InputError(f"the field {name} is {'a file' if name == 'params' else 'text'}, expected the other.")


def file_name(upload: UploadFile) -> str:
    """
    The name of an uploaded file, less its folders: MONAI Label's client sends them.

    Raises:
        InputError: when it is no UTF-8.
    """
    try:
        dict(upload.headers.raw).get(b"content-disposition", b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the file's name is no UTF-8; rename the file.") from error
    return re.split(r"[/\\]", upload.filename or "")[-1]


def known_suffix(name: str) -> str:
    """The suffix of a file that can be uploaded, as it is written; none for another file."""
    return next((name[-len(suffix) :] for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def stored(upload: UploadFile, field: str, folder: Path) -> Path:
    """
    Puts an uploaded radiograph into a private folder, under a name of ours.

    Raises:
        InputError: when its name has no known suffix and it is no DICOM file, or :func:`check_size` refuses it.
    """
    return _written(upload, folder / field, f"{field} {shown(file_name(upload))}")


def stored_for_studies(upload: UploadFile, name: str | None, folder: Path) -> tuple[str, Path]:
    """
    Puts an uploaded radiograph or CT into a private folder; returns its name in the studies, and where it is.

    Args:
        upload: the file.
        name: the name that the request asks for, by default the file's own; the file's suffix is added to it.
        folder: where to.

    Raises:
        InputError: when the name is not that of a file in one folder on every system, or :func:`stored` refuses it.
    """
    asked = file_name(upload) if name is None else name
    path = _written(upload, folder / "upload", f"image {shown(asked)}")
    suffix = known_suffix(file_name(upload)) or path.suffix
    name = asked if asked.lower().endswith(suffix.lower()) else asked + suffix
    stem = name[: -len(suffix)]
    if not STEM.fullmatch(stem) or RESERVED.fullmatch(stem) or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"image {shown(asked)} cannot be the name of a file here, expected one of letters, digits, '_', '-', '.' "
            f"and blanks between them, no folder and no name of a device, of at most {LONGEST_NAME} bytes."
        )
    return name, path


def _written(upload: UploadFile, target: Path, what: str) -> Path:
    name = file_name(upload)
    start = upload.file.read(132)
    suffix = known_suffix(name).lower() or (".dcm" if start[128:] == b"DICM" else "")
    if not suffix:
        raise InputError(f"{what}: its file is {shown(name)}, expected DICOM, or one of {', '.join(SUFFIXES)}.")
    path = target.with_name(target.name + suffix)
    with path.open("wb") as file:
        file.write(start)
        shutil.copyfileobj(upload.file, file)
    return path


def check_size(path: Path, where: str, largest: int) -> None:
    """
    Reads a header, and refuses a file that would take too much memory before it is decoded.

    Args:
        path: a radiograph or a CT.
        where: start of each message.
        largest: pixels or voxels.

    Raises:
        InputError: when it is larger, or is not what its name says.
    """
    name = path.name.lower()
    try:
        if is_dicom(path) or name.endswith(DICOM) or not path.suffix:
            check_extent(_dicom_shape(path, where), largest, where)
        elif name.endswith(NIFTI):
            check_nifti_extent(str(path), largest, where)
        elif name.endswith(IMAGE_FILE_SUFFIXES):
            check_extent(image_extent(str(path)), largest, where)
        else:
            raise InputError(f"{where} is of no kind that this server reads, expected DICOM, or {', '.join(SUFFIXES)}.")
    except InputError:
        raise
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        raise InputError(f"{where} cannot be read as an image ({one_line_message(error)}).") from error


def _dicom_shape(path: Path, where: str) -> list[int]:
    """Rows, columns, and where there are more than one, samples and frames."""
    if is_deflated(str(path)):
        raise InputError(
            f"{where} is deflated as a whole, so that its pixels cannot be counted before; export it uncompressed."
        )
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    further = [int(header.get(tag) or 1) for tag in ("SamplesPerPixel", "NumberOfFrames")]
    return [header.Rows, header.Columns, *(count for count in further if count != 1)]
