"""
Damages files at random and reads them: whatever comes, it is read, or refused by an error that names the file.

    python tests/fuzz.py [--copies 500] [--kinds "DICOM radiograph" PNG]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
from monai.transforms import Compose, Orientationd
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import SimpleITK  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from ct_series_files import write_series  # noqa: E402
from phantoms import phantom  # noqa: E402
from radiograph_files import compress, write_dicom  # noqa: E402
from scripts import (  # noqa: E402
    BiplanarGeometry,
    InputError,
    LoadCTd,
    LoadRadiographsd,
    PrepareXraysd,
    ResampleToCubed,
    load_records,
)
from scripts.errors import root_cause
from scripts.io.atomic_write import write_json
from scripts.io.image_writer import cube_affine, write_ct, write_projection

READ_RADIOGRAPH = Compose(
    [
        LoadRadiographsd(),
        PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=32), 8.0, (1, 99), (0.0, 0.7)),
    ]
)
READ_CT = Compose([LoadCTd("ct"), Orientationd("ct", "RAS", labels=None), ResampleToCubed("ct", 16, 360.0)])
LARGEST_SHARE = 0.01
"""Part of a file's bytes that is changed at most."""


def radiograph(path: Path) -> None:
    READ_RADIOGRAPH({"frontal": str(path)})


def ct(path: Path) -> None:
    READ_CT({"ct": str(path)})


def series(path: Path) -> None:
    READ_CT({"ct": str(path.parent)})


def datalist(path: Path) -> None:
    load_records(str(path), "training")


def _ramp(bits: int) -> np.ndarray:
    return (np.arange(48 * 48).reshape(48, 48) * (2**bits - 1) // (48 * 48)).astype(f"uint{bits}")


def _compressed(syntax: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_dicom(path, _ramp(16) >> 4, BitsStored=12, HighBit=11)
        compress(path, syntax)

    return write


def _pydicoms(name: str) -> Callable[[Path], None]:
    """A compressed file that pydicom's installation carries, said to be a radiograph."""

    def write(path: Path) -> None:
        dataset = dcmread(get_testdata_file(name))
        dataset.Modality = "CR"
        dataset.save_as(path)

    return write


def _itk(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(phantom(16, 0.0).numpy().astype(np.int16)), str(path))


def _series(path: Path) -> None:
    write_series(path.parent, name=lambda index: path.name if index == 1 else f"{index}.dcm")


KINDS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], None]]] = {
    "DICOM radiograph": ("radiograph.dcm", lambda path: write_dicom(path, _ramp(16)), radiograph),
    "JPEG lossless": ("radiograph.dcm", _compressed(gdcm.TransferSyntax.JPEGLosslessProcess14_1), radiograph),
    "JPEG 2000": ("radiograph.dcm", _pydicoms("MR_small_jp2klossless.dcm"), radiograph),
    "JPEG-LS": ("radiograph.dcm", _pydicoms("MR_small_jpeg_ls_lossless.dcm"), radiograph),
    "RLE": ("radiograph.dcm", _pydicoms("MR_small_RLE.dcm"), radiograph),
    "NIfTI radiograph": (
        "radiograph.nii",
        lambda path: write_projection(str(path), torch.rand(48, 48), 7.5),
        radiograph,
    ),
    "PNG": ("radiograph.png", lambda path: Image.fromarray(_ramp(16)).save(path), radiograph),
    "JPEG": ("radiograph.jpg", lambda path: Image.fromarray(_ramp(8)).save(path), radiograph),
    "TIFF": ("radiograph.tif", lambda path: Image.fromarray(_ramp(16)).save(path), radiograph),
    "DICOM series": ("series/one.dcm", _series, series),
    "NIfTI CT": ("ct.nii.gz", lambda path: write_ct(str(path), phantom(16, 0.0), cube_affine(16, 360.0)), ct),
    "NRRD": ("ct.nrrd", _itk, ct),
    "MetaImage": ("ct.mha", _itk, ct),
    "datalist": (
        "datalist.json",
        lambda path: write_json(str(path), {"training": [{"ct": "datalist.json"}]}),
        datalist,
    ),
}
"""Each kind of file: its name, how it is written, and how it is read."""


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """A copy with some bytes changed; every fourth one is cut off as well."""
    spoilt = np.frombuffer(content, np.uint8).copy()
    count = int(random.integers(1, max(2, int(LARGEST_SHARE * len(spoilt)) + 1)))
    spoilt[random.integers(0, len(spoilt), count)] ^= random.integers(1, 256, count).astype(np.uint8)
    return spoilt[: random.integers(0, len(spoilt))].tobytes() if random.random() < 0.25 else spoilt.tobytes()


def fuzz(kind: str, copies: int, folder: Path) -> tuple[int, list[tuple[int, BaseException]]]:
    """
    Reads damaged copies of a kind of file; the copy's number seeds its damage.

    Returns:
        How many could be read all the same, and those that ended in another error than one of the bundle's, or in one
        that does not name the folder.
    """
    name, write, read = KINDS[kind]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    read(path)
    content, passed, crashes = path.read_bytes(), 0, []
    for copy in tqdm(range(copies), desc=kind, leave=False):
        path.write_bytes(damaged(content, np.random.default_rng(copy)))
        try:
            read(path)
            passed += 1
        except Exception as error:
            cause = root_cause(error)
            if not isinstance(cause, InputError) or str(folder) not in str(cause):
                crashes.append((copy, cause))
    return passed, crashes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = 0
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            with contextlib.redirect_stderr(nowhere):
                passed, crashes = fuzz(kind, options.copies, Path(folder))
        refused = options.copies - passed - len(crashes)
        print(
            f"{kind:<18}{options.copies} copies: {passed} read, {refused} refused by name, {len(crashes)} other",
            flush=True,
        )
        for copy, error in crashes[:5]:
            print(f"    copy {copy}: {type(error).__name__}: {str(error)[:200]}")
        failed += len(crashes)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
