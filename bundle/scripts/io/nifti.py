"""NIfTI files whose suffix may have capitals anywhere, of which nibabel knows `.nii.gz` and `.NII.GZ` alone."""

from __future__ import annotations

import os
from typing import Any

import nibabel
import numpy as np
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple
from nibabel.openers import Opener

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
