"""What the datalists of fetched patients have in common: who is left out, and the table of counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from .datalist import EXCLUDED


def left_out(patient: str, reason: InputError, folder: Path) -> dict[str, str]:
    """The entry of a patient who makes no record; its reason names files from the folder on."""
    return {"patient": patient, "reason": str(reason).replace(f"{folder}/", "")}


def print_counts(counts: Sequence[tuple[str, int]], excluded: Sequence[Mapping[str, str]]) -> None:
    """
    Prints a table of counts.

    Args:
        counts: what is counted, and how many.
        excluded: the patients that are left out, counted by the kind of their reasons, what stands before the colon.
    """
    kinds = Counter(entry["reason"].partition(":")[0] for entry in excluded)
    rows = [
        *counts,
        (f"left out, in the list '{EXCLUDED}'", len(excluded)),
        *((f"  {kind}", n) for kind, n in kinds.most_common()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, count in rows:
        print(f"{name:<{width}}{count:>6}")
