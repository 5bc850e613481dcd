"""Cases of which an evaluation makes several samples each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset

from ..data.datalist import RADIOGRAPH_FIELDS
from ..io.radiograph import XRAY_KEYS


class RepeatedCases(Dataset):
    """
    Base of the datasets that have several samples of a case, one after the other. A case is loaded once for all of
    them, by the process that comes to it. X-rays are projected from the CT also where a record has radiographs, which
    nobody can acquire again.

    Args:
        data: records, see :func:`~scripts.load_records`.
        transform: loads a record.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable) -> None:
        of_radiographs = (*XRAY_KEYS, *RADIOGRAPH_FIELDS)
        cts = [{key: value for key, value in record.items() if key not in of_radiographs} for record in data]
        super().__init__(cts, transform)
        self.loaded: tuple[int, dict[str, Any]] | None = None

    def case(self, number: int) -> dict[str, Any]:
        """The loaded record of a case."""
        if self.loaded is None or self.loaded[0] != number:
            self.loaded = number, super().__getitem__(number)
        return self.loaded[1]
