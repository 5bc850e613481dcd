"""PNG, TIFF and JPEG as a radiograph's pixels, by what they declare of polarity, depth, orientation and pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from ..errors import InputError, one_line_message
from .limits import MAX_RADIOGRAPH_PIXELS, check_extent
from .png_samples import read_png_samples
from .radiograph import PIXEL_ASPECTS

IMAGE_FORMATS = ("PNG", "TIFF", "JPEG")
"""No other decoder opens an image file, whatever it holds: that of EPS starts Ghostscript."""
LARGEST_COLOUR = 8
"""How far the channels of a grey pixel may differ: JPEG rounds each by itself."""
COLOURED_FRACTION = 0.01
"""Fraction of a grey image that may have colours: arrows and letters."""
USUAL_GAMMA = 1 / 2.2
"""Exponent from luminance to sample of nearly every file, that of sRGB."""
ORIENTATION, X_RESOLUTION, Y_RESOLUTION = 274, 282, 283
"""Tags of TIFF 6.0, and of EXIF."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_CHANNELS = {2: 3, 4: 2, 6: 4}
"""By the colour types of RGB, of grey with opacity and of RGB with opacity."""
SAMPLE_KINDS = {1: "u", 2: "i", 3: "f"}
"""NumPy's kinds by SampleFormat (TIFF 6.0, page 80)."""
TIFF_SAMPLES = {0: (1,), 1: (1, 2), 2: (3, 4)}
"""Samples of a pixel by PhotometricInterpretation: WhiteIsZero, BlackIsZero, RGB, the last two with an opacity."""
PILLOW_SAMPLES = {
    **{(1, (bits,)): bits for bits in (1, 2, 4, 8, 12, 16)},
    **{(1, (8,) * count): 8 for count in range(2, 7)},
    (2, (16,)): 16, (2, (32,)): 32, (3, (32,)): 32,
}  # fmt: skip
"""SampleFormat and BitsPerSample that Pillow reads at full depth."""


@dataclass(frozen=True)
class ImageFile:
    """
    What an image file holds, rows and columns as it is to be shown.

    Attributes:
        pixels: `(H, W)`, bright where the file says so, in the file's type.
        opaque: `(H, W)` bool, false where the file says that a pixel is transparent.
        pixel_aspect: height of a pixel over its width.
        gamma: exponent from luminance to sample (PNG's gAMA), None where the file names none or names sRGB.
    """

    pixels: np.ndarray
    opaque: np.ndarray
    pixel_aspect: float
    gamma: float | None


def read_image_file(path: str, where: str) -> ImageFile:
    """
    Reads PNG, TIFF or JPEG at full depth. Applied are WhiteIsZero of TIFF's integers, the orientation of TIFF and EXIF,
    transparency, and the ratio of the resolutions; the resolution itself is that of a screen or of paper.

    Raises:
        InputError: when it is none of these, cannot be decoded, or holds too many pixels, several frames, colours, a
            depth that is not read, or pixels of an impossible shape.

    Warns:
        UserWarning: when a grey image has coloured marks.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(33)
        if start[:4] in TIFF_STARTS:
            channels, declared, gamma = *_read_tiff(path, where), None
        else:
            channels, declared, gamma = _read_by_pillow(path, start, where)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} cannot be read as an image ({one_line_message(error)}); expected DICOM, NIfTI, PNG, TIFF or "
            f"JPEG, of at most {MAX_RADIOGRAPH_PIXELS} pixels."
        ) from error
    pixels, opaque = _single_channel(channels, where)
    orientation, aspect = declared
    if not PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1]:
        raise InputError(
            f"{where}: its resolutions say that pixels are {aspect:.3g} times as high as wide, expected "
            f"{PIXEL_ASPECTS[0]:g} to {PIXEL_ASPECTS[1]:g}; correct or remove the resolutions."
        )
    if orientation > 4:
        aspect = 1 / aspect
    return ImageFile(_upright(pixels, orientation), _upright(opaque, orientation), aspect, gamma)


def image_extent(path: str) -> tuple[int, int]:
    """Rows and columns of a PNG, TIFF or JPEG, by its header; raises whatever a damaged one makes Pillow raise."""
    with open(path, "rb") as file:
        if file.read(4) in TIFF_STARTS:
            directory = _first_directory(file)
            return directory[257], directory[256]
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        return image.height, image.width


def _first_directory(file: BinaryIO) -> ImageFileDirectory_v2:
    """Tags of a TIFF's first image."""
    file.seek(0)
    header = file.read(8)
    directory = ImageFileDirectory_v2(header + file.read(8) if b"+" in header[2:4] else header)  # of 64-bit offsets
    file.seek(directory.next)
    directory.load(file)
    return directory


def _read_by_pillow(path: str, start: bytes, where: str) -> tuple[np.ndarray, tuple[int, float], float | None]:
    """Channels `(H, W, C)`, orientation and pixel aspect, gamma."""
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        channels = _channels(image, where)
        info, exif = image.info, image.getexif()
        if image.format == "PNG":
            channels = _at_full_depth(path, start, channels, info)
        density = info.get("aspect") or info.get("jfif_density") or info.get("dpi")
        density = density or (exif.get(X_RESOLUTION), exif.get(Y_RESOLUTION))
        names_space = "srgb" in info or "icc_profile" in info  # either overrides gAMA (ISO 15948, 11.3.3)
        gamma = None if names_space else info.get("gamma") or None
        return channels, (_orientation(exif.get(ORIENTATION)), _aspect(density)), gamma


def _channels(image: Image.Image, where: str) -> np.ndarray:
    """`(H, W, C)`, the last channel of 2 or 4 being opacity."""
    check_extent(image.size[::-1], MAX_RADIOGRAPH_PIXELS, where)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"{where} holds {frames} frames, expected one; export the one that is wanted.")
    if image.mode in ("1", "LAB", "HSV"):
        raise InputError(f"{where} is of Pillow's mode {image.mode}, expected grey of 8 bits or more; export it so.")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    elif image.mode in ("CMYK", "YCbCr", "RGBX", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA" if image.mode == "RGBa" else "RGB")
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _at_full_depth(path: str, start: bytes, channels: np.ndarray, info: dict) -> np.ndarray:
    """A PNG's pixels: Pillow keeps 8 bits of the 16 of colours or opacity, and tRNS of a grey image apart."""
    depth, kind = start[24], start[25]
    transparent = info.get("transparency")
    if depth == 16 and kind in PNG_CHANNELS:
        channels = read_png_samples(path, (*channels.shape[:2], PNG_CHANNELS[kind]), is_interlaced=start[28] != 0)
    if transparent is not None and channels.shape[2] in (1, 3):
        scale = 255 // (2**depth - 1) if depth < 8 else 1
        levels = np.atleast_1d(transparent)[: channels.shape[2]] * scale
        opacity = ~(channels == levels).all(axis=2) * np.iinfo(channels.dtype).max
        channels = np.concatenate([channels, opacity[..., None].astype(channels.dtype)], axis=2)
    return channels


def _read_tiff(path: str, where: str) -> tuple[np.ndarray, tuple[int, float]]:
    """Channels `(H, W, C)`, orientation and pixel aspect. What Pillow reads at less than its depth is read here."""
    with open(path, "rb") as file:
        directory = _first_directory(file)
        kind, bits = directory.get(339, (1,))[0], tuple(directory.get(258, (1,)))
        height, width, samples = directory[257], directory[256], directory.get(277, 1)
        bits = bits * samples if len(bits) == 1 else bits
        is_inverted = directory.get(262) == 0 and kind in (1, 2)  # WhiteIsZero; of line integrals no matter
        is_palette = directory.get(262) == 3
        check_extent([height, width], MAX_RADIOGRAPH_PIXELS, where)
        orientation = _orientation(directory.get(ORIENTATION))
        aspect = _aspect((directory.get(X_RESOLUTION), directory.get(Y_RESOLUTION)))
        if (kind, bits) not in PILLOW_SAMPLES and not is_palette:
            channels = _uncompressed(file, directory, kind, bits, where)
            return (~channels if is_inverted else channels), (orientation, aspect)
    # of a path Pillow maps uncompressed values, and mixes up rows and columns of an image on its side
    with open(path, "rb") as file, Image.open(file, formats=["TIFF"]) as image:
        channels = _channels(image, where)
    if is_inverted and bits[0] > 8:  # smaller samples are inverted by Pillow
        channels = ~channels
    return channels, (1, 1 / aspect if orientation > 4 else aspect)  # Pillow has applied the orientation


def _uncompressed(
    file: BinaryIO, directory: ImageFileDirectory_v2, kind: int, bits: tuple[int, ...], where: str
) -> np.ndarray:
    """The strips of a TIFF whose samples lie one after another, in whole bytes (TIFF 6.0, pages 39 and 80)."""
    if directory.next:
        raise InputError(f"{where} holds several frames, expected one; export the one that is wanted.")
    compression = COMPRESSION_INFO.get(directory.get(259, 1), f"of number {directory.get(259)}")
    offsets, counts = directory.get(273, ()), directory.get(279, ())
    is_plain = all(directory.get(tag, 1) == 1 for tag in (259, 266, 284)) and len(set(bits)) == 1
    is_plain = is_plain and directory.get(277, 1) == len(bits) and len(bits) in TIFF_SAMPLES.get(directory.get(262), ())
    if not is_plain or kind not in SAMPLE_KINDS or bits[0] not in (8, 16, 32, 64) or not offsets:
        raise InputError(
            f"{where} is a TIFF of {len(bits)} sample(s) of {bits[0]}-bit {_kind_name(kind)}, compression "
            f"{compression}, expected 8 or 16 bits or 32-bit floating point, or another depth in uncompressed strips; "
            f"export it so."
        )
    shape = directory[257], directory[256], len(bits)
    missing, strips = math.prod(shape) * bits[0] // 8, []
    for offset, count in zip(offsets, counts):  # a forged list names one part of the file over and over
        file.seek(offset)
        strips.append(file.read(min(count, missing)))
        missing -= len(strips[-1])
    order = "<" if directory.prefix == b"II" else ">"
    dtype = np.dtype(f"{order}{SAMPLE_KINDS[kind]}{bits[0] // 8}")
    pixels = np.frombuffer(b"".join(strips), dtype, count=math.prod(shape)).reshape(shape)
    return pixels.astype(dtype.newbyteorder("="))


def _kind_name(kind: int) -> str:
    return {1: "unsigned integers", 2: "signed integers", 3: "floating point"}.get(kind, f"SampleFormat {kind}")


def _single_channel(channels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """
    The grey values `(H, W)` of an image stored in colours or with an opacity, be there a coloured arrow in it, and
    where it is opaque.
    """
    opaque = np.ones(channels.shape[:2], bool)
    if channels.shape[2] in (2, 4):
        opaque, channels = channels[..., -1] > 0, channels[..., :-1]
    if channels.shape[2] == 1:
        return channels[..., 0], opaque
    if channels.shape[2] != 3:
        raise InputError(f"{where} has {channels.shape[2]} channels, expected one, or grey in all; export it in grey.")
    levels = np.iinfo(channels.dtype).max if channels.dtype.kind in "ui" else 1.0
    coloured = float((_spread(channels) > LARGEST_COLOUR / 255 * levels).mean())
    if coloured > COLOURED_FRACTION:
        raise InputError(
            f"{where} has colours in {coloured:.1%} of its pixels, expected a single-channel image, or grey in all "
            f"channels; export it in grey, without annotations."
        )
    if coloured:
        warnings.warn(
            f"{where} has coloured marks in {coloured:.2%} of its pixels, which read as their green channel, dark or "
            f"bright; export it without annotations.",
            stacklevel=5,
        )
    return channels[..., 1], opaque


def _spread(channels: np.ndarray) -> np.ndarray:
    """How far the channels of each pixel differ."""
    wide = channels.astype(np.float64 if channels.dtype.kind == "f" else np.int64)
    return wide.max(axis=2) - wide.min(axis=2)


def _orientation(value: object) -> int:
    """1 to 8 (TIFF 6.0, page 36); what is none of these says nothing."""
    return int(value) if value in range(1, 9) else 1


def _aspect(density: Sequence | None) -> float:
    """Height of a pixel over its width, by pixels per unit along a row and a column; 1 where either is unknown."""
    try:
        across, along = (float(number) for number in density or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    if not (np.isfinite([across, along]).all() and across > 0 and along > 0):
        return 1.0
    ratio = across / along
    return ratio if abs(ratio - 1) > 0.01 else 1.0  # whole dots per inch or centimetre are rounded


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rows from the top and columns from the left, of an array whose first row and column lie as the tag says."""
    if orientation > 4:  # the first row is a side
        array, orientation = array.T, {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    flipped = {1: (), 2: (1,), 3: (0, 1), 4: (0,)}[orientation]
    return np.flip(array, flipped)
