"""
The index of NCI Imaging Data Commons: which series a public collection has, and under which licence. It is a file of
the package `idc-index-data`, which the package `pyarrow` reads; neither is required by the bundle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai.utils import optional_import

from ..errors import InputError, one_line_message, shown

PACKAGES = ("idc-index-data", "pyarrow")
INSTALL = f"python -m pip install --no-deps {' '.join(PACKAGES)}"
"""What brings the index and its reader into the environment."""
COLUMNS = {
    "PatientID": "patient",
    "SeriesInstanceUID": "uid",
    "crdc_series_uuid": "name",
    "aws_bucket": "bucket",
    "instanceCount": "objects",
    "series_size_MB": "size",
    "sop_class_name": "kind",
    "BodyPartExamined": "body_part",
    "license_short_name": "licence",
    "source_DOI": "doi",
}
"""Of the index, and what :class:`IndexedSeries` calls them."""


@dataclass(frozen=True)
class IndexedSeries:
    """
    One series of modality CT, as the index has it; a text is empty where the index has none.

    Args:
        patient: Patient ID.
        uid: Series Instance UID.
        name: UUID, prefix of its objects' keys.
        bucket: that holds them.
        objects: their number, one for each slice.
        size: of all together, in bytes.
        kind: name of the SOP class, such as "CT Image Storage".
        body_part: Body Part Examined, such as "CHEST".
        licence: such as "CC BY 3.0".
        doi: digital object identifier of what it was published in.
    """

    patient: str
    uid: str
    name: str
    bucket: str
    objects: int
    size: int
    kind: str
    body_part: str
    licence: str
    doi: str

    @property
    def source(self) -> tuple[str, str, str]:
        """Where it was published, under which licence, and the bucket that holds it."""
        return self.doi, self.licence, self.bucket


@dataclass(frozen=True)
class IndexedCollection:
    """
    Args:
        name: such as "LIDC-IDRI".
        doi: address of its digital object identifier.
        licence: such as "CC BY 3.0", of its CTs.
        licence_url: where that can be read.
        attribution: title and address of what its CTs were published in.
        citation: of the same, with its authors.
        index: package and version that say so.
        address: of the bucket.
        series: its CTs that have this source; those that an analysis has added are no part of it.
        others: number of its CTs of another source, which are left alone.
    """

    name: str
    doi: str
    licence: str
    licence_url: str
    attribution: str
    citation: str
    index: str
    address: str
    series: list[IndexedSeries]
    others: int


def collection_id(name: str) -> str:
    """What the index calls a collection: "lidc_idri" of "LIDC-IDRI"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def indexed_collection(name: str) -> IndexedCollection:
    """
    Args:
        name: of a collection of Imaging Data Commons, in capitals or not.

    Raises:
        InputError: when the index is not installed or not of that form, has no such collection or no CT of it, or does
            not say under which licence its CTs are.
    """
    wanted = collection_id(name)
    rows, about, version = _read_index(wanted)
    if about is None:
        raise InputError(f"collection {name!r}: {version} has none of that name, expected one such as LIDC-IDRI, NLST.")
    series = [_series(row) for row in rows if row["analysis_result_id"] is None]
    if not series:
        raise InputError(f"collection {name!r}: {version} has no CT of it; choose another collection.")
    doi, licence, bucket = Counter(each.source for each in series).most_common(1)[0][0]
    published = [entry for entry in about["sources"] if (entry["source_doi"] or "").lower() == doi.lower()]
    if not published or published[0]["license"]["license_short_name"] != licence:
        raise InputError(f"collection {name!r}: {version} does not say in one way what licence the CTs of {doi} have.")
    kept = [each for each in series if each.source == (doi, licence, bucket)]
    return IndexedCollection(
        name=about["collection_name"],
        doi=published[0]["source_url"],
        licence=licence,
        licence_url=published[0]["license"]["license_url"],
        attribution=f"{published[0]['source_title']}, {published[0]['source_url']}",
        citation=" ".join(re.sub(r"<[^>]*>", "", published[0]["citation"]).split()),
        index=version,
        address=f"https://{bucket}.s3.amazonaws.com",
        series=kept,
        others=len(series) - len(kept),
    )


def _read_index(wanted: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None, str]:
    """The rows of a collection's CTs, what is said of the collection or None, and the package with its version."""
    (idc_index_data, has_index), (pyarrow, has_reader) = map(optional_import, ("idc_index_data", "pyarrow"))
    parquet, _ = optional_import("pyarrow.parquet")
    if not (has_index and has_reader):
        missing = " and ".join(name for name, is_here in zip(PACKAGES, (has_index, has_reader)) if not is_here)
        raise InputError(
            f"the index of Imaging Data Commons is not installed (no {missing}); only LIDC-IDRI is listed without it. "
            f"Install it by the environment's `{INSTALL}`."
        )
    version = f"idc-index-data {idc_index_data.__version__}"
    files = {name: entry["parquet_filepath"] for name, entry in idc_index_data.INDEX_METADATA.items()}
    try:
        rows = parquet.read_table(
            files["idc_index"],
            columns=["analysis_result_id", *COLUMNS],
            filters=[("collection_id", "=", wanted), ("Modality", "=", "CT")],
        )
        about = parquet.read_table(files["collections_index"], filters=[("collection_id", "=", wanted)])
    except (OSError, TypeError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{version}: its index cannot be read ({one_line_message(error)}); install the version 25 of the package."
        ) from error
    return rows.to_pylist(), next(iter(about.to_pylist()), None), version


def _series(row: Mapping[str, Any]) -> IndexedSeries:
    fields = {field: row[column] for column, field in COLUMNS.items()}
    size = round(1e6 * (fields.pop("size") or 0))  # the index has millions of bytes, with six decimals
    objects = fields.pop("objects") or 0
    return IndexedSeries(**{name: shown(value or "") for name, value in fields.items()}, objects=objects, size=size)
