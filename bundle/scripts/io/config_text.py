"""
Foreign text in a configuration and on a command line. This module needs Python alone, so that the launcher reads it as
well.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

SIGNS = "#@%$"
"""MONAI's parser runs what starts with `$`, and takes `#` for a step between ids, `@` and `%` for references."""


def as_literal(text: str) -> str:
    """
    A text as a configuration has to hold it to have the same letters when it is parsed: the expression of a Python
    text, in which :data:`SIGNS` are escapes, such as `$'run\\x231'` for `run#1`.
    """
    return "$" + "".join(f"\\x{ord(letter):02x}" if letter in SIGNS else letter for letter in repr(text))


def as_typed(command: Sequence[str]) -> str:
    """A command as one would type it in a shell, a list of config files in double quotes."""
    plain = [part.startswith("['") and not set(part) & set('"$`\\') for part in command]
    return " ".join(f'"{part}"' if is_plain else shlex.quote(part) for part, is_plain in zip(command, plain))
