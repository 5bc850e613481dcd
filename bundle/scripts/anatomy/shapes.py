"""
How the bodies of a training section differ: for each CT a file of displacements by which it looks like others of them,
and how its record gets them.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import InputError, one_line_message, shown
from ..io.image_writer import cube_affine, is_cube_of, write_nifti
from ..io.limits import MAX_VOXELS
from ..io.nifti import load_nifti, read_json

if TYPE_CHECKING:
    from jaxtyping import Float

SHAPES = "shapes"
"""The field of a record: a path, then the displacements."""
INTENT = "displacement vector"
NEXT_STEP = "make it anew by `python launch.py register` (bundle/docs/training.md)"


def shapes_path(folder: str, name: str) -> str:
    """Where the displacements of a record's CT lie."""
    return os.path.join(folder, f"{name}.nii.gz")


def with_shapes(records: Sequence[dict[str, Any]], folder: str | None) -> list[dict[str, Any]]:
    """
    The records, each with the path of its displacements as `shapes`; as they are without a folder.

    Raises:
        InputError: when a file is missing, holds no displacements, or not as many as the first.
    """
    if folder is None:
        return list(records)
    named = [{**record, SHAPES: shapes_path(str(folder), record["name"])} for record in records]
    count = [len(read_targets(record[SHAPES])) for record in named]
    for record, found in zip(named, count):
        if found != count[0]:
            raise InputError(
                f"{shown(record[SHAPES])}: has {found} targets, expected {count[0]} as in {shown(named[0][SHAPES])}: "
                f"all of a folder are of one training section; {NEXT_STEP}."
            )
    return named


def write_shapes(
    path: str, displacements_mm: Float[Tensor, "N 3 G G G"], fov_mm: float, content: Mapping[str, Any]
) -> None:
    """
    A NIfTI of displacement vectors, `(G, G, G, N, 3)`, in mm to right, anterior and superior, over the field of view
    about the isocentre: a voxel at x of the target number n is read at x plus the vector n.

    Args:
        path: where to, `.nii.gz`.
        displacements_mm: of the targets.
        fov_mm: side of the field of view.
        content: `targets`, their names, and what else the header is to say.

    Raises:
        OutputError: when it cannot be written.
    """
    array = displacements_mm.permute(2, 3, 4, 0, 1).float().cpu().numpy()
    write_nifti(path, array, cube_affine(len(array), fov_mm).numpy(), content, INTENT)


def read_content(path: str) -> dict[str, Any]:
    """
    What the header of a file of displacements says.

    Raises:
        InputError: when it is missing or no such file.
    """
    return read_json(_opened(path), path)


def read_targets(path: str) -> list[str]:
    """
    The names of the CTs that a file has displacements to; the displacements themselves are not read.

    Raises:
        InputError: as :func:`read_content` does; also when the names are not as many as the displacements.
    """
    image = _opened(path)
    targets = read_json(image, path).get("targets")
    if not isinstance(targets, list) or len(targets) != image.shape[3]:
        raise InputError(
            f"{shown(path)}: its header names {targets!r} as 'targets', expected {image.shape[3]} names, one for each "
            f"displacement; {NEXT_STEP}."
        )
    return [str(target) for target in targets]


def read_shapes(path: str, fov_mm: float) -> Float[Tensor, "N 3 G G G"]:
    """
    The displacements of a file in mm, see :func:`write_shapes`.

    Raises:
        InputError: when it is missing or no such file, is of another field of view, or holds what is not finite.
    """
    image = _opened(path)
    if not is_cube_of(image, fov_mm):
        side = np.linalg.norm(image.affine[:3, 0]) * image.shape[0]
        raise InputError(
            f"{shown(path)}: is of a field of view of {side:g} mm, expected {fov_mm:g} mm about the isocentre; "
            f"{NEXT_STEP}."
        )
    try:
        shapes = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)).permute(3, 4, 0, 1, 2).contiguous()
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({one_line_message(error)}); {NEXT_STEP}.") from error
    if not torch.isfinite(shapes).all():
        raise InputError(f"{shown(path)}: holds NaN or infinite values, expected none; {NEXT_STEP}.")
    return shapes


class LoadShapesd(MapTransform):
    """
    Loads the displacements of records, `(N, 3, G, G, G)` in mm, from the paths that :func:`with_shapes` has put there.

    Args:
        keys: fields with a path.
        fov_mm: side of the field of view.
        allow_missing_keys: as in every MONAI transform.

    Raises:
        InputError: as :func:`read_shapes` does.
    """

    def __init__(self, keys: KeysCollection, fov_mm: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fov_mm = fov_mm

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**record, **{key: read_shapes(record[key], self.fov_mm) for key in self.key_iterator(record)}}


def _opened(path: str) -> nibabel.Nifti1Image:
    """A file's header, whose shape is that of displacements."""
    if not os.path.isfile(path):
        raise InputError(f"{shown(path)}: no such file, expected the displacements of a CT; {NEXT_STEP}.")
    try:
        image = load_nifti(path)
    except Exception as error:
        raise InputError(f"{shown(path)}: cannot be read as NIfTI ({one_line_message(error)}); {NEXT_STEP}.") from error
    shape = image.shape
    is_cube = len(shape) == 5 and shape[:3] == (shape[0],) * 3 and shape[4] == 3
    if not is_cube or not 0 < np.prod(shape, dtype=np.int64) <= MAX_VOXELS:
        raise InputError(f"{shown(path)}: has shape {shape}, expected (G, G, G, N, 3), displacements; {NEXT_STEP}.")
    return image
