"""Records as they are loaded, kept in memory or in a folder."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset, PersistentDataset, pickle_hashing
from monai.utils import convert_to_tensor

from ..anatomy.shapes import SHAPES
from ..io.itk_headers import named_voxels
from .datalist import IMAGE_FIELDS


def cached_dataset(
    data: Sequence[dict[str, Any]], transform: Callable, cache_dir: str | None = None, cache_rate: float = 1.0
) -> Dataset:
    """
    The records after the transform, each made once: kept in memory when `cache_dir` is None, which takes 64 MiB for a
    CT of 256³, else in that folder, where other runs find them again.

    Args:
        data: records, see :func:`~scripts.load_records`, duplicates among them too.
        transform: up to its first random part.
        cache_dir: a folder, made where it is missing. A file of it belongs to one record, one content of its files and
            one configuration of the transform.
        cache_rate: fraction of the records that are kept in memory.
    """
    if cache_dir is None:
        return CacheDataset(data, transform, cache_rate=cache_rate, hash_as_key=True)
    return CachedOnDisk(data, transform, str(cache_dir), hash_func=hash_with_files, hash_transform=pickle_hashing)


FIELDS = ("has_radiographs",)
"""Fields of a kept record that version 0.3 called otherwise, so that its files are not taken."""


class CachedOnDisk(PersistentDataset):
    """
    MONAI's `PersistentDataset`, which makes a file anew that is not whole, as one is whose writing was broken off.
    Returns tensors without metadata, also the first time, so that a batch may mix what was kept and what was just made.

    Warns:
        UserWarning: when it does.
    """

    def _cachecheck(self, item_transformed: dict[str, Any]) -> Any:
        path = self.cache_dir / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        if path.is_file() and not zipfile.is_zipfile(path):
            warnings.warn(f"{path}: is not a whole file of cached data; it is deleted and made anew.", stacklevel=2)
            path.unlink()
        return convert_to_tensor(super()._cachecheck(item_transformed), track_meta=False, convert_numeric=False)


def hash_with_files(record: dict[str, Any]) -> bytes:
    """
    Hash of a record with size and times of last change of every file that it names, those of a series' folder and those
    of the voxels of a detached header too, and with :data:`FIELDS`.
    """
    files = [file for field in (*IMAGE_FIELDS, SHAPES) if field in record for file in files_of(Path(record[field]))]
    return pickle_hashing({**record, "fields": FIELDS, "files": [(str(file), *state_of(file)) for file in files]})


def files_of(path: Path) -> list[Path]:
    """A file, with those of the voxels of a detached header, or all files of a series' folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path, *sorted(voxels for voxels in named_voxels(path) if voxels.is_file())]


def state_of(file: Path) -> tuple[int, int, int]:
    """What tells a file from one of another content, be it one that was moved to its place."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
