"""Radiographs, CTs, datalists and folders as a stranger could send them: each is refused by name, none hangs."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gdcm
import nibabel
import numpy as np
import PIL.EpsImagePlugin
import pydicom
import pytest
import torch
from monai.transforms import Compose, Orientationd
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from ct_series_files import SHAPE, write_series
from phantoms import chest_imaging
from radiograph_files import compress, write_dicom
from scripts import (
    BiplanarGeometry,
    InputError,
    LoadCTd,
    LoadRadiographsd,
    OutputError,
    PrepareXraysd,
    ResampleToCubed,
    load_records,
)
from scripts.data.datalist import default_name
from scripts.data.datalist_builder import build_datalist
from scripts.data.folder_scan import find_records
from scripts.data.study_pairing import Excluded
from scripts.errors import BundleError, shown
from scripts.io.atomic_write import write_atomically, write_checkpoint, write_folder_atomically, write_text
from scripts.io.dicom_pixels import single_frame
from scripts.io.limits import MAX_RADIOGRAPH_BYTES, MAX_RADIOGRAPH_PIXELS, MAX_VOXELS, coded_extent
from scripts.reporting.case_report import CaseReport, check_case_folders
from scripts.reporting.figures import volume_figure
from unwritable import full_disk, on_posix

SIZE_NIFTI, PIXDIM, VOX_OFFSET, SCL_SLOPE, SROW_X, SROW_Y, SROW_Z = 40, 76, 108, 112, 280, 296, 312
"""Where fields of a NIfTI-1 header begin (nifti1.h)."""
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
VOLUME = np.linspace(-1000, 1000, 8**3, dtype=np.float32).reshape(8, 8, 8)
TOO_LARGE = (8192, MAX_RADIOGRAPH_PIXELS // 8192 + 1)
FOREIGN = "pa\x1b[2J\x1b[31m\nWrote ct.nii.gz in /home/me\x07\u202egnp"
"""A name that clears the terminal, colours it, begins a line of its own, rings, and turns the direction of writing."""

pytestmark = pytest.mark.filterwarnings("ignore")
PREPARE = Compose(
    [LoadRadiographsd(), PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=32), 8.0, (1, 99), (0.0, 0.7))]
)
READ_CT = Compose([LoadCTd("ct"), Orientationd("ct", "RAS", labels=None), ResampleToCubed("ct", 8, 360.0)])


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A read that waits for longer fails."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def refused(read: Callable[[], object], kind: type[BundleError] = InputError) -> str:
    """The message of the bundle's own error, on one line and without anything that a terminal obeys."""
    with within(60), pytest.raises(Exception) as caught:
        read()
    error: BaseException = caught.value
    while not isinstance(error, BundleError) and error.__cause__:  # MONAI wraps a transform's error
        error = error.__cause__
    assert isinstance(error, kind), repr(error)[:300]
    assert str(error).isprintable()
    return str(error)


def radiograph_refused(path: Path) -> str:
    message = refused(lambda: PREPARE({"frontal": str(path)}))
    assert message.startswith(f"{shown(path)}: field 'frontal'")
    return message


def prepared_or_refused(path: Path) -> torch.Tensor | None:
    """The X-ray, or None where it is the bundle's own error that refuses it."""
    try:
        return PREPARE({"frontal": str(path)})["frontal"]
    except RuntimeError:  # MONAI's, in which it wraps whatever a transform raises
        radiograph_refused(path)
        return None


def ct_refused(path: Path) -> str:
    message = refused(lambda: READ_CT({"ct": str(path)}))
    assert message.startswith(f"{shown(path)}: field 'ct'")
    return message


def nifti(path: Path, array: np.ndarray, *patches: tuple[int, str, float]) -> Path:
    """A NIfTI in mm, with numbers of its header written over: where, as what, and which."""
    image = nibabel.Nifti1Image(array, np.diag([5.0, 5.0, 5.0, 1.0]))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    content = bytearray(image.to_bytes())
    for place, kind, number in patches:
        struct.pack_into(f"<{kind}", content, place, number)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


# Radiographs: how large


def _image_file(path: Path) -> Path:
    image_file = Image.new("L", TOO_LARGE)
    image_file.putpixel((5, 5), 255)
    image_file.save(path, **({"compression": "tiff_adobe_deflate"} if path.suffix == ".tif" else {}))
    return path


def _nifti_of_zeros(path: Path) -> Path:
    radiograph = np.zeros(TOO_LARGE, np.uint8)
    radiograph[5, 5] = 1
    return nifti(path, radiograph)


def _deflated(path: Path) -> Path:
    write_dicom(path, np.zeros(TOO_LARGE, np.uint8))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    return path


def _stack(path: Path) -> Path:
    return nifti(path, np.zeros((*TOO_LARGE, 1, 1), np.uint8))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("radiograph.png", _image_file),
        ("radiograph.tif", _image_file),
        ("radiograph.jpg", _image_file),
        ("radiograph.nii", _nifti_of_zeros),
        ("radiograph.nii.gz", _nifti_of_zeros),
        ("stack.nii.gz", _stack),
        ("radiograph.dcm", _deflated),
    ],
)
def test_a_small_file_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path, name: str, write: Callable):
    path = write(tmp_path / name)
    message = radiograph_refused(path)
    assert "says" in message and f"at most {MAX_RADIOGRAPH_PIXELS} values" in message


def test_both_radiographs_in_one_file_have_the_limit_of_radiographs(tmp_path: Path):
    path = nifti(tmp_path / "two.nii.gz", np.zeros((4096, 4097, 2), np.uint8))
    assert f"4096 x 4097 x 2 = {4096 * 4097 * 2} values" in refused(lambda: LoadRadiographsd()({"image": str(path)}))


def test_pixels_that_pillow_itself_refuses_have_the_same_limit_named(tmp_path: Path):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    (tmp_path / "radiograph.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 64
    )
    assert f"at most {MAX_RADIOGRAPH_PIXELS} " in radiograph_refused(tmp_path / "radiograph.png")


@pytest.mark.parametrize(("offset", "told"), [(3e9, "3000000000"), (-1e6, "-1000000"), (np.nan, "cannot be read")])
def test_a_nifti_radiograph_whose_values_begin_far_behind_is_refused(tmp_path: Path, offset: float, told: str):
    assert told in radiograph_refused(nifti(tmp_path / "radiograph.nii.gz", RAMP, (VOX_OFFSET, "f", offset)))


@pytest.mark.parametrize("sides", [(-64, 64), (-64, -64), (0, 64), (32767, 32767), (1, 1)])
def test_a_nifti_radiograph_of_impossible_sides_is_refused(tmp_path: Path, sides: tuple[int, int]):
    patches = [(SIZE_NIFTI + 2 * (axis + 1), "h", side) for axis, side in enumerate(sides)]
    radiograph_refused(nifti(tmp_path / "radiograph.nii.gz", RAMP, *patches))


def test_a_deflated_dicom_file_that_becomes_immense_is_counted_and_not_kept(tmp_path: Path):
    path = Path(write_dicom(tmp_path / "radiograph.dcm", RAMP))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    syntax = str(DeflatedExplicitVRLittleEndian).encode()
    start = path.read_bytes()[: path.read_bytes().index(syntax) + len(syntax)]  # the last of the file meta information
    deflate, zeros = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS), bytes(2**20)
    body = [deflate.compress(zeros) for _ in range(MAX_RADIOGRAPH_BYTES // len(zeros) + 1)]
    path.write_bytes(start + b"".join(body) + deflate.flush())
    assert path.stat().st_size < 2**22
    assert f"becomes more than {MAX_RADIOGRAPH_BYTES} bytes" in radiograph_refused(path)


def test_a_deflated_dicom_radiograph_of_a_usual_size_is_read(tmp_path: Path):
    plain, path = Path(write_dicom(tmp_path / "a.dcm", RAMP)), Path(write_dicom(tmp_path / "b.dcm", RAMP))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert torch.equal(PREPARE({"frontal": str(path)})["frontal"], PREPARE({"frontal": str(plain)})["frontal"])


@on_posix
def test_a_file_without_end_is_refused_before_it_is_opened(tmp_path: Path):
    for name in ("radiograph.dcm", "radiograph.png", "radiograph.nii"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**36)  # a hole: it takes no place on the disk
        assert f"is a file of {2**36} bytes" in radiograph_refused(tmp_path / name)


SYNTAXES = ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless")


@pytest.mark.parametrize("side", [16, 63, 65])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_pixels_that_are_others_than_the_tags_say_are_refused(tmp_path: Path, syntax: str, side: int):
    path = Path(write_dicom(tmp_path / "radiograph.dcm", RAMP))
    compress(path, getattr(gdcm.TransferSyntax, syntax))
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = side
    dataset.save_as(path)
    assert f"its compressed pixels are of 64 x 64 x 1 (rows, columns, channels), expected {side} x {side}" in (
        radiograph_refused(path)
    )


@pytest.mark.parametrize(
    "name", ["JPEG2000.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"]
)
def test_the_extent_in_compressed_pixels_is_that_of_pydicoms_own_files(name: str):
    dataset = pydicom.dcmread(get_testdata_file(name))
    frame = next(single_frame(dataset.PixelData))
    assert coded_extent(frame) == (dataset.Rows, dataset.Columns, 1)


@pytest.mark.parametrize("end", range(0, 40, 3))
def test_compressed_pixels_that_end_in_their_header_have_no_extent_or_are_refused(tmp_path: Path, end: int):
    for name in ("JPEG2000.dcm", "JPGExtended.dcm"):
        dataset = pydicom.dcmread(get_testdata_file(name))
        frame = next(single_frame(dataset.PixelData))[: end + 2]
        dataset.Modality, dataset.PixelData = "CR", encapsulate([frame + b"\0" * (len(frame) % 2)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / name)
        radiograph_refused(tmp_path / name)


def test_run_lengths_that_make_more_than_the_tags_say_are_refused(tmp_path: Path):
    path = Path(write_dicom(tmp_path / "radiograph.dcm", RAMP))
    dataset = pydicom.dcmread(path)
    header = struct.pack("<16I", 2, 64, 64 + 2**16, *[0] * 13)
    dataset.PixelData = encapsulate([header + b"\x81\x07" * 2**16])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.save_as(path)
    radiograph_refused(path)


# Radiographs: what they hold


@pytest.mark.parametrize(
    "name", ["radiograph.png", "radiograph.jpg", "radiograph.tif", "radiograph", "radiograph.dcm", "radiograph.nii"]
)
@on_posix
def test_postscript_under_another_name_starts_no_program(tmp_path: Path, monkeypatch, name: str):
    (tmp_path / "bin").mkdir()
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n"
    )
    radiograph_refused(tmp_path / name)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "TGA", "WEBP", "ICO", "PCX"])
def test_an_image_file_of_another_format_is_not_decoded_whatever_its_name(tmp_path: Path, kind: str):
    Image.fromarray((RAMP >> 4).astype(np.uint8)).save(tmp_path / "radiograph", format=kind)
    (tmp_path / "radiograph").rename(tmp_path / "radiograph.png")
    assert "expected DICOM, NIfTI, PNG, TIFF or JPEG" in radiograph_refused(tmp_path / "radiograph.png")


@pytest.mark.parametrize("slope", [1e38, -1e38, 3e34, 1e10, np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_a_file_whose_values_leave_every_scale_is_no_radiograph(tmp_path: Path, slope: float, kind: type):
    """nifti1.h: a slope of NaN or infinity is none, so that the values are those that are stored."""
    path = nifti(tmp_path / "radiograph.nii", (RAMP + 1).astype(kind), (SCL_SLOPE, "f", slope))
    if np.isfinite(slope):
        radiograph_refused(path)
    else:
        assert torch.isfinite(PREPARE({"frontal": str(path)})["frontal"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300, 3e38, 1e11, 1e39])
@pytest.mark.parametrize("count", [1, 4000])
def test_a_radiograph_with_values_that_float32_does_not_hold_is_refused(tmp_path: Path, value: float, count: int):
    radiograph = RAMP.astype(np.float64)
    radiograph.flat[:count] = value
    radiograph_refused(nifti(tmp_path / "radiograph.nii", radiograph))


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e-12])
def test_a_radiograph_whose_contrast_vanishes_is_refused(tmp_path: Path, scale: float):
    assert "empty or constant" in radiograph_refused(nifti(tmp_path / "radiograph.nii", RAMP * scale))


@pytest.mark.parametrize("side", [np.inf, np.nan, 1e6, 1e30, 1e-6, 1e-30])
def test_pixels_that_no_radiograph_has_are_refused(tmp_path: Path, side: float):
    path = nifti(tmp_path / "radiograph.nii", RAMP, (PIXDIM + 4, "f", side))
    assert "expected 0.01 to 20 mm" in radiograph_refused(path)


@pytest.mark.parametrize("side", ["1e6", "1E300", "1e-9", "-1", "0"])
@pytest.mark.parametrize("keyword", ["ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"])
def test_pixels_that_no_dicom_radiograph_has_are_refused(tmp_path: Path, keyword: str, side: str):
    tags = {"ImagerPixelSpacing": None, keyword: [side, "0.2"]}
    assert "expected 0.01 to 20 mm" in radiograph_refused(Path(write_dicom(tmp_path / "radiograph.dcm", RAMP, **tags)))


@pytest.mark.parametrize(("side", "length"), [(0.25, 16), (15.7, 1005)])
def test_a_radiograph_that_is_hardly_of_a_chest_is_told_with_its_size(tmp_path: Path, side: float, length: int):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, ImagerPixelSpacing=[side, side])
    told = rf"Imager Pixel Spacing \(0018,1164\) is .* a radiograph of {length} x {length} mm, expected sides of"
    with pytest.warns(UserWarning, match=told):
        LoadRadiographsd()({"frontal": path})


@pytest.mark.parametrize("distance", ["1e300", "1e38", "1e-300", "1e308", "-1e300", "NaN", "1e400"])
@pytest.mark.parametrize(
    "keyword", ["DistanceSourceToDetector", "DistanceSourceToPatient", "EstimatedRadiographicMagnificationFactor"]
)
def test_distances_beyond_reason_give_a_finite_radiograph_or_are_refused(tmp_path: Path, keyword: str, distance: str):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, **{keyword: distance})
    radiograph = prepared_or_refused(Path(path))
    assert radiograph is None or torch.isfinite(radiograph).all()


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_a_complex_radiograph_is_refused(tmp_path: Path, kind: type):
    assert "expected real numbers" in radiograph_refused(nifti(tmp_path / "radiograph.nii", RAMP.astype(kind)))


def test_a_radiograph_of_structured_values_is_refused(tmp_path: Path):
    colours = np.zeros((64, 64, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][..., 0] = RAMP >> 4
    assert "expected real numbers" in radiograph_refused(nifti(tmp_path / "radiograph.nii", colours))


@on_posix
@pytest.mark.parametrize(
    "name", ["radiograph", "radiograph.dcm", "radiograph.png", "radiograph.nii", "radiograph.nii.gz", "radiograph.tif"]
)
def test_what_is_no_regular_file_is_no_radiograph_and_does_not_hang(tmp_path: Path, name: str):
    path = tmp_path / name
    os.mkfifo(path)
    assert "names a pipe, a socket or a device" in radiograph_refused(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "names a pipe, a socket or a device" in radiograph_refused(path)
    path.unlink()
    path.mkdir()
    assert "names a folder, expected the file of a radiograph" in radiograph_refused(path)
    path.rmdir()
    path.symlink_to(path)
    assert "does not exist" in radiograph_refused(path)


@pytest.mark.parametrize("depth", [100, 5000])
def test_sequences_within_sequences_give_no_traceback(tmp_path: Path, depth: int):
    path = Path(write_dicom(tmp_path / "radiograph.dcm", RAMP))
    nested = b"".join([b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"] * depth)
    content = path.read_bytes()
    place = content.index(b"\x10\x00\x20\x00LO")
    path.write_bytes(content[:place] + nested + content[place:])
    radiograph_refused(path)


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_an_image_file_whose_words_unpack_to_much_gives_no_traceback(tmp_path: Path, kind: str):
    words = PngImagePlugin.PngInfo()
    if kind == "text":
        for i in range(3):
            words.add_text(f"a{i}", "0" * 2**25, zip=True)
    profile = {"icc_profile": bytes(2**26)} if kind == "profile" else {}
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "radiograph.png", pnginfo=words, **profile)
    prepared_or_refused(tmp_path / "radiograph.png")


# CTs


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e6])
@pytest.mark.parametrize("row", [SROW_X, SROW_Y, SROW_Z])
def test_a_ct_that_lies_nowhere_is_refused(tmp_path: Path, row: int, value: float):
    message = ct_refused(nifti(tmp_path / "ct.nii", VOLUME, (row + 12, "f", value)))
    assert "has its first voxel at (" in message and "expected finite numbers" in message


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38, 1e6, np.nan, np.inf])
def test_a_ct_of_values_that_are_no_hu_is_refused(tmp_path: Path, value: float):
    volume = VOLUME.copy()
    volume[3, 3, 3] = value
    ct_refused(nifti(tmp_path / "ct.nii", volume))


@pytest.mark.parametrize("slope", [1e38, 1e30, -1e38, 1e5])
def test_a_ct_whose_rescale_leaves_hu_is_refused(tmp_path: Path, slope: float):
    ct_refused(nifti(tmp_path / "ct.nii", VOLUME.astype(np.int16), (SCL_SLOPE, "f", slope)))


@pytest.mark.parametrize("side", [1e6, 1e3, 1e-30, 1e-3, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_voxels_that_no_ct_has_are_refused(tmp_path: Path, row: int, side: float):
    patches = [((SROW_X, SROW_Y, SROW_Z)[row] + 4 * row, "f", side), (PIXDIM + 4 * (row + 1), "f", side)]
    ct_refused(nifti(tmp_path / "ct.nii", VOLUME, *patches))


@pytest.mark.parametrize("side", ["1e-300", "1e6", "1e-3", "nan", "inf"])
def test_voxels_of_a_nrrd_that_no_ct_has_are_refused(tmp_path: Path, side: str):
    header = (
        f"NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 8 8\n"
        f"space directions: ({side},0,0) (0,{side},0) (0,0,{side})\nkinds: domain domain domain\nendian: little\n"
        f"encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "ct.nrrd").write_bytes(header.encode() + VOLUME.tobytes())
    ct_refused(tmp_path / "ct.nrrd")


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_a_complex_ct_is_refused(tmp_path: Path, kind: type):
    ct_refused(nifti(tmp_path / "ct.nii", VOLUME.astype(kind)))


def test_a_small_file_of_too_many_voxels_is_refused_by_its_header(tmp_path: Path):
    image = nibabel.Nifti1Image(VOLUME.astype(np.uint8), np.diag([0.4, 0.4, 0.4, 1.0]))
    image.header.set_data_shape((1024, 1024, 513))
    content = bytes(image.header.binaryblock) + bytes(4)
    with gzip.open(tmp_path / "ct.nii.gz", "wb", 1) as file:
        file.write(content)
        for _ in range(513):
            file.write(bytes(2**20))
    assert (tmp_path / "ct.nii.gz").stat().st_size < 2**22
    told = f"1024 x 1024 x 513 = {2**20 * 513} values, expected positive sides and at most {MAX_VOXELS}"
    assert told in ct_refused(tmp_path / "ct.nii.gz")


def test_a_series_of_more_voxels_than_any_ct_has_is_refused_by_its_headers(tmp_path: Path):
    """Compressed slices, whose few bytes become what their tags say."""

    def immense(image: pydicom.Dataset, index: int) -> None:
        image.compress(RLELossless)
        image.Rows = image.Columns = 32768

    folder = write_series(tmp_path / "ct", immense)
    assert f"has a header that says 32768 x 32768 x {SHAPE[2]} = " in ct_refused(folder)


@on_posix
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.nrrd", "ct.mha", "ct.mhd", "ct"])
def test_what_is_neither_file_nor_folder_is_no_ct_and_does_not_hang(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    assert "names a pipe, a socket or a device" in ct_refused(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    ct_refused(tmp_path / name)


# Datalists


@pytest.fixture
def datalist(tmp_path: Path) -> Callable[..., Path]:
    """Writes the section `test` of a datalist, each record with a file of its own that need not be a CT."""

    def write(*records: dict[str, Any], encoding: str = "utf-8") -> Path:
        for i, record in enumerate(records):
            if "ct" not in record:
                record["ct"] = f"{i}.nii"
                (tmp_path / record["ct"]).touch()
        (tmp_path / "datalist.json").write_text(json.dumps({"test": records}), encoding=encoding)
        return tmp_path / "datalist.json"

    return write


def datalist_refused(path: Path) -> str:
    return refused(lambda: load_records(str(path), "test"))


def test_a_byte_order_mark_is_no_part_of_a_datalist(datalist):
    assert load_records(str(datalist({"name": "a"}, encoding="utf-8-sig")), "test")[0]["name"] == "a"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_another_encoding_is_named(datalist, encoding: str):
    assert "cannot be read as JSON in UTF-8" in datalist_refused(datalist({"name": "a"}, encoding=encoding))


@pytest.mark.parametrize("open_,close", [("[", "]"), ('{"test":', "}"), ("[", "")])
@pytest.mark.parametrize("depth", [1000, 100_000])
def test_brackets_without_end_give_no_traceback(tmp_path: Path, open_: str, close: str, depth: int):
    (tmp_path / "datalist.json").write_text(open_ * depth + close * depth)
    datalist_refused(tmp_path / "datalist.json")


@on_posix
def test_what_is_no_file_is_no_datalist_and_does_not_hang(tmp_path: Path):
    path = tmp_path / "datalist.json"
    os.mkfifo(path)
    assert "is a folder, a pipe or a device, expected a JSON file" in datalist_refused(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "is a folder, a pipe or a device" in datalist_refused(path)
    path.unlink()
    path.mkdir()
    assert "is a folder, a pipe or a device" in datalist_refused(path)


LABELS = [
    "a\0b", "a\nb", "a\rb", "a\tb", "\x1b[2J", "a\x07", "a\x7f", "a\x9b31m", "a\u2028b", "a\u202eb", "\ud800",
    "a\udc80", "a" * 300, "ä" * 101, "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "a ", " a", "＝1+1", "＠a",
    "$import os", "%a.json", "../a", "a/b", "a\\b", "..", "", "/etc/passwd", None, 7, ["a"], {"a": 1}, True,
]  # fmt: skip
NAMES = ["CON", "nul.txt", "COM1", "lpt9.nii", "AUX", "prn", "a.", "a...", "a:b", 'a"b', "a<b>", "a|b", "a?", "a*"]


@pytest.mark.parametrize("field", ["name", "group", "patient"])
@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_a_label_that_could_harm_a_terminal_a_table_or_a_path_is_refused(datalist, label: Any, field: str):
    assert f"test[0]: field '{field}' is " in datalist_refused(datalist({field: label}))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_some_system_does_not_take_is_refused(datalist, name: str):
    assert "test[0]: field 'name' is " in datalist_refused(datalist({"name": name}))


USUAL = ["case_1", "a b", "患者　一", "Müller", "1.2.840.99", "a-b+c=d@e", "x$y$z", "a" * 200, "50%", "(a) [b] {c}, #1"]


@pytest.mark.parametrize("label", USUAL)
def test_a_usual_label_is_taken(datalist, label: str):
    record = load_records(str(datalist({"name": label, "group": label, "patient": label})), "test")[0]
    assert record["name"] == record["group"] == record["patient"] == label


@pytest.mark.parametrize("others", [("a", "a"), ("a", "A"), ("straße", "STRASSE"), ("é", "e\u0301")])
def test_two_cases_of_one_name_are_refused_and_both_named(datalist, others: tuple[str, str]):
    message = datalist_refused(datalist({"name": others[0]}, {"name": "b"}, {"name": others[1]}))
    assert "test[0] and test[2]: field 'name'" in message


ALIKE = [("a/b.nii", "a_b.nii"), ("a.nii", "a.nii.gz"), ("a.nii", "A.nii"), ("=a.nii", "_=a.nii")]


@pytest.mark.parametrize("paths", ALIKE)
def test_default_names_tell_two_files_apart_in_any_order(datalist, tmp_path: Path, paths: tuple[str, str]):
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    names = []
    for order in (paths, paths[::-1]):
        records = load_records(str(datalist(*({"ct": path} for path in order))), "test")
        names.append({record["ct"]: record["name"] for record in records})
        assert len({record["patient"] for record in records}) == 2
        assert [record["patient"] for record in records] == [record["name"] for record in records]
    assert names[0] == names[1] and len({name.casefold() for name in names[0].values()}) == 2


STEMS = [
    "=1+1",
    "-rf",
    "+1",
    "@a",
    "$a",
    "%a",
    "CON",
    "aux",
    "a.",
    " a ",
    "a\nb",
    "a\x1b[2Jb",
    "a\tb",
    "a:b",
    "ä" * 120,
]


@on_posix
@pytest.mark.parametrize("stem", STEMS, ids=ascii)
def test_a_default_name_is_safe_whatever_the_files_name(datalist, tmp_path: Path, stem: str):
    (tmp_path / f"{stem}.nii").touch()
    name = load_records(str(datalist({"ct": f"{stem}.nii"})), "test")[0]["name"]
    again = load_records(str(datalist({"name": name})), "test")[0]["name"]
    assert again == name == default_name(str(tmp_path / f"{stem}.nii"), str(tmp_path))


@pytest.mark.parametrize("field", ["ct", "frontal"])
@pytest.mark.parametrize("path", ["a\0.nii", "\ud800.nii", "\0", "a" * 5000, "x\n/y.nii", FOREIGN])
def test_a_path_that_no_system_takes_is_refused(datalist, tmp_path: Path, field: str, path: str):
    (tmp_path / "0.nii").touch()
    record = {"ct": "0.nii", "frontal": "0.nii", "lateral": "0.nii", field: path}
    assert f"test[0]: field '{field}'" in datalist_refused(datalist(record))


# Messages and results


def test_a_radiograph_of_a_forging_name_is_told_on_one_line(tmp_path: Path):
    (tmp_path / FOREIGN.replace("/", "-")).write_bytes(b"no radiograph")
    message = radiograph_refused(tmp_path / FOREIGN.replace("/", "-"))
    assert "\\x1b[2J" in message and "\\nWrote" in message and "\\u202e" in message


def test_what_a_search_takes_and_leaves_out_is_listed_by_names_that_move_no_terminal(tmp_path: Path, capsys):
    foreign = tmp_path / FOREIGN.replace("/", "-")
    foreign.mkdir()
    nifti(foreign / "ct.nii", VOLUME)
    (foreign / "notes\x1b[2J.png").write_bytes(b"no image")
    build_datalist(tmp_path, tmp_path / "list\x1b[2J.json", (1, 0, 0), seed=0, overwrite=False)
    printed = capsys.readouterr().out
    assert "notes\\x1b[2J.png" in printed and "list\\x1b[2J.json" in printed
    assert all(line.isprintable() for line in printed.splitlines())


@on_posix
@pytest.mark.parametrize("name", ["slice.dcm", "slice", "pa.png", "ct.nii"])
def test_a_search_does_not_wait_for_a_pipe(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    with within(60):
        records, excluded = find_records(tmp_path)
    assert not records
    assert excluded == [Excluded(name, "is a pipe, a socket or a device")]


@pytest.mark.parametrize("keyword", ["Modality", "PhotometricInterpretation", "ViewPosition"])
def test_what_a_tag_says_is_told_on_one_line(tmp_path: Path, keyword: str, recwarn):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP)
    dataset = pydicom.dcmread(path)
    dataset[keyword] = pydicom.DataElement(dataset[keyword].tag, "UT", "a\x1b[2J\nWrote b")
    dataset.save_as(path)
    try:
        LoadRadiographsd()({"frontal": path})
    except InputError as error:
        assert str(error).isprintable()
    assert all(str(warning.message).isprintable() for warning in recwarn)


@pytest.mark.parametrize("kind", [InputError, OutputError, *BundleError.__subclasses__()])
def test_no_error_of_the_bundle_moves_a_terminal(kind: type[BundleError]):
    error = kind(f"{FOREIGN}: is wrong")
    assert not set(map(chr, [*range(10), *range(11, 32), 127, 0x9B, 0x202E])) & set(str(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error), "as between processes"


def test_words_of_any_language_are_shown_as_they_are():
    assert shown("患者 Müller 一 ✓ \\ '\"") == "患者 Müller 一 ✓ \\ '\""
    assert shown("a\x1b\n\ud800") == "a\\x1b\\n\\ud800"


@on_posix
def test_a_result_takes_the_place_of_a_link_and_never_follows_it(tmp_path: Path):
    own, result = tmp_path / "own.txt", tmp_path / "metrics.json"
    own.write_text("mine")
    result.symlink_to(own)
    write_text(str(result), "result")
    assert own.read_text() == "mine" and result.read_text() == "result" and not result.is_symlink()


@on_posix
def test_a_link_that_waits_for_the_unfinished_file_is_not_followed(tmp_path: Path):
    own = tmp_path / "own.txt"
    own.write_text("mine")
    (tmp_path / f".unfinished-{os.getpid()}-metrics.json").symlink_to(own)
    write_text(str(tmp_path / "metrics.json"), "result")
    assert own.read_text() == "mine" and (tmp_path / "metrics.json").read_text() == "result"


@on_posix
def test_a_folder_of_results_takes_the_place_of_a_link_to_a_folder(tmp_path: Path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.txt").write_text("mine")
    (tmp_path / "ct_dicom").symlink_to(own)
    write_folder_atomically(str(tmp_path / "ct_dicom"), lambda folder: Path(folder, "a.txt").write_text("result"))
    assert (own / "a.txt").read_text() == "mine" and (tmp_path / "ct_dicom" / "a.txt").read_text() == "result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct_dicom", "own"]


@on_posix
@pytest.mark.parametrize("bytes_left", [100, 2000, 300_000, 399_000, 401_000])
def test_a_checkpoint_on_a_full_disk_says_what_the_system_says(tmp_path: Path, bytes_left: int):
    state = {"weight": torch.rand(100_000), "bias": torch.rand(100)}
    with full_disk(bytes_left), pytest.raises(OutputError) as caught:
        write_checkpoint(str(tmp_path / "stage1_best.pth"), state)
    assert f"cannot be written ({os.strerror(27)})" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device of a full disk is Linux's")
def test_no_space_left_is_said_as_such(tmp_path: Path):
    def write(_: str) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(bytes(100))

    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); free the place"):
        write_atomically(str(tmp_path / "b"), write)


def test_a_case_with_dollars_in_its_name_has_its_figure(tmp_path: Path):
    title = r"a$\frac$: truth, each stage"
    figure = volume_figure({"stage 1": torch.rand(8, 8, 8)}, torch.rand(8, 8, 8), title)
    write_atomically(str(tmp_path / "report.png"), figure.savefig)
    assert figure.get_suptitle().startswith(title)


OWN = ["cases/notes.txt", "cases/original/thesis.docx", "cases/original/sub/a.txt", "cases/truth/stage1.nii", "cases"]


@pytest.mark.parametrize("own", OWN)
def test_a_folder_cases_of_somebodys_own_is_refused_before_any_work(tmp_path: Path, own: str):
    (tmp_path / own).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / own).write_text("mine")
    message = refused(lambda: CaseReport(str(tmp_path), chest_imaging(32)), OutputError)
    assert "is none of an evaluation's files" in message and "choose another output folder" in message
    assert (tmp_path / own).read_text() == "mine"


@on_posix
def test_links_in_the_folder_of_cases_are_refused(tmp_path: Path):
    (tmp_path / "own").mkdir()
    (tmp_path / "cases").symlink_to(tmp_path / "own")
    refused(lambda: check_case_folders(str(tmp_path / "cases")), OutputError)
    (tmp_path / "cases").unlink()
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "original").symlink_to(tmp_path / "own")
    refused(lambda: check_case_folders(str(tmp_path / "cases")), OutputError)


def test_the_folders_of_an_earlier_evaluation_are_no_hindrance(tmp_path: Path):
    check_case_folders(str(tmp_path / "cases"))
    for name in ("truth.nii.gz", "stage1.nii.gz", "frontal.nii.gz", "frontal.png", "report.html", "xrays.png"):
        write_text(str(tmp_path / "cases" / "original" / name), "earlier")
    check_case_folders(str(tmp_path / "cases"))
