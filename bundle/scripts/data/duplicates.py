"""Duplicates in a datalist, and leakage of a patient between its sections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..io.dicom_headers import patient_id
from .datalist import IMAGE_FIELDS


class Duplicates:
    """Remembers the records of a datalist, and tells what a further one has in common with them."""

    def __init__(self) -> None:
        self.cts: dict[str, str] = {}
        self.patients: dict[str, tuple[str, str]] = {}

    def told(self, section: str, place: str, record: Mapping[str, Any], ct: Any) -> Iterator[str]:
        """
        One sentence for a CT that was there already, by the values that training reads from it, be the file another,
        and one for a patient of another section, by the Patient ID of the DICOM files.

        Args:
            section: of the record.
            place: of the record, such as "training[3]".
            record: with whole paths.
            ct: the record's CT as training reads it, an array.
        """
        first = self.cts.setdefault(hashlib.sha256(np.ascontiguousarray(ct)).hexdigest(), place)
        if first != place:
            yield f"{record['ct']}: field 'ct' is the CT of {first} as well, expected each CT once; leave one out."
        for field in IMAGE_FIELDS:
            patient = patient_id(record.get(field))
            other, where = self.patients.setdefault(patient, (section, place)) if patient else (section, place)
            if other != section and first == place:
                yield (
                    f"{record[field]}: field '{field}' is of patient {patient} (Patient ID), as is {where}, expected a "
                    f"patient in one section alone; move one record."
                )
                return
