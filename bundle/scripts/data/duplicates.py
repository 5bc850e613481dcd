"""Duplicates in a datalist, and leakage of a patient between its sections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..io.dicom_headers import patient_id
from .datalist import IMAGE_FIELDS


class Duplicates:
    """Remembers the records of a datalist, and says what a further one has in common with them."""

    def __init__(self) -> None:
        self.cts: dict[str, str] = {}
        self.patients: dict[str, tuple[str, str]] = {}

    def messages(self, section: str, place: str, record: Mapping[str, Any], ct: Any) -> Iterator[str]:
        """
        One sentence for a duplicate, a CT with the values of an earlier one as training reads them, be the file
        another, and one for leakage, a patient who is in another section too, by the Patient ID of the DICOM files.

        Args:
            section: of the record.
            place: of the record, such as "training[3]".
            record: with whole paths.
            ct: the record's CT as training reads it, an array.
        """
        first = self.cts.setdefault(hashlib.sha256(np.ascontiguousarray(ct)).hexdigest(), place)
        if first != place:
            yield f"{record['ct']}: field 'ct' is a duplicate of the CT of {first}, expected each CT once; remove one."
        for field in IMAGE_FIELDS:
            patient = patient_id(record.get(field))
            other, where = self.patients.setdefault(patient, (section, place)) if patient else (section, place)
            if other != section and first == place:
                yield (
                    f"{record[field]}: field '{field}' is of patient {patient} (Patient ID), as is {where}, expected a "
                    f"patient in one section alone; move one record."
                )
                return
