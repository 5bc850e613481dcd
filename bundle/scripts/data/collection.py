"""Which CT of each patient of a public collection is fetched, by what is known before a look at the files."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.atomic_write import write_text
from ..io.licences import SHAREABLE
from .chest_ct import LARGEST_STEP_MM, LEAST_SIDE_MM
from .idc_index import IndexedCollection, IndexedSeries, collection_id, indexed_collection
from .manifest import CONFIGS, CT, MAX_SERIES_BYTES, PATIENT, Manifest, Patient, as_manifest, read_manifest

SHIPPED = {"lidc_idri": CONFIGS / "lidc_idri.json"}
"""Manifests of collections that come with the bundle, by what the index calls them."""
CHEST = re.compile(r".*\b(CHEST|LUNG|THORAX)\b.*", re.I)
"""A Body Part Examined that is the chest; the middle of one that reaches further, as CHESTABDPELVIS, is elsewhere."""
LEAST_SLICES = round(LEAST_SIDE_MM / LARGEST_STEP_MM)
"""A CT that is high enough for a chest, with slices close enough, has as many; a localizer has fewer."""
MOST_SLICES = 2048
"""Of 512 x 512 pixels, as many as :data:`scripts.io.limits.MAX_VOXELS` allows; several phases may have more."""
SLICES = "CT Image Storage"
"""The SOP class of a file that holds one slice."""


def collection_manifest(name: str, is_any_licence: bool = False) -> Manifest:
    """
    What is fetched of a collection: that of :data:`SHIPPED`, or what :func:`write_collection_manifest` would write.

    Args:
        name: of a collection of Imaging Data Commons, such as "LIDC-IDRI" or "nlst".
        is_any_licence: whether its CTs may be of a licence that does not allow any use of what derives from them.

    Raises:
        InputError: when neither the bundle nor the index has it, or its licence is refused.
    """
    shipped = SHIPPED.get(collection_id(name))
    if shipped:
        manifest = read_manifest(shipped, kinds=(CT,))
    else:
        content = manifest_content(indexed_collection(name))
        manifest = as_manifest(content, f"collection {name!r}", kinds=(CT,))
    if not (is_any_licence or SHAREABLE.fullmatch(manifest.licence)):
        raise InputError(
            f"{manifest.collection}: its licence is {manifest.licence}, expected CC BY or CC0: weights that are "
            f"trained on it may not be shared for any use. Read {manifest.licence_url}, and fetch it by --any-licence "
            f"where your use is allowed."
        )
    return manifest


def manifest_content(collection: IndexedCollection) -> dict[str, Any]:
    """What a manifest's file holds of a collection: a CT of each patient by :func:`chosen_ct`, or why there is none."""
    series = defaultdict(list)
    for each in collection.series:
        series[each.patient].append(each)
    content = {name: value for name, value in asdict(collection).items() if name not in ("name", "series", "others")}
    patients, excluded = [], []
    for patient in sorted(series):
        found = chosen_ct(series[patient])
        if isinstance(found, str):
            excluded.append({"patient": patient, "reason": found})
        else:
            ct = {"series": found.name, "modality": "CT", "objects": found.objects, "bytes": found.size}
            patients.append({"patient": patient, CT: ct})
    return {"collection": collection.name, **content, "patients": patients, "excluded": excluded}


def chosen_ct(series: Sequence[IndexedSeries]) -> IndexedSeries | str:
    """
    The CT of a patient that is fetched: of its series of CT images of the chest with :data:`LEAST_SLICES` to
    :data:`MOST_SLICES` slices that with the most; of several the first by Series Instance UID.

    Args:
        series: of one patient, one or more.

    Returns:
        A series, or why there is none: a reason that begins with its kind and a colon.
    """
    if not PATIENT.fullmatch(series[0].patient):
        return "no name for a folder: the Patient ID has other signs than letters, digits, - _ and dots"
    left = series
    for check in CHECKS:
        kept = [each for each in left if check.passes(each)]
        if not kept:
            found = ", ".join(sorted({check.found(each) for each in left}))
            return f"{check.kind}: {found}, expected {check.expected}"
        left = kept
    return min(left, key=lambda each: (-each.objects, each.uid))


@dataclass(frozen=True)
class Check:
    """
    What a series has to be.

    Args:
        kind: of the reason why one is not.
        expected: in words.
        found: what a message says of a series.
        passes: whether a series is that.
    """

    kind: str
    expected: str
    found: Callable[[IndexedSeries], str]
    passes: Callable[[IndexedSeries], bool]


CHECKS = (
    Check("no CT images", SLICES, lambda each: each.kind or "no SOP class", lambda each: each.kind == SLICES),
    Check(
        "no CT of the chest",
        "a Body Part Examined of CHEST, LUNG or THORAX",
        lambda each: each.body_part or "none said",
        lambda each: CHEST.fullmatch(each.body_part) is not None,
    ),
    Check(
        "too few slices",
        f"at least {LEAST_SLICES}",
        lambda each: str(each.objects),
        lambda each: each.objects >= LEAST_SLICES,
    ),
    Check(
        "too many slices",
        f"at most {MOST_SLICES}",
        lambda each: str(each.objects),
        lambda each: each.objects <= MOST_SLICES and each.size <= MAX_SERIES_BYTES,
    ),
)
"""In this order; what does not pass one is not looked at by the next."""


def passed_over(manifest: Manifest, patients: Sequence[Patient]) -> list[dict[str, str]]:
    """The patients without a CT that come before the last of those chosen, each with its reason."""
    whole = len(patients) == len(manifest.patients)
    return [entry for entry in manifest.excluded if whole or entry["patient"] < patients[-1].name]


def write_collection_manifest(name: str, path: Path) -> IndexedCollection:
    """
    Writes a manifest of a collection, a line for each patient, from the index of Imaging Data Commons.

    Raises:
        InputError: as :func:`~scripts.data.idc_index.indexed_collection` does.
        OutputError: when it cannot be written.
    """
    collection = indexed_collection(name)
    write_text(str(path), _as_lines(manifest_content(collection)))
    return collection


def _as_lines(content: dict[str, Any]) -> str:
    """JSON with a line for each field and each entry of a list, so that two versions can be compared."""
    rows = []
    for name, value in content.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            entries = [f"        {json.dumps(entry, ensure_ascii=False)}" for entry in value]
            text = "[\n" + ",\n".join(entries) + "\n    ]"
        rows.append(f"    {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(rows) + "\n}\n"
