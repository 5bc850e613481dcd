"""What ends the launcher early."""

from __future__ import annotations


class LaunchError(Exception):
    """What went wrong, in one message for the user."""


class Ended(BaseException):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
