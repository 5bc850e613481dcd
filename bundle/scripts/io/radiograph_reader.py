"""Reads a radiograph from a file: DICOM, NIfTI, PNG, TIFF or JPEG."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence

import nibabel
import numpy as np

from ..errors import InputError, one_line_message, shown
from .ct_reader import NIFTI
from .dicom_radiograph import read_dicom
from .foreign_files import check_content
from .image_files import USUAL_GAMMA, ImageFile, read_image_file
from .limits import MAX_RADIOGRAPH_PIXELS, check_nifti_extent, check_radiograph_file
from .nifti import NIFTI_MM
from .radiograph import (
    DISPLAY_ORIENTATION,
    Radiograph,
    Scale,
    check_directions,
    check_scale,
    check_spacing,
    checked_image,
    line_integrals_of,
    to_display_orientation,
)

Sides = tuple[float, float]
"""Height and width of a pixel."""
DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")
DATA_SET_STARTS = {b"\x02\0": "little", b"\x08\0": "little", b"\0\x08": "big"}
"""First group of a DICOM file without a preamble, and the order of its bytes (PS3.5 7.1)."""
DATA_SET_ELEMENTS = range(0x20)
"""Its first element, such as Specific Character Set (0008,0005) or Image Type (0008,0008)."""


def read_radiograph(
    path: str, field: str, scale: Scale | None = None, orientations: Mapping[str, Sequence[str]] = DISPLAY_ORIENTATION
) -> Radiograph:
    """
    Reads a radiograph and brings it to display orientation. DICOM is recognised by its content, whatever the file's
    name.

    Args:
        path: the file.
        field: the record's field that names it, "frontal" or "lateral".
        scale: what the values are. By default the file says: DICOM by its tags, see
            :func:`~scripts.io.dicom_radiograph.read_dicom`; of the others a floating-point file holds line integrals
            and one of integers is a presentation image, bright where attenuation is high.
        orientations: of a `frontal` and a `lateral` radiograph that does not say: where its rows and its columns run
            to, in the letters of DICOM's Patient Orientation. By default radiographs are stored in display
            orientation.

    Raises:
        InputError: when the file is missing or no image, has more than
            :data:`~scripts.io.limits.MAX_RADIOGRAPH_PIXELS` pixels, colours, several frames or another number of
            dimensions, a spacing that no radiograph has, holds NaN, infinite or complex values, or is empty or
            constant.

    Warns:
        UserWarning: when the file does not say what has to be assumed instead.
    """
    check_scale(scale)
    where = f"{shown(path)}: field '{field}'"
    check_radiograph_file(path, where)
    if _is_dicom(path, where):
        return read_dicom(path, where, field, scale, orientations)
    if str(path).lower().endswith(NIFTI):
        content, pixel_mm = _read_nifti(path, where)
    else:
        content, pixel_mm = read_image_file(path, where), None
    return _radiograph(path, where, content, pixel_mm, scale, orientations[field])


def read_stacked_radiographs(
    path: str, scale: Scale | None = None, orientations: Mapping[str, Sequence[str]] = DISPLAY_ORIENTATION
) -> tuple[Radiograph, Radiograph]:
    """
    Reads a frontal and a lateral radiograph from one NIfTI file, for tools that know a single input: `(W, H, 2)`, or
    with axes of length 1 before the last. It does not say where the radiographs were taken; the rest is as in
    :func:`read_radiograph`.

    Args:
        path: the file, which is the record's field "image".
        scale: as there.
        orientations: as there.

    Raises:
        InputError: when the file does not hold two radiographs, or one of them cannot be used.
    """
    check_scale(scale)
    where = f"{shown(path)}: field 'image'"
    check_radiograph_file(path, where)
    if not str(path).lower().endswith(NIFTI):
        raise InputError(
            f"{where} is no NIfTI file, expected both radiographs in one, frontal first; or name them singly."
        )
    stack, sides = _read_nifti_array(path, where)
    if stack.ndim != 3 or stack.shape[2] != 2:
        raise InputError(
            f"{where} has shape {stack.shape}, expected two radiographs of one size, (W, H, 2), frontal first."
        )
    return tuple(
        _radiograph(path, f"{where}, radiograph '{field}'", *_nifti_content(pixels, *sides), scale, orientations[field])
        for field, pixels in zip(("frontal", "lateral"), stack.T)
    )


def radiograph_of_array(
    pixels: np.ndarray,
    field: str,
    scale: Scale | None = None,
    pixel_mm: float | None = None,
    orientations: Mapping[str, Sequence[str]] = DISPLAY_ORIENTATION,
) -> Radiograph:
    """
    The radiograph that :func:`read_radiograph` would read from a NIfTI file of these pixels.

    Args:
        pixels: `(H, W)`, real numbers.
        field: "frontal" or "lateral".
        scale: as there.
        pixel_mm: side of a pixel, None where unknown.
        orientations: as there.

    Raises:
        InputError: as there.
    """
    check_scale(scale)
    where = f"the array: field '{field}'"
    if pixels.ndim != 2 or pixels.dtype.kind not in "biuf":
        raise InputError(f"{where} has shape {pixels.shape} of type {pixels.dtype}, expected (H, W) real numbers.")
    content = ImageFile(pixels, np.ones(pixels.shape, bool), 1.0, None)
    sides = None if pixel_mm is None else (float(pixel_mm), float(pixel_mm))
    return _radiograph("the array", where, content, sides, scale, orientations[field])


def _radiograph(
    path: str, where: str, content: ImageFile, pixel_mm: Sides | None, scale: Scale | None, directions: Sequence[str]
) -> Radiograph:
    """What the pixels of a file that is no DICOM file say."""
    letters = check_directions(directions, "radiograph_orientation")
    pixels = content.pixels
    if pixel_mm is None:
        warnings.warn(
            f"{where} has no pixel spacing; its longer side, borders included, is taken to span the detector. Expected "
            f"DICOM with Imager Pixel Spacing (0018,1164), or NIfTI in mm, for a radiograph of known size and place.",
            stacklevel=3,
        )
    else:
        check_spacing(pixel_mm, pixels.shape, f"{where}: its pixel spacing")
    scale = scale or ("line_integral" if np.issubdtype(pixels.dtype, np.floating) else "presentation")
    values = pixels.astype(np.float64)
    is_usual = content.gamma is None or abs(content.gamma / USUAL_GAMMA - 1) < 0.02
    if not is_usual and scale == "presentation" and values.max() > 0:
        values = values.max() * (values / values.max()) ** (USUAL_GAMMA / content.gamma)
    image = checked_image(values, content.opaque, where)
    if scale == "transmission":
        image = line_integrals_of(image, content.opaque, _least_step(image)).astype(np.float32)
    sizes = {"pixel_mm": pixel_mm, "pixel_aspect": content.pixel_aspect}
    return to_display_orientation(Radiograph(str(path), image, content.opaque, scale, **sizes), letters)


def _is_dicom(path: str, where: str) -> bool:
    """By its preamble, by a suffix of DICOM, or by how a data set begins, whatever the name: a UID is one, too."""
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    check_content(path, where)
    order = DATA_SET_STARTS.get(start[:2])
    is_data_set = order is not None and int.from_bytes(start[2:4], order) in DATA_SET_ELEMENTS
    return is_data_set or os.path.splitext(str(path))[1].lower() in DICOM_SUFFIXES


def _read_nifti(path: str, where: str) -> tuple[ImageFile, Sides | None]:
    """The pixels and the spacing, see :func:`_read_nifti_array`."""
    pixels, sides = _read_nifti_array(path, where)
    if pixels.ndim != 2:
        raise InputError(f"{where} has shape {pixels.shape}, expected a single-channel image of 2 dimensions.")
    return _nifti_content(pixels.T, *sides)


def _nifti_content(pixels: np.ndarray, sides: Sides, unit_mm: float | None) -> tuple[ImageFile, Sides | None]:
    """Of a file that names no unit the shape of the pixels counts alone: its lengths are often a filler."""
    opaque = np.ones(pixels.shape, bool)
    if unit_mm is not None:
        return ImageFile(pixels, opaque, 1.0, None), (sides[0] * unit_mm, sides[1] * unit_mm)
    is_known = all(np.isfinite(sides)) and min(sides) > 0
    return ImageFile(pixels, opaque, sides[0] / sides[1] if is_known else 1.0, None), None


def _read_nifti_array(path: str, where: str) -> tuple[np.ndarray, tuple[Sides, float | None]]:
    """
    `(W, H, ...)` without further axes of length 1, height and width of a pixel, and the millimetres of their unit, None
    where the header names none.
    """
    check_nifti_extent(path, MAX_RADIOGRAPH_PIXELS, where)
    try:
        image = nibabel.load(path)
        pixels = np.asanyarray(image.dataobj)
    except Exception as error:
        raise InputError(
            f"{where} cannot be read as an image ({one_line_message(error)}); expected a NIfTI file."
        ) from error
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {pixels.dtype}, expected real numbers, one for each pixel.")
    pixels = pixels.reshape(pixels.shape[:2] + tuple(length for length in pixels.shape[2:] if length != 1))
    width, height = (float(zoom) for zoom in image.header.get_zooms()[:2])
    return pixels, ((height, width), NIFTI_MM.get(image.header.get_xyzt_units()[0]))


def _least_step(image: np.ndarray) -> float:
    """Half of the smallest difference between an intensity and none."""
    positive = image[image > 0]
    return float(positive.min()) / 2 if positive.size else 1.0
