"""Parts of a section's records, each for a process of its own that knows nothing of the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """
    One of some parts into which items are dealt out, one to each in turn.

    Args:
        number: from 1 to `count`.
        count: of the parts.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def of_text(cls, text: str | None) -> Shard:
        """
        Of a text such as "2/8", the second of eight; None for the whole.

        Raises:
            InputError: when it is none.
        """
        if text is None:
            return cls()
        found = SHARD.fullmatch(str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(
                f"shard {text!r}: expected a number from 1 and how many there are, such as 1/8 to 8/8; a Slurm array "
                f"counts so with --array=1-8."
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[Any]) -> list[Any]:
        """This part of the items."""
        return list(items[self.number - 1 :: self.count])

    def place(self, index: int) -> int:
        """Where an item of this part stands among all, both from 0."""
        return index * self.count + self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard()


def dealt_back(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """
    All items in their order, of every part in turn: what :meth:`Shard.of`, or a sampler of several processes, has dealt
    out.
    """
    return [part[turn] for turn in range(len(parts[0])) for part in parts if turn < len(part)]
