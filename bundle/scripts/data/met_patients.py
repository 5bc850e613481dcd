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
LIDC = re.compile(r"lidc_(\d{4})\.nii(\.gz)?")
"""What this project calls LIDC-IDRI's CTs: lidc_0001 is LIDC-IDRI-0001, see docs/data_license.txt."""


def met_patients(files: tuple[Path, ...] = (MODEL_TRAINING, SPLIT)) -> dict[str, str]:
    """
    The section of each patient of LIDC-IDRI, such as "training" of "LIDC-IDRI-0001".

    Args:
        files: datalists; a missing one is passed over, as weights that are not there have met nobody.

    Raises:
        InputError: when one cannot be read.
    """
    met: dict[str, str] = {}
    for file in filter(Path.exists, files):
        content = read_datalist(str(file))
        for section in MET:
            for record in content.get(section, []):
                if name := _patient(record):
                    met.setdefault(name, section)
    return met


def _patient(record: Mapping[str, str]) -> str | None:
    found = LIDC.fullmatch(record["ct"])
    return f"LIDC-IDRI-{found[1]}" if found and record.get("collection") == "LIDC-IDRI" else None
