"""The cases whose last stage scores lowest by PSNR."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import isnan
from typing import Any

from ..io.atomic_write import remove_earlier


def worst_cases(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Case, group, size and PSNR of the cases that the last stage reconstructs worst, the worst first."""
    last = max((row["size"], row["method"]) for row in rows if row["method"].startswith("stage"))
    chosen = [row for row in rows if (row["size"], row["method"]) == last]
    return [
        {key: row[key] for key in ("case", "group", "size", "psnr_db")}
        for row in sorted(chosen, key=lambda row: badness(row["psnr_db"]))[:count]
    ]


class WorstCases:
    """
    Keeps the folders of the worst cases so far. A case that is one of them is written at once, and the folder of the
    one whose place it takes is removed: no volume waits in memory for the end of the run.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: list[tuple[float, str]] = []

    def consider(self, psnr_db: float, folder: str, write: Callable[[], None]) -> None:
        """Calls `write` when the case of this folder is one of the worst; of equal cases the first stays."""
        ranked = sorted([*self.kept, (psnr_db, folder)], key=lambda case: badness(case[0]))
        self.kept, dropped = ranked[: self.count], ranked[self.count :]
        if (psnr_db, folder) in self.kept:
            write()
        for _, other in dropped:
            if other != folder:
                remove_earlier(other)

    def keep_only(self, folders: Collection[str]) -> None:
        """Removes the other folders: what is worst among the cases of this process need not be so among all."""
        for entry in [entry for entry in self.kept if entry[1] not in folders]:
            self.kept.remove(entry)
            remove_earlier(entry[1])


def badness(psnr_db: float) -> float:
    """What cases are sorted by, the worst first: a volume with NaN is worse than any other."""
    return float("-inf") if isnan(psnr_db) else psnr_db
