"""Reads a radiograph from a file: DICOM, NIfTI, PNG, TIFF or JPEG."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence

import nibabel
import numpy as np
from PIL import Image

from ..errors import InputError, one_line_message, shown
from .ct_reader import NIFTI
from .dicom_radiograph import read_dicom
from .limits import MAX_RADIOGRAPH_PIXELS, check_extent, check_nifti_extent, check_radiograph_file
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

IMAGE_FORMATS = ("PNG", "TIFF", "JPEG")
"""No other decoder opens an image file, whatever it holds: that of EPS starts Ghostscript."""
DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")
LARGEST_COLOUR = 8
"""How far the channels of a grey pixel may differ: JPEG rounds each by itself."""
COLOURED_SHARE = 0.01
"""Fraction of a grey image that may have colours: arrows and letters."""


def read_radiograph(
    path: str, field: str, scale: Scale | None = None, orientations: Mapping[str, Sequence[str]] = DISPLAY_ORIENTATION
) -> Radiograph:
    """
    Reads a radiograph and brings it to display orientation. DICOM is recognised by its preamble, whatever the file's
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
    if _is_dicom(path):
        return read_dicom(path, where, field, scale, orientations)
    pixels, pixel_mm = (_read_nifti if str(path).lower().endswith(NIFTI) else _read_image_file)(path, where)
    return _radiograph(path, where, pixels, pixel_mm, scale, orientations[field])


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
    stack, pixel_mm = _read_nifti_array(path, where)
    if stack.ndim != 3 or stack.shape[2] != 2:
        raise InputError(
            f"{where} has shape {stack.shape}, expected two radiographs of one size, (W, H, 2), frontal first."
        )
    return tuple(
        _radiograph(path, f"{where}, radiograph '{field}'", pixels, pixel_mm, scale, orientations[field])
        for field, pixels in zip(("frontal", "lateral"), stack.T)
    )


def _radiograph(
    path: str,
    where: str,
    pixels: np.ndarray,
    pixel_mm: tuple[float, float] | None,
    scale: Scale | None,
    directions: Sequence[str],
) -> Radiograph:
    """What the pixels `(H, W)` of a file that is no DICOM file say."""
    letters = check_directions(directions, "radiograph_orientation")
    if pixel_mm is None:
        warnings.warn(
            f"{where} has no pixel spacing; its longer side, borders included, is taken to span the detector. Expected "
            f"DICOM with Imager Pixel Spacing (0018,1164), or NIfTI in mm, for a radiograph of known size and place.",
            stacklevel=3,
        )
    else:
        check_spacing(pixel_mm, pixels.shape, f"{where}: its pixel spacing")
    scale = scale or ("line_integral" if np.issubdtype(pixels.dtype, np.floating) else "presentation")
    exposed = np.ones(pixels.shape, bool)
    image = checked_image(pixels.astype(np.float64), exposed, where)
    if scale == "transmission":
        image = line_integrals_of(image, exposed, _least_step(image)).astype(np.float32)
    return to_display_orientation(Radiograph(str(path), image, exposed, scale, pixel_mm=pixel_mm), letters)


def _is_dicom(path: str) -> bool:
    with open(path, "rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or os.path.splitext(str(path))[1].lower() in DICOM_SUFFIXES


def _read_image_file(path: str, where: str) -> tuple[np.ndarray, None]:
    """`(H, W)`, and no spacing: the resolution that an image file names is that of a screen or of paper."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            check_extent(image.size[::-1], MAX_RADIOGRAPH_PIXELS, where)
            frames = getattr(image, "n_frames", 1)
            pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr") else image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} cannot be read as an image ({one_line_message(error)}); expected DICOM, NIfTI, PNG, TIFF or "
            f"JPEG, of at most {MAX_RADIOGRAPH_PIXELS} pixels."
        ) from error
    if frames > 1:
        raise InputError(f"{where} holds {frames} frames, expected one; export the one that is wanted.")
    return _single_channel(pixels, where), None


def _single_channel(pixels: np.ndarray, where: str) -> np.ndarray:
    """A grey image stored in colours, or with an opacity, is a grey image, be there a coloured arrow in it."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.ndim == 3:
        red, green, blue = (pixels[..., channel].astype(np.int32) for channel in (0, pixels.shape[2] // 2, -1))
        is_coloured = np.maximum(abs(red - green), abs(blue - green)) > LARGEST_COLOUR
        pixels = green if is_coloured.mean() <= COLOURED_SHARE else pixels
    if pixels.ndim != 2:
        raise InputError(
            f"{where} has shape {pixels.shape}, expected a single-channel image of 2 dimensions, or grey in all "
            f"channels; export it in grey."
        )
    return pixels


def _read_nifti(path: str, where: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """`(H, W)`, and the spacing, see :func:`_read_nifti_array`."""
    pixels, pixel_mm = _read_nifti_array(path, where)
    if pixels.ndim != 2:
        raise InputError(f"{where} has shape {pixels.shape}, expected a single-channel image of 2 dimensions.")
    return pixels.T, pixel_mm


def _read_nifti_array(path: str, where: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """
    `(W, H, ...)` without further axes of length 1, and the spacing of rows and columns where the header says that its
    unit is mm: without a unit it is often a filler.
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
    if image.header.get_xyzt_units()[0] != "mm":
        return pixels, None
    width_mm, height_mm = (float(zoom) for zoom in image.header.get_zooms()[:2])
    return pixels, (height_mm, width_mm)


def _least_step(image: np.ndarray) -> float:
    """Half of the smallest difference between an intensity and none."""
    positive = image[image > 0]
    return float(positive.min()) / 2 if positive.size else 1.0
