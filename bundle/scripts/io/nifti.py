"""NIfTI files whose suffix may have capitals anywhere, of which nibabel knows `.nii.gz` and `.NII.GZ` alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple
from nibabel.nifti1 import Nifti1Extension
from nibabel.openers import Opener

from ..errors import InputError, one_line_message, shown

COMMENT = 6
"""NIfTI's code of a header extension with text."""
NIFTI_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Millimetres of NIfTI's units of length (xyzt_units); a CT of no unit is taken to be in mm."""


def load_nifti(path: str | os.PathLike[str], **options: Any) -> nibabel.Nifti1Image:
    """
    `nibabel.load` of a NIfTI-1 or NIfTI-2 file, and its options.

    Raises:
        Exception: whatever nibabel and gzip raise at what is none.
    """
    with Opener(path) as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
    kind = nibabel.Nifti2Image if nibabel.Nifti2Header.may_contain_header(start) else nibabel.Nifti1Image
    return kind.from_file_map(kind.make_file_map({"image": os.fspath(path), "header": os.fspath(path)}), **options)


def add_json(image: nibabel.Nifti1Image, content: Mapping[str, Any]) -> None:
    """Puts an object into the header, as an extension with a comment, which other programs pass over."""
    image.header.extensions.append(Nifti1Extension("comment", json.dumps(dict(content)).encode()))


def read_json(image: nibabel.Nifti1Image, path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    What :func:`add_json` has put there.

    Raises:
        InputError: when there is no such object, by the file's path.
    """
    comments = [each for each in image.header.extensions if each.get_code() == COMMENT]
    try:
        (content,) = (json.loads(each.get_content()) for each in comments)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{shown(path)}: its header has {len(comments)} comments and no JSON object in a single one "
            f"({one_line_message(error)}); make the file anew."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{shown(path)}: the JSON of its header is {type(content).__name__}, expected an object.")
    return content


class AnyCaseNibabelReader(NibabelReader):
    """MONAI's reader of NIfTI, by :func:`load_nifti`."""

    def read(self, data: Any, **kwargs: Any) -> nibabel.Nifti1Image:
        self.filenames = ensure_tuple(data)  # which `get_data` asks for
        (path,) = self.filenames
        return correct_nifti_header_if_necessary(load_nifti(path))

    def _get_array_data(self, *arguments: Any, **options: Any) -> np.ndarray:
        """In this machine's byte order, which torch asks for."""
        array = np.asarray(super()._get_array_data(*arguments, **options))
        return array.astype(array.dtype.newbyteorder("="), copy=False)
