"""What PNG, TIFF, JPEG and NIfTI declare of a radiograph's pixels, against the values of independent readers."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from scripts import BiplanarGeometry, InputError, PrepareXraysd, Radiograph, read_radiograph

VALUES = np.arange(60).reshape(6, 10) + 3
"""Rises along rows and columns: no two pixels are alike."""


def read(path: Path, scale: str | None = None) -> Radiograph:
    """As the frontal radiograph; a warning is an error, save that of a missing spacing and that of a small size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(no pixel spacing|makes a radiograph of)")
        return read_radiograph(str(path), "frontal", scale)


def refused(path: Path) -> str:
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("ignore")
        read_radiograph(str(path), "frontal")
    assert str(caught.value).startswith(f"{path}: field 'frontal'")
    return str(caught.value)


def write_png(path: Path, pixels: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Of 8 or 16 bits, of a colour type of ISO 15948; further chunks before the pixels."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# Depth


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_a_tiff_has_the_values_that_tifffile_reads_at_every_depth(tmp_path: Path, kind: str, order: str):
    dtype = np.dtype(kind)
    values = np.linspace(0, 6, 60).reshape(6, 10) if dtype.kind == "f" else VALUES * (np.iinfo(dtype).max // 63)
    values = values - values.mean() // 1 if dtype.kind == "i" else values
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values.astype(dtype), byteorder=order)
    found = read(path)
    np.testing.assert_array_equal(found.image, tifffile.imread(path).astype(np.float32))
    assert found.scale == ("line_integral" if dtype.kind == "f" else "presentation")


@pytest.mark.parametrize("channels", [3, 4])
def test_a_tiff_of_16_bits_in_each_colour_keeps_them(tmp_path: Path, channels: int):
    values = (VALUES * 1001).astype(np.uint16)
    colours = np.repeat(values[..., None], channels, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", extrasamples=["unassalpha"] * (channels - 3))
    np.testing.assert_array_equal(read(tmp_path / "a.tif").image, values)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_a_png_of_16_bits_keeps_them_whatever_its_colour_type(tmp_path: Path, kind: int, channels: int):
    values = (VALUES * 1001).astype(np.uint16)
    pixels = np.repeat(values[..., None], channels, axis=2)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    np.testing.assert_array_equal(read(write_png(tmp_path / "a.png", pixels, kind)).image, values)


@pytest.mark.parametrize("channels", [3, 4])
def test_filtered_rows_of_16_bit_colours_are_those_that_simpleitk_reads(tmp_path: Path, channels: int):
    """A smooth image with noise, for which its PNG writer takes all of the filters that look at other pixels."""
    rows, columns = np.mgrid[:90, :110]
    smooth = 30000 + 20000 * np.sin(columns / 20) * np.cos(rows / 15)
    grey = (smooth + np.random.default_rng(0).normal(0, 300, smooth.shape)).astype(np.uint16)
    pixels = np.stack([grey] * 3 + [np.full_like(grey, 65535)] * (channels - 3), axis=2)
    path = tmp_path / "a.png"
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(path))
    np.testing.assert_array_equal(read(path).image, sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., 0])


@pytest.mark.parametrize("kind", ["f8", "f2", "u4"])
def test_a_depth_that_is_not_read_compressed_is_named(tmp_path: Path, kind: str):
    tifffile.imwrite(tmp_path / "a.tif", VALUES.astype(kind), compression="zlib")
    what = "floating point" if kind[0] == "f" else "unsigned integers"
    assert f"a TIFF of 1 sample(s) of {8 * int(kind[1])}-bit {what}, compression" in refused(tmp_path / "a.tif")


def test_a_list_of_one_strip_over_and_over_is_read_to_the_images_end(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", VALUES.astype(np.float64), rowsperstrip=1)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["StripOffsets"].overwrite([file.pages[0].dataoffsets[0]] * 6)
        file.pages[0].tags["StripByteCounts"].overwrite([4 * 80] * 6)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").image[:4], VALUES[:4])
    np.testing.assert_array_equal(read(tmp_path / "a.tif").image[4:], VALUES[:2])


@pytest.mark.parametrize(("photometric", "channels"), [("separated", 4), ("minisblack", 3)])
def test_channels_that_are_no_grey_with_an_opacity_and_no_colours_are_refused(tmp_path: Path, photometric, channels):
    pixels = np.repeat((VALUES * 1001).astype(np.uint16)[..., None], channels, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, planarconfig="contig")
    assert f"a TIFF of {channels} sample(s) of 16-bit unsigned integers" in refused(tmp_path / "a.tif")


def test_an_image_of_one_bit_is_no_radiograph(tmp_path: Path):
    Image.fromarray(VALUES > 30).save(tmp_path / "a.png")
    assert "expected grey of 8 bits or more" in refused(tmp_path / "a.png")


# Polarity and gamma


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_white_is_zero_turns_bright_and_dark_over(tmp_path: Path, kind: str, compression: str | None):
    """TIFF 6.0, PhotometricInterpretation 0."""
    stored, white = (VALUES * 4).astype(kind), np.iinfo(kind).max
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").image, white - stored.astype(float))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_white_is_zero_says_nothing_of_line_integrals_but_how_they_are_shown(tmp_path: Path, kind: str):
    stored = (VALUES / 10).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").image, stored.astype(np.float32))


def test_a_png_of_linear_samples_looks_as_one_of_the_usual_gamma(tmp_path: Path):
    """gAMA (ISO 15948, 11.3.3.2): a sample is luminance to that power."""
    luminance = VALUES / VALUES.max()
    linear, usual = (np.rint(65535 * luminance**power).astype(np.uint16) for power in (1.0, 1 / 2.2))
    gamma = {power: (b"gAMA", struct.pack(">I", round(100000 * power))) for power in (1.0, 1 / 2.2)}
    found = read(write_png(tmp_path / "linear.png", linear, 0, gamma[1.0])).image
    expected = read(write_png(tmp_path / "usual.png", usual, 0, gamma[1 / 2.2])).image
    np.testing.assert_array_equal(expected, usual)
    np.testing.assert_allclose(found, expected, atol=8)
    named = read(write_png(tmp_path / "srgb.png", linear, 0, gamma[1.0], (b"sRGB", b"\0"))).image
    np.testing.assert_array_equal(named, linear)


# Orientation and shape of pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "float.tif"])
def test_the_orientation_of_tiff_and_exif_is_applied_once(tmp_path: Path, suffix: str, orientation: int):
    path = tmp_path / f"a.{suffix}"
    if suffix == "float.tif":
        tifffile.imwrite(path, VALUES.astype(np.float64), extratags=[(274, "H", 1, orientation, True)])
        exif = Image.Exif()
        exif[274] = orientation
        upright = Image.fromarray(VALUES.astype(np.float32))
        upright.info["exif"] = exif.tobytes()
        expected = np.asarray(ImageOps.exif_transpose(upright))
    else:
        image = Image.fromarray((VALUES * 4).astype(np.uint8))
        image.getexif()[274] = orientation
        image.save(path, exif=image.getexif(), **({"quality": 100} if suffix == "jpg" else {}))
        if suffix == "jpg":  # its losses are not looked for here
            image.putdata(list(np.asarray(Image.open(path)).ravel()))
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read(path).image, expected)


def write_wide_square(folder: Path, kind: str) -> Path:
    """A square, its pixels twice as high as wide, so that it is 20 rows and 40 columns of them; as the kind says so."""
    pixels = np.full((80, 160), 20, np.uint8)
    pixels[30:50, 60:100] = 200
    path = folder / f"a.{kind.split()[0]}"
    if kind == "png":
        write_png(path, pixels, 0, (b"pHYs", struct.pack(">IIB", 2, 1, 0)))
    elif kind == "png metre":
        write_png(path, pixels, 0, (b"pHYs", struct.pack(">IIB", 5000, 2500, 1)))
    elif kind == "jpg":
        Image.fromarray(pixels).save(path, quality=100)
        content = bytearray(path.read_bytes())
        place = content.index(b"JFIF") + 7  # units, density along a row, along a column (JFIF 1.02)
        content[place : place + 5] = struct.pack(">BHH", 0, 2, 1)
        path.write_bytes(content)
    elif kind == "tif":
        tifffile.imwrite(path, pixels, resolution=(200, 100))
    elif kind == "tif on its side":
        turned = np.ascontiguousarray(np.rot90(pixels))  # 6: the first row is the right side, so it is turned back
        tifffile.imwrite(path, turned, resolution=(100, 200), extratags=[(274, "H", 1, 6, True)])
    elif kind == "nii":
        image = nibabel.Nifti1Image(np.ascontiguousarray(pixels.T[..., None]), np.diag([1.0, 2.0, 1.0, 1.0]))
        nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", ["png", "png metre", "jpg", "tif", "tif on its side", "nii"])
@pytest.mark.parametrize("orientation", [("L", "F"), ("F", "L")])
def test_a_square_of_pixels_that_are_no_squares_comes_out_as_a_square(tmp_path: Path, kind: str, orientation: tuple):
    path = write_wide_square(tmp_path, kind)
    with pytest.warns(UserWarning, match="no pixel spacing"):
        radiograph = read_radiograph(str(path), "frontal", None, {"frontal": orientation})
    placed = PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=160), 8.0, (0, 100), (0.0, 1.0))(
        {"frontal": radiograph}
    )["frontal"][0]
    bright = placed.numpy() > 0.5
    height, width = (int(bright.any(axis=axis).sum()) for axis in (1, 0))
    assert height == width == 40


def test_pixels_of_an_impossible_shape_are_refused(tmp_path: Path):
    path = write_png(tmp_path / "a.png", VALUES.astype(np.uint8), 0, (b"pHYs", struct.pack(">IIB", 72, 1, 0)))
    assert "pixels are 72 times as high as wide, expected 0.2 to 5" in refused(path)


@pytest.mark.parametrize("unit", ["meter", "mm", "micron"])
def test_a_nifti_radiograph_has_the_sides_that_simpleitk_reads(tmp_path: Path, unit: str):
    size = {"meter": 0.0015, "mm": 1.5, "micron": 1500.0}[unit]
    image = nibabel.Nifti1Image(VALUES.T.astype(np.float32), np.diag([size, 2 * size, size, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    expected = sitk.ReadImage(str(tmp_path / "a.nii")).GetSpacing()[:2]
    np.testing.assert_allclose(read(tmp_path / "a.nii").pixel_mm, expected[::-1], rtol=1e-5)


# Colours and transparency


def test_transparent_pixels_are_not_exposed(tmp_path: Path):
    values, clear = (VALUES * 1001).astype(np.uint16), VALUES < 20
    opacity = np.where(clear, 0, 65535).astype(np.uint16)
    with_opacity = write_png(tmp_path / "la.png", np.stack([values, opacity], axis=2), 4)
    one_grey = np.where(clear, 7, values).astype(np.uint16)
    with_a_key = write_png(tmp_path / "key.png", one_grey, 0, (b"tRNS", struct.pack(">H", 7)))
    palette = Image.fromarray(np.where(clear, 0, VALUES * 4).astype(np.uint8)).convert("P")
    palette.save(tmp_path / "palette.png", transparency=0)
    for path in (with_opacity, with_a_key, tmp_path / "palette.png"):
        np.testing.assert_array_equal(read(path).exposed, ~clear)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGB"])
def test_a_grey_jpeg_in_any_colours_is_grey(tmp_path: Path, mode: str):
    values = (VALUES * 4).astype(np.uint8)
    Image.fromarray(values).convert("RGB").convert(mode).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read(tmp_path / "a.jpg").image, values, atol=3)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_few_coloured_marks_are_told_and_many_refused(tmp_path: Path, depth: int):
    grey = np.tile(VALUES * (2 ** (depth - 6) - 1), (10, 10)).astype(f"u{depth // 8}")
    pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels[5, 10:20] = (2**depth - 1, 0, 0)
    with pytest.warns(UserWarning, match=r"coloured marks in 0\.17% of its pixels") as found:
        read_radiograph(str(write_png(tmp_path / "arrow.png", pixels, 2)), "frontal")
    assert all(str(tmp_path) in str(warning.message) for warning in found)
    pixels[:30, :, 0] = 2**depth - 1
    assert "has colours in" in refused(write_png(tmp_path / "a.png", pixels, 2))


def test_a_grey_profile_or_text_changes_nothing(tmp_path: Path):
    values, words = (VALUES * 4).astype(np.uint8), PngInfo()
    words.add_text("Comment", "a chest")
    Image.fromarray(values).save(tmp_path / "a.png", pnginfo=words, dpi=(72, 72))
    found = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.image, values)
    assert (found.pixel_mm, found.pixel_aspect) == (None, 1.0)


# Other files in an image's place


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.nii.gz", "a.dcm", "a"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s3--0.png\n", "pointer of git-annex"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><title>Sign in</title>", "web page (HTML)"),
        (b"<!-- cache --><html><body>404</body></html>", "web page (HTML)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a text in XML"),
        (b'{"message": "Not Found"}', "a text in JSON"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04" + bytes(30), "an archive (ZIP)"),
        (b"", "an empty file"),
    ],
)
def test_what_lies_in_the_place_of_a_radiograph_is_named(tmp_path: Path, name: str, content: bytes, told: str):
    (tmp_path / name).write_bytes(content)
    assert told in refused(tmp_path / name)
