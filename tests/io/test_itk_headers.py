"""Headers of NRRD and MetaImage that end ITK's process, leave their folder or do not say where the voxels lie."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import itk
import numpy as np
import pytest

from scripts import InputError, LoadCTd
from scripts.errors import root_cause
from unwritable import on_posix

VOLUME = np.linspace(-1000, 1000, 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["ct.nrrd", "ct.nhdr", "ct.mha", "ct.mhd"])
def written(request, tmp_path: Path) -> Path:
    """A CT by ITK's own writer, uncompressed."""
    return by_itk(tmp_path / request.param)


def by_itk(path: Path) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(VOLUME.T))
    image.SetSpacing([2.0, 3.0, 4.0])
    image.SetDirection(np.diag([-1.0, -1.0, 1.0]))
    itk.imwrite(image, str(path))
    return path


def load(path: Path):
    return LoadCTd("ct")({"ct": str(path)})["ct"]


def refused(path: Path) -> str:
    with pytest.raises(Exception) as caught:
        load(path)
    error = root_cause(caught.value)
    assert isinstance(error, InputError), repr(error)[:300]
    assert str(error).startswith(f"{path}: field 'ct'") and str(error).isprintable()
    return str(error)


def spoilt(path: Path, field: str, value: str | None) -> Path:
    """The header with another value of a field, without it (None), or with it where it was missing."""
    separator = b": " if path.suffix in (".nrrd", ".nhdr") else b" = "
    content, line = path.read_bytes(), field.encode() + separator
    start = content.find(line)
    new = b"" if value is None else line + value.encode() + b"\n"
    if start >= 0:
        content = content[:start] + new + content[content.index(b"\n", start) + 1 :]
    else:
        first = content.index(b"\n") + 1
        content = content[:first] + new + content[first:]
    path.write_bytes(content)
    return path


def nrrd(tmp_path: Path, field: str, value: str | None, name: str = "ct.nrrd") -> str:
    return refused(spoilt(by_itk(tmp_path / name), field, value))


def meta(tmp_path: Path, field: str, value: str | None, name: str = "ct.mha") -> str:
    return refused(spoilt(by_itk(tmp_path / name), field, value))


def test_what_itk_writes_is_read_with_its_values_and_sides(written: Path):
    ct = load(written)
    np.testing.assert_array_equal(ct[0].numpy(), VOLUME)
    np.testing.assert_allclose(np.diag(ct.affine.numpy())[:3], [2, 3, 4])


def test_compressed_values_are_read(tmp_path: Path):
    for name in ("ct.nrrd", "ct.mha"):
        image = itk.imread(str(by_itk(tmp_path / name)))
        itk.imwrite(image, str(tmp_path / name), compression=True)
        np.testing.assert_array_equal(load(tmp_path / name)[0].numpy(), VOLUME)


ELSEWHERE = [
    "/etc/passwd",
    "../ct.raw",
    "sub/ct.raw",
    "..",
    ".",
    "LIST",
    "LIST 2",
    "%03d.raw 1 4 1",
    "ct*.raw",
    "C:\\ct.raw",
]


@pytest.mark.parametrize("name", [*ELSEWHERE, "\\\\host\\share\\ct.raw", "http://host/ct.raw", "@/dev/stdin"])
@pytest.mark.parametrize(("header", "field"), [("ct.nhdr", "data file"), ("ct.mhd", "ElementDataFile")])
def test_a_header_names_no_file_but_one_beside_it(tmp_path: Path, header: str, field: str, name: str):
    (tmp_path / "data").mkdir()
    path = by_itk(tmp_path / "data" / header)
    shutil.copy(path.with_suffix(".raw"), tmp_path / "ct.raw")
    (path.parent / "sub").mkdir()
    shutil.copy(path.with_suffix(".raw"), path.parent / "sub" / "ct.raw")
    assert "expected the name of one file in the same folder" in refused(spoilt(path, field, name))


@pytest.mark.parametrize(("header", "field"), [("ct.nrrd", "data file"), ("ct.mha", "ElementDataFile")])
def test_an_attached_header_that_names_a_file_elsewhere_is_refused_too(tmp_path: Path, header: str, field: str):
    assert "expected the name of one file" in refused(spoilt(by_itk(tmp_path / header), field, "/etc/passwd"))


@on_posix
@pytest.mark.parametrize("header", ["ct.nhdr", "ct.mhd"])
def test_voxels_may_be_a_link_only_where_the_header_is_one(tmp_path: Path, header: str):
    cache, tree = tmp_path / "cache", tmp_path / "tree"
    cache.mkdir()
    tree.mkdir()
    path = by_itk(tree / header)
    os.replace(path.with_suffix(".raw"), cache / "9f86d0")
    path.with_suffix(".raw").symlink_to(cache / "9f86d0")
    assert "a link to" in refused(path)
    os.replace(path, cache / "a3f1")
    path.symlink_to(cache / "a3f1")
    np.testing.assert_array_equal(load(path)[0].numpy(), VOLUME)


@pytest.mark.parametrize("header", ["ct.nhdr", "ct.mhd"])
def test_a_header_without_its_voxels_says_which_file_is_missing(tmp_path: Path, header: str):
    path = by_itk(tmp_path / header)
    path.with_suffix(".raw").unlink()
    assert "has its voxels in 'ct.raw', expected that file next to the header" in refused(path)


def test_values_that_end_early_are_counted(written: Path):
    voxels = written.with_suffix(".raw") if written.suffix in (".nhdr", ".mhd") else written
    voxels.write_bytes(voxels.read_bytes()[:-5])
    assert f"has {VOLUME.nbytes - 5} bytes of voxels in {voxels.name}, expected {VOLUME.nbytes}" in refused(written)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("dimension", value) for value in ("-1", "0", "2", "4", "16", "1e3", "", "3 3", None)],
        *[("sizes", value) for value in ("4 5", "4 5 -6", "0 5 6", "4 5 99999999999", "1e2 5 6", "4 5 x", None)],
        *[("type", value) for value in ("block", "complex", "", "MET_FLOAT", None)],
        *[("encoding", value) for value in ("hex", "bzip2", "zip", "", None)],
        *[("byte skip", value) for value in ("-2", "-9999999999", "1e9", "99999999999999999999", "x", "8")],
        *[("line skip", value) for value in ("-1", "x", "1 1")],
        *[("space origin", value) for value in ("(nan,0,0)", "(1e300,0,0)", "(x,0,0)")],
        *[("space", value) for value in ("left-posterior", "inferior", "", "scanner-xyz", "3D-right-handed", None)],
        *[("space units", value) for value in ('"um" "um" "um"', '"m" "m" "m"', '"mm" "mm" "pixels"')],
        *[(name, "-1024") for name in ("old min", "old max", "oldmin")],
    ],
)
def test_a_nrrd_with_an_impossible_field_is_refused(tmp_path: Path, field: str, value: str | None):
    nrrd(tmp_path, field, value)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ct.nrrd", "space", 'left-posterior-superior\nspace units: "mm" "mm" "mm"'),
        ("ct.mha", "DistanceUnits", "mm"),
        ("ct.mha", "ElementToIntensityFunctionSlope", "1"),
        ("ct.mha", "Offset", "0 0 0\nPosition = 0 0 0"),
    ],
)
def test_fields_that_say_the_usual_change_nothing(tmp_path: Path, name: str, field: str, value: str):
    np.testing.assert_array_equal(load(spoilt(by_itk(tmp_path / name), field, value))[0].numpy(), VOLUME)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.nhdr", "ct.mhd"])
def test_big_endian_voxels_are_read(tmp_path: Path, name: str):
    path = by_itk(tmp_path / name)
    voxels = path if path.suffix in (".nrrd", ".mha") else path.with_suffix(".raw")
    content = voxels.read_bytes()
    data = VOLUME.T.astype("<f4").tobytes()
    assert content.endswith(data)
    voxels.write_bytes(content.removesuffix(data) + VOLUME.T.astype(">f4").tobytes())
    field, value = ("endian", "big") if path.suffix in (".nrrd", ".nhdr") else ("BinaryDataByteOrderMSB", "True")
    np.testing.assert_array_equal(load(spoilt(path, field, value))[0].numpy(), VOLUME)


@pytest.mark.parametrize("side", ["1e300", "-1e300", "nan", "inf", "0", "1e-300", "x", ""])
def test_a_nrrd_whose_axes_have_no_length_is_refused(tmp_path: Path, side: str):
    nrrd(tmp_path, "space directions", f"({side},0,0) (0,3,0) (0,0,4)")


def test_a_nrrd_that_is_silent_on_its_voxels_sides_says_which_field_is_missing(tmp_path: Path):
    assert "'space directions' of its header is missing" in nrrd(tmp_path, "space directions", None)


def test_a_nrrd_of_spacings_alone_does_not_say_which_side_is_right(tmp_path: Path):
    path = spoilt(spoilt(by_itk(tmp_path / "ct.nrrd"), "space directions", None), "spacings", "2 3 4")
    assert "is 'spacings 2 3 4 alone', expected the sides of a voxel in mm and their directions" in refused(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("NDims", value) for value in ("-1", "0", "2", "4", "10", "1e3", "", "3 3", None)],
        *[("DimSize", value) for value in ("4 5", "4 5 -6", "0 5 6", "4 5 99999999999", "1e2 5 6", "4 5 x", None)],
        *[("ElementType", value) for value in ("MET_STRING", "MET_LONG", "MET_FLOAT_ARRAY", "short", "", None)],
        *[("ElementNumberOfChannels", value) for value in ("3", "0", "-1", "9999999999", "x")],
        *[("HeaderSize", value) for value in ("-2", "-9999999999", "1e9", "99999999999999999999", "x")],
        *[
            ("ElementSpacing", value)
            for value in ("2 3", "2 3 0", "0 0 0", "2 3 1e300", "2 3 nan", "2 3 inf", "2 3 1e-300", "2 3 x")
        ],
        *[("Offset", value) for value in ("0 0", "0 0 nan", "0 0 1e300", "x 0 0")],
        *[("Position", value) for value in ("0 0 1", "0 0")],  # next to an Offset of 0 0 0
        ("Rotation", "1 0 0 0 1 0 0 0 1"),  # next to a TransformMatrix of -1 0 0 0 -1 0 0 0 1
        *[("DistanceUnits", value) for value in ("um", "cm")],
        *[("ElementToIntensityFunctionSlope", value) for value in ("0.5", "x")],
        ("ElementToIntensityFunctionOffset", "-1024"),
        *[
            ("TransformMatrix", value)
            for value in ("1 0 0", "0 0 0 0 0 0 0 0 0", "nan 0 0 0 1 0 0 0 1", "1 0 0 1 0 0 0 0 1")
        ],
    ],
)
def test_a_meta_image_with_an_impossible_field_is_refused(tmp_path: Path, field: str, value: str | None):
    meta(tmp_path, field, value)


@pytest.mark.parametrize("field", ["ElementSpacing", "TransformMatrix"])
def test_a_meta_image_that_is_silent_on_sides_or_axes_says_which_field_is_missing(tmp_path: Path, field: str):
    assert f"'{field}' of its header is missing" in meta(tmp_path, field, None)


def test_a_header_size_of_minus_one_reads_from_the_files_end(tmp_path: Path):
    path = spoilt(by_itk(tmp_path / "ct.mhd"), "HeaderSize", "-1")
    voxels = path.with_suffix(".raw")
    voxels.write_bytes(bytes(16) + voxels.read_bytes())
    np.testing.assert_array_equal(load(path)[0].numpy(), VOLUME)


@pytest.mark.parametrize("damage", ["no end", "binary", "empty", "twice", "magic"])
def test_a_damaged_header_never_reaches_itk(written: Path, damage: str):
    content = written.read_bytes()
    first, second, rest = content.split(b"\n", 2)
    field = b"dimension: 3" if b"dimension: 3" in content else b"NDims = 3"
    spoilt_content = {
        "no end": first + b"\n" + bytes(2**17),
        "binary": b"\n".join([first, b"\xff\xfe", second, rest]),
        "empty": b"",
        "twice": content.replace(field, field + b"\n" + field),
        "magic": b"\x00" + content,
    }
    written.write_bytes(spoilt_content[damage])
    refused(written)


@pytest.mark.parametrize("sizes", ["1024 1024 513", "1048576 1048576 1048576", "4294967296 4294967296 2"])
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_more_voxels_than_any_ct_has_are_refused_before_anything_is_decoded(tmp_path: Path, name: str, sizes: str):
    write: Callable[..., str] = nrrd if name == "ct.nrrd" else meta
    told = write(tmp_path, "sizes" if name == "ct.nrrd" else "DimSize", sizes, name)
    assert f"has a header that says {sizes.replace(' ', ' x ')} = " in told


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1, -1, 1]), np.eye(3)[[1, 2, 0]], -np.eye(3)[[2, 0, 1]]])
@pytest.mark.parametrize("said", [None, "RPS"])
def test_letters_that_contradict_the_matrix_are_told(tmp_path: Path, axes: np.ndarray, said: str | None):
    """ITK writes both; of other programs some write the same letters for every matrix."""
    path = tmp_path / "ct.mha"
    image = itk.image_from_array(np.ascontiguousarray(VOLUME.T))
    image.SetDirection(axes.astype(float))
    itk.imwrite(image, str(path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        load(spoilt(path, "AnatomicalOrientation", said) if said else path)
    told = [str(warning.message) for warning in caught if "AnatomicalOrientation" in str(warning.message)]
    assert len(told) == (said is not None)
    assert all(text.startswith(f"{path}: field 'ct'") and "is RPS, but by its matrix" in text for text in told)
