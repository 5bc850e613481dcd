"""What a sender is answered when an object is not taken: the statuses of C-STORE (PS3.4 B.2.3)."""

from __future__ import annotations

OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
"""Error: the data set does not match the SOP class."""
CANNOT_UNDERSTAND = 0xC000


class Refused(Exception):
    """
    An object is not taken.

    Args:
        status: of the answer.
        reason: a sentence of at most 64 characters (Error Comment, LO) without a value of the object.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
