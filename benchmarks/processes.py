"""Work in processes of its own that ends in time: a command with all that it has started, and a function's results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from traceback import format_exc
from typing import Any

GRACE = 10.0
"""Seconds between asking processes to end and ending them."""


class Stopped(Exception):
    """This process was asked to end."""


class TimeUp(Stopped):
    """Something took longer than it may."""


class WorkFailed(Exception):
    """What went wrong in another process: its traceback, or what became of it."""


def run_until(command: Sequence[str], end: float, **options: Any) -> int:
    """
    Runs a command to its end, or to the end of the time. Its process group is stopped in any case: nothing of it stays.

    Args:
        command: as for `subprocess.Popen`, and so are `options`.
        end: `time.monotonic()` at which it is stopped.

    Returns:
        Its exit status.

    Raises:
        TimeUp: when it was stopped.
    """
    process = subprocess.Popen(command, preexec_fn=os.setpgrp, **options)
    try:
        return process.wait(max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired as error:
        raise TimeUp from error
    finally:
        _stop_group(process)


@contextmanager
def asked_to_end() -> Iterator[None]:
    """Within it, SIGTERM and Ctrl-C are :class:`Stopped`."""

    def stop(*_: Any) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Worker:
    """
    A process that runs functions one after the other, since starting one takes seconds. One that has failed, or was too
    slow, is not used again: the next call starts another, whose GPU is as nobody has left it.
    """

    def __init__(self) -> None:
        self.process: multiprocessing.process.BaseProcess | None = None
        self.calls: Connection | None = None

    def call(self, function: Callable[..., Any], seconds: float, **arguments: Any) -> Any:
        """
        What a module's function returns.

        Raises:
            WorkFailed: when it raises, when its process dies, or when it takes longer than `seconds`.
        """
        if self.process is None:
            self._start()
        try:
            self.calls.send((function, arguments))
            if not self.calls.poll(seconds):
                raise WorkFailed(f"took longer than the {seconds:.0f} s that were left")
            result, failure = self.calls.recv()
            if failure is not None:
                raise WorkFailed(failure)
            return result
        except (EOFError, OSError) as error:
            self.process.join()
            status = self.process.exitcode
            self.close()
            raise WorkFailed(f"its process ended with status {status}") from error
        except WorkFailed:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.calls.close()
            self.process = self.calls = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a GPU that the parent has looked at does not survive a fork
        self.calls, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()


def _serve(calls: Connection) -> None:
    """Answers calls with a result and None, or None and a traceback, until the other side is gone."""
    while True:
        try:
            function, arguments = calls.recv()
        except EOFError:
            return
        try:
            calls.send((function(**arguments), None))
        except Exception:  # whatever a measurement dies of is its result
            calls.send((None, format_exc()))


def _stop_group(process: subprocess.Popen) -> None:
    """Asks a process and all that it has started to end, then ends what is left; waits for it."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        end = time.monotonic() + patience
        try:
            os.killpg(process.pid, number)
            while time.monotonic() < end:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            break
    process.wait()
