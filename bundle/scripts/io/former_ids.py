"""
Config ids and record fields of version 0.3 that have other names now. The former ones are read until version 0.5, with
a warning; one that is given next to its successor is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from .radiograph import DISPLAY_ORIENTATION
from .shared_overlay import FORMER_IDS, renaming


def with_present_fields(record: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """
    A record under the present names of its fields.

    Args:
        record: of a datalist.
        where: start of each message.

    Raises:
        InputError: when a field is there under both names.

    Warns:
        FutureWarning: when a field has its former name.
    """
    for former in FORMER_IDS.keys() & record.keys():
        now = FORMER_IDS[former]
        if now in record:
            raise InputError(f"{where}: has the fields {renaming(former)}, expected '{now}' alone.")
        warnings.warn(f"{where}: field {renaming(former)} has its former name; rename it.", FutureWarning, stacklevel=3)
    return {FORMER_IDS.get(field, field): value for field, value in record.items()}


def radiograph_scale(present: str | None, former: str | None) -> str | None:
    """The value of the config id `radiograph_scale`, or else of the former one, `film_scale`; None where neither is."""
    return present if former is None else _of_former("film_scale", former, is_alone=present is None)


def radiograph_orientation(
    present: Mapping[str, Sequence[str]], former: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """As :func:`radiograph_scale`, of `radiograph_orientation` and `film_orientation`, which is empty by default."""
    if not former:
        return present
    is_default = {plane: tuple(letters) for plane, letters in present.items()} == DISPLAY_ORIENTATION
    return _of_former("film_orientation", {**DISPLAY_ORIENTATION, **former}, is_alone=is_default)


def _of_former(former: str, value: Any, is_alone: bool) -> Any:
    if not is_alone:
        raise InputError(f"The configuration has the ids {renaming(former)}, expected '{FORMER_IDS[former]}' alone.")
    warnings.warn(f"The config id {renaming(former)} has its former name; rename it.", FutureWarning, stacklevel=3)
    return value
