"""Foreign text in a configuration. This module needs Python alone, so that the launcher reads it as well."""

from __future__ import annotations

SIGNS = "#@%$"
"""MONAI's parser runs what starts with `$`, and takes `#` for a step between ids, `@` and `%` for references."""


def as_literal(text: str) -> str:
    """
    A text as a configuration has to hold it to have the same letters when it is parsed: the expression of a Python
    text, in which :data:`SIGNS` are escapes, such as `$'run\\x231'` for `run#1`.
    """
    return "$" + "".join(f"\\x{ord(letter):02x}" if letter in SIGNS else letter for letter in repr(text))
