"""Patients of a public collection whom the bundle's weights have met, and who can be no test of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .datalist import read_datalist

BUNDLE = Path(__file__).resolve().parents[2]
MODEL_TRAINING, SPLIT = BUNDLE / "models" / "model_training.json", BUNDLE / "configs" / "split.json"
"""What the shipped weights have met, and what this project's next ones will."""
MET = ("training", "validation")
"""Sections by which weights are made and chosen."""
NAMED = {
    "LIDC-IDRI": (r"lidc_(\d{4})", "LIDC-IDRI-{}"),
    "Lung-PET-CT-Dx": (r"lungdx_([A-Z]\d{4})_s\d+", "Lung_Dx-{}"),
    "4D-Lung": (r"fourdlung_(\d+)_(hm\d+)", "{}_{}"),
    "CMB-CRC": (r"cmb_crc_(msb)_(\d+)", "{}-{}"),
    "NSCLC Radiogenomics": (r"nsclcrg_(r\d+)_(\d+)", "{}-{}"),
    "TCGA-THCA": (r"(tcga)_(\w{2})_(\w{4})", "{}-{}-{}"),
}
"""What this project calls the CTs of collections, and their Patient IDs; see docs/data_license.txt."""


def met_patients(collection: str = "LIDC-IDRI", files: tuple[Path, ...] = (MODEL_TRAINING, SPLIT)) -> dict[str, str]:
    """
    The section of each patient of a collection, such as "training" of "LIDC-IDRI-0001".

    Args:
        collection: its name; of one that is not in :data:`NAMED` nobody has been met.
        files: datalists; a missing one is passed over, as weights that are not there have met nobody.

    Raises:
        InputError: when one cannot be read.
    """
    met: dict[str, str] = {}
    for file in filter(Path.exists, files):
        content = read_datalist(str(file))
        for section in MET:
            for record in content.get(section, []):
                if record.get("collection") == collection and (name := public_patient(record)):
                    met.setdefault(name, section)
    return met


def public_patient(record: Mapping[str, str]) -> str | None:
    """The Patient ID in a record's collection, told by its CT's file name; None where that is not this project's."""
    pattern, name = NAMED.get(record.get("collection", ""), (r"(?!)", ""))
    found = re.fullmatch(rf"{pattern}\.nii(\.gz)?", Path(record["ct"]).name)
    return name.format(*(group.upper() for group in found.groups() if group)) if found else None
