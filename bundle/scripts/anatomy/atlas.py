"""
CTs of training patients that lie next to the weights, for inference to find neighbours among. They are patients' data:
whoever passes an atlas on passes on CTs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, InputError, one_line_message
from ..io.image_writer import cube_affine, is_cube_of, write_nifti
from ..io.limits import check_nifti_extent
from ..io.nifti import load_nifti, read_json
from ..io.sidecar import Sidecar, sha256_of, sidecar_path, write_sidecar
from ..projection.resampling import truth_at

if TYPE_CHECKING:
    from jaxtyping import Float

NAME = "atlas"
STEP_HU = 8.0
"""Values are multiples of it, which is little next to how bodies differ and makes files small."""
RANGE_HU = (-1024.0, 3064.0)
FIELDS = ("name", "patient", "collection", "licence", "attribution")
"""What is known of each CT, as texts."""
UNKNOWN = "unknown"
MAX_CTS, MAX_SIDE = 64, 256
MAX_VOXELS = 2**28
MAX_FILE_BYTES = 2**28
MAX_TEXT = 1000


@dataclass(frozen=True)
class Atlas:
    """
    Args:
        cts: in HU, multiples of :data:`STEP_HU`, cubes of the field of view.
        records: :data:`FIELDS` of each.
        fov_mm: side of the field of view.
    """

    cts: Float[Tensor, "N 1 S S S"]
    records: Sequence[Mapping[str, str]]
    fov_mm: float

    @classmethod
    def of(
        cls,
        records: Sequence[Mapping[str, Any]],
        load: Callable[[dict[str, Any]], Mapping[str, Any]],
        size: int,
        fov_mm: float,
        sources: Mapping[str, str],
    ) -> Atlas:
        """
        The atlas of some records.

        Args:
            records: of a datalist.
            load: makes of a record one whose `ct` is a cube in HU, `(1, S, S, S)`.
            size: voxels along a side at which the CTs are kept.
            fov_mm: side of the cubes.
            sources: what to name for each collection, such as its DOI.
        """
        cubes = [torch.as_tensor(load({"ct": record["ct"]})["ct"]).as_subclass(Tensor)[None] for record in records]
        cts = torch.cat([truth_at(cube.float(), size) for cube in cubes])
        lowest, highest = RANGE_HU
        known = [
            {**dict.fromkeys(FIELDS, UNKNOWN), **{field: record[field] for field in FIELDS if field in record}}
            for record in records
        ]
        for each in known:
            each["attribution"] = sources.get(each["collection"], UNKNOWN)
        return cls((cts.clamp(lowest, highest) / STEP_HU).round() * STEP_HU, known, fov_mm)

    def without(self, patient: str) -> Atlas:
        """The CTs of all others."""
        kept = [number for number, record in enumerate(self.records) if record["patient"] != patient]
        return Atlas(self.cts[kept], [self.records[number] for number in kept], self.fov_mm)

    def write(self, weights: str) -> str:
        """
        Writes `NAME_atlas.nii.gz` next to weights, and `NAME_atlas.json`, which ties it to them; the path of the first.

        The NIfTI has the CTs along its fourth axis, 16-bit integers in HU, and what is known of each as JSON in its
        header's extension.

        Raises:
            OutputError: when they cannot be written.
        """
        path, size = atlas_path(weights), self.cts.shape[-1]
        voxels = self.cts[:, 0].movedim(0, -1).short().cpu().numpy()
        content = {"records": list(map(dict, self.records))}
        write_nifti(path, voxels, cube_affine(size, self.fov_mm).numpy(), content)
        write_sidecar(sidecar_path(weights, NAME), weights, {"atlas_sha256": sha256_of(path)})
        return path


def atlas_path(weights: str) -> str:
    """Where the atlas of weights lies: `DIR/model.pt` to `DIR/model_atlas.nii.gz`."""
    return f"{os.path.splitext(weights)[0]}_{NAME}.nii.gz"


def evenly(records: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """
    At most so many of the records, evenly spaced in their order, one of each patient.

    Raises:
        InputError: when that is less than 1 or more than an atlas may have.
    """
    if not 1 <= most <= MAX_CTS:
        raise InputError(f"atlas_cts is {most}, expected from 1 to {MAX_CTS}.")
    first = {record["patient"]: record for record in reversed(records)}
    alone = [record for record in records if first[record["patient"]] is record]
    count = min(most, len(alone))
    return [alone[number * len(alone) // count] for number in range(count)]


def read_atlas(weights: str, fov_mm: float) -> Atlas | None:
    """
    The atlas next to weights; None without one.

    Args:
        weights: that are in use.
        fov_mm: of the reconstruction.

    Raises:
        CheckpointError: when the file or its sidecar cannot be used as they stand, or are of other weights.
    """
    path = atlas_path(weights)
    if not os.path.lexists(path):
        return None
    next_step = (
        f"Make it by: python launch.py atlas --dataset_dir DIR --weights {weights} . Or move {path} and its .json away."
    )
    if not os.path.isfile(path) or os.path.getsize(path) > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: is no file of at most {MAX_FILE_BYTES // 2**20} MiB. {next_step}")
    sidecar = Sidecar(sidecar_path(weights, NAME), weights, next_step)
    sidecar.require("atlas_sha256", sha256_of(path), f"the SHA-256 of {path}: it has changed since it was made")
    try:
        check_nifti_extent(path, MAX_VOXELS, path)
        image: Any = load_nifti(path)
        records = _records(image, path)
        _check_header(image, len(records), fov_mm, path)
        voxels = torch.from_numpy(np.asarray(image.dataobj)).float()
    except InputError as error:
        raise CheckpointError(f"{error} {next_step}") from error
    except Exception as error:  # whatever a damaged file makes gzip and nibabel stumble over
        raise CheckpointError(f"{path}: cannot be read as an atlas ({one_line_message(error)}). {next_step}") from error
    lowest, highest = voxels.min().item(), voxels.max().item()
    if lowest < RANGE_HU[0] or highest > RANGE_HU[1]:
        raise CheckpointError(
            f"{path}: holds values from {lowest:g} to {highest:g}, expected HU from {RANGE_HU[0]:g} to "
            f"{RANGE_HU[1]:g}. {next_step}"
        )
    return Atlas(voxels.movedim(-1, 0)[:, None].contiguous(), records, fov_mm)


def _check_header(image: Any, count: int, fov_mm: float, path: str) -> None:
    shape = image.shape
    is_cube = len(shape) == 4 and len(set(shape[:3])) == 1 and shape[0] <= MAX_SIDE
    if not is_cube or not shape[3] == count <= MAX_CTS:
        raise InputError(
            f"{path}: has shape {shape} and names {count} records, expected (S, S, S, N) with S at most {MAX_SIDE} and "
            f"a record for each of at most {MAX_CTS} CTs."
        )
    if image.get_data_dtype() != np.int16 or (image.dataobj.slope, image.dataobj.inter) != (1, 0):
        raise InputError(f"{path}: holds {image.get_data_dtype()}, expected 16-bit integers in HU, without a rescale.")
    if not is_cube_of(image, fov_mm):
        raise InputError(f"{path}: has the affine {image.affine.tolist()}, expected that of a cube of {fov_mm:g} mm.")


def _records(image: Any, path: str) -> list[dict[str, str]]:
    records = read_json(image, path).get("records")
    if not isinstance(records, list) or not records or not all(map(_is_record, records)):
        raise InputError(
            f"{path}: field 'records' of its header's JSON is no list of objects with the texts {FIELDS}, each of at "
            f"most {MAX_TEXT} letters that print."
        )
    return records


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or set(record) != set(FIELDS):
        return False
    return all(isinstance(text, str) and text.isprintable() and len(text) <= MAX_TEXT for text in record.values())
