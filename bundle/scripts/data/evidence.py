"""
Other people's bodies for training: the neighbours of each record's first reconstruction are found once, and what they
say is kept in a file that is deformed as the record's CT is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..anatomy.atlas import Atlas, evenly
from ..anatomy.neighbours import COARSE_LEVELS, Neighbours
from ..anatomy.registration import Registration
from ..errors import InputError
from ..io.image_writer import cube_affine, is_cube_of, write_nifti
from ..io.limits import check_nifti_extent
from ..io.nifti import load_nifti
from ..io.sidecar import sha256_of
from ..projection.imaging import ImagingModel
from .caching import hash_with_files
from .datalist import read_datalist

if TYPE_CHECKING:
    from jaxtyping import Float

FIELD, FIELD_TO_MAKE = "anatomy", "anatomy_to_make"
"""Of a record: the path of its file, to be loaded, or to be written."""
KEY_LETTERS = 16
MAX_VALUES = 2 * 2**24
"""Two channels at 256³."""


class EvidenceFiles:
    """
    The files of the records, `<folder>/<name>_<key>.nii.gz`. The key is a hash of all that a file depends on, so that
    one that is there is the right one: the record, the first stage's weights, the other patients' CTs, and how they are
    registered.

    Args:
        folder: of the files.
        weights: of the first stage, whose volumes the neighbours are registered to.
        records: of the training: the CTs to choose from. No record has a neighbour of its own patient.
        most: how many CTs are chosen at most, evenly, one of each patient: an atlas, as inference has one.
        load: makes of a record one whose `ct` is a cube in HU.
        size: voxels along a side of the CTs and of what they say.
        imaging: scales and acquisition geometry.
        registration: how a CT is brought to a volume.
        nearest: see :class:`~scripts.anatomy.neighbours.Neighbours`.
        sources: what to name for each collection of CTs, see :func:`sources_of`.
    """

    def __init__(
        self,
        folder: str,
        weights: str,
        records: Sequence[Mapping[str, Any]],
        most: int,
        load: Callable[[dict[str, Any]], Mapping[str, Any]],
        size: int,
        imaging: ImagingModel,
        registration: Registration,
        nearest: int,
        sources: Mapping[str, str],
    ) -> None:
        self.folder, self.weights, self.load, self.size, self.sources = folder, weights, load, size, sources
        self.chosen = evenly(records, most)
        self.imaging, self.registration, self.nearest = imaging, registration, nearest

    @cached_property
    def atlas(self) -> Atlas:
        """The chosen CTs."""
        return Atlas.of(self.chosen, self.load, self.size, self.imaging.geometry.fov_mm, self.sources)

    def neighbours(self, patient: str) -> Neighbours:
        """
        Those of a patient: all others.

        Raises:
            InputError: when there are none.
        """
        others = self.atlas.without(patient)
        if not len(others.cts):
            raise InputError(
                f"{self.folder}: there is no CT of another patient than {patient!r}, expected two patients or more in "
                f"the section 'training'."
            )
        return Neighbours(others.cts, self.registration, self.imaging, self.nearest)

    def missing(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The records whose file is not there, with its path as the field `anatomy_to_make`."""
        return [{**record, FIELD_TO_MAKE: path} for record, path in self._paths(records) if not os.path.isfile(path)]

    def made(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        The records with the path of their file as the field `anatomy`.

        Raises:
            InputError: when a file is not there.
        """
        named = self._paths(records)
        missing = [path for _, path in named if not os.path.isfile(path)]
        if missing:
            raise InputError(
                f"{missing[0]}: no such file; {len(missing)} of {len(records)} records have none for "
                f"these weights, CTs and settings. Make them by the line of this training with the workflow `evidence` "
                f"in place of `training`, or train by: python launch.py train --anatomy"
            )
        return [{**record, FIELD: path} for record, path in named]

    def path(self, record: Mapping[str, Any]) -> str:
        """Where the file of a record is, be it there or not."""
        others = [found for patient, found in self._chosen_hashes if patient != record["patient"]]
        imaging, levels = self.imaging, [asdict(level) for level in self.registration.levels]
        how = (imaging.geometry, imaging.hu_window, imaging.xray_scale, levels, COARSE_LEVELS, self.nearest, self.size)
        depends_on = (self._weights_hash, hash_with_files(dict(record)), others, how)
        key = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:KEY_LETTERS]
        return os.path.join(self.folder, f"{record['name']}_{key}.nii.gz")

    def _paths(self, records: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
        return [(record, self.path(record)) for record in records]

    @cached_property
    def _chosen_hashes(self) -> list[tuple[str, bytes]]:
        """Of each chosen CT, its patient and its hash."""
        return [(record["patient"], hash_with_files(dict(record))) for record in self.chosen]

    @cached_property
    def _weights_hash(self) -> str:
        return sha256_of(self.weights)


def sources_of(datalist: str) -> dict[str, str]:
    """What a datalist's object `collections` names for each collection, such as its DOI; texts alone."""
    named = read_datalist(datalist).get("collections", {})
    found = named.items() if isinstance(named, dict) else ()
    return {name: source for name, source in found if isinstance(source, str)}


class LoadEvidenced(MapTransform):
    """
    Loads what neighbours say, see :func:`read_evidence`.

    Args:
        keys: fields with the path of a file.
        imaging: scales and field of view.
    """

    def __init__(self, keys: KeysCollection, imaging: ImagingModel) -> None:
        super().__init__(keys)
        self.imaging = imaging

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**record, **{key: read_evidence(record[key], self.imaging) for key in self.key_iterator(record)}}


def write_evidence(path: str, evidence: Float[Tensor, "2 S S S"], imaging: ImagingModel) -> None:
    """
    Writes mean and spread, scaled, as a NIfTI of 16-bit integers in HU, to look at: the mean first.

    Raises:
        OutputError: when it cannot be written.
    """
    lowest, highest = imaging.hu_window
    hu = torch.stack([imaging.to_hu(evidence[0]), evidence[1] * (highest - lowest)], dim=-1)
    write_nifti(path, hu.round().short().cpu().numpy(), cube_affine(len(hu), imaging.geometry.fov_mm).numpy())


def read_evidence(path: str, imaging: ImagingModel) -> Float[Tensor, "2 S S S"]:
    """
    What :func:`write_evidence` wrote, to half a HU.

    Raises:
        InputError: when the file cannot be read, or holds no two cubes of the field of view.
    """
    next_step = "Remove it, and make it anew by the workflow `evidence`."
    try:
        check_nifti_extent(path, MAX_VALUES, path)
        image: Any = load_nifti(path)
        shape = image.shape
        if len(shape) != 4 or shape[3] != 2 or len(set(shape[:3])) != 1 or image.get_data_dtype() != np.int16:
            raise ValueError(f"shape {shape} of {image.get_data_dtype()}, expected (S, S, S, 2) of int16")
        if not is_cube_of(image, imaging.geometry.fov_mm):
            raise ValueError(f"the affine is not that of a cube of {imaging.geometry.fov_mm:g} mm")
        hu = torch.from_numpy(np.asarray(image.dataobj)).float().movedim(-1, 0)
    except Exception as error:  # whatever a damaged file makes gzip and nibabel stumble over
        raise InputError(f"{path}: field '{FIELD}' cannot be read as mean and spread ({error}). {next_step}") from error
    lowest, highest = imaging.hu_window
    return torch.stack([imaging.scale(hu[0]), (hu[1] / (highest - lowest)).clamp(0, 1)])
