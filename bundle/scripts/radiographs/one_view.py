"""One radiograph where a pair is usual: how a record says so, what its pictures say of it, and what it does not get."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

from ..io.radiograph import XRAY_KEYS

ONLY_KEY = "only"
"""Field of a record: the X-ray that is given alone, "frontal" or "lateral"; empty where both are."""


def only_of(record: Mapping[Hashable, Any]) -> str | None:
    """The X-ray that a record has alone; None where it has both."""
    return record.get(ONLY_KEY) or None


def note_of(only: str | None) -> str:
    """What the pictures of a reconstruction say of it; "" where it is of both views."""
    return f"One view: of the {only} X-ray alone. Depth along its rays is a guess." if only else ""


def is_without(record: Mapping[Hashable, Any], what: str) -> bool:
    """
    Whether a record has one X-ray alone, and so does not get what rests on pairs: `what`, in words.

    Warns:
        UserWarning: when it does not.
    """
    only = only_of(record)
    if only is None:
        return False
    other = next(key for key in XRAY_KEYS if key != only)
    warnings.warn(
        f"field '{other}': there is no such radiograph, expected both for {what}: what is known of that is known of "
        f"pairs. The reconstruction is without.",
        stacklevel=3,
    )
    return True
