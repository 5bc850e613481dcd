"""
Errors that a user can act on. Each message names the record or file, the field, what was found and what to do. This
module needs Python alone, so that the launcher reads it as well.
"""

from __future__ import annotations

import re


class BundleError(Exception):
    """
    The kind that all of these are; anything else is a bug. Its message is safe for a terminal, see :func:`shown`; line
    breaks stay, for the lines that PyTorch puts around the error of a loading process.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(shown(line) for line in str(message).split("\n")))

    def __init_subclass__(cls, **options: object) -> None:
        """
        In a traceback the error is called `BundleError.InputError`, whatever its module, so that :func:`message_in`
        finds it where its text is all that is left: of another process, or of one that loads data.
        """
        super().__init_subclass__(**options)
        cls.__qualname__ = f"{BundleError.__name__}.{cls.__name__}"
        setattr(BundleError, cls.__name__, cls)  # where pickle looks for that name


class InputError(BundleError, ValueError):
    """A file, a record or a tensor is not what the bundle can work with."""


class OutputError(BundleError, OSError):
    """A result cannot be written."""


class CheckpointError(BundleError, RuntimeError):
    """A checkpoint is missing, or is not the one that this stage needs."""


class DivergenceError(BundleError, RuntimeError):
    """Training has come to values that are not finite."""


class PretrainedWeightsError(BundleError, RuntimeError):
    """The pretrained weights of a loss network cannot be had."""


def shown(foreign: object) -> str:
    """
    A name, a path or a value of a stranger's file as a message may have it: one line, in which whatever moves a cursor,
    colours a terminal, turns the direction of writing or is no character stands as an escape such as `\\x1b`.
    """
    text = str(foreign)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def one_line_message(error: BaseException) -> str:
    """What an error of another package says, in one line; its type when it says nothing."""
    return shown(" ".join(str(error).split())) or type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """
    The :class:`BundleError` among the causes of an error, which MONAI wraps in others; else the first of the chain.
    """
    while not isinstance(error, BundleError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return error


def reason_of(error: BaseException) -> str:
    """One line of what went wrong, as a table and a terminal may have it: of a bug its type as well."""
    cause = root_cause(error)
    said = one_line_message(cause)
    return said if isinstance(cause, BundleError) else f"{type(cause).__name__}: {said}"


NEXT = r"Traceback |The above exception |During handling of "
"""How what follows a message in a chain begins; torchrun's processes print no empty line before it."""
MESSAGE = re.compile(
    rf"^(?:\w+\.)*{BundleError.__name__}\.\w+: (?!Caught \w+ in )(.+(?:\n(?!{NEXT})\S.*)*)", re.MULTILINE
)
"""PyTorch raises the error of a loading process again, its traceback behind "Caught ... in"."""


def message_in(traceback: str) -> str | None:
    """The message of the first :class:`BundleError` in the text of a chain of tracebacks; None where there is none."""
    found = MESSAGE.search(traceback)
    return found[1].strip() if found else None
