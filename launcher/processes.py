"""Running a command: it is printed as one would type it, has a group of its own, and ends when this process ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from .computing import Computing
from .failures import Ended, LaunchError
from .from_bundle import config_text
from .loading import Loading
from .places import ROOT
from .tracebacks import log_traceback, message_of, pass_on

ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
SECONDS_TO_END = 40
"""How long a process may take to end by itself; torchrun allows its own 30."""


def run(
    command: list[str],
    shown_as: str,
    error_log: Path | None = None,
    folder: Path = ROOT,
    computing: Computing = Computing(),
    loads: str = "",
    further: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """
    Runs a command from a folder, by default the repository root, its output passed on; its exit status.

    Args:
        command: the program and its arguments.
        shown_as: how the line is printed, such as by `config_text.as_typed`.
        error_log: where a Python traceback goes; without it, it is passed on too.
        folder: where the command is run.
        computing: decides the threads.
        loads: packages that it imports first, for which it may need a minute; said until it is heard of.
        further: environment variables.

    Raises:
        LaunchError: with the message at the end of a traceback that has gone to the log.
    """
    print(f"\n$ {shown_as}", flush=True)
    loading = Loading(loads, is_heard=error_log is not None)
    environment = {**computing.environment(), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    environment |= {**loading.environment(), **further}
    stderr = None if error_log is None else subprocess.PIPE
    with loading, child(command, cwd=folder, env=environment, stderr=stderr) as process:
        traceback = "" if error_log is None else pass_on(process.stderr, loading.end)
        status = process.wait()
    if status == 0:
        sys.stderr.write(traceback)
    elif traceback:
        raise LaunchError(f"{message_of(traceback)}\n({log_traceback(error_log, traceback)})")
    return status


def launch_line(*arguments: str | int | Path) -> str:
    """A line that runs `launch.py` with these arguments when it is pasted into this shell."""
    python = next(filter(shutil.which, ("python", "python3")), sys.executable)
    script = "launch.py" if Path.cwd() == ROOT else str(ROOT / "launch.py")
    return config_text.as_typed([python, script, *map(str, arguments)])


@contextmanager
def child(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """
    A process with a group of its own. Whatever ends this one before it ends the group first. On Windows, where the
    console sends Ctrl+C to both, the process alone is ended.
    """
    with ending_signals() as received:
        process = subprocess.Popen(command, start_new_session=os.name == "posix", **options)
        try:
            received.is_raised = True
            if received.numbers:
                raise Ended(received.numbers[0])
            yield process
        except BaseException as error:
            end_group(process, error.number if isinstance(error, Ended) else signal.SIGTERM)
            raise


class Received:
    """The signals to end that have come; raised as :class:`Ended` once there is a process to end."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.is_raised = False

    def __call__(self, number: int, frame: object) -> None:
        self.numbers.append(number)
        if self.is_raised:
            raise Ended(number)


@contextmanager
def ending_signals() -> Iterator[Received]:
    """Holds the signals that would end this process at once, save those that it ignores, as under `nohup`."""
    received = Received()
    earlier = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    heeded = {number: handler for number, handler in earlier.items() if handler != signal.SIG_IGN}
    try:
        for number in heeded:
            signal.signal(number, received)
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def end_group(process: subprocess.Popen, number: int) -> None:
    """Asks a process and all that it has started to end by a signal, and makes them after a while."""
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    send_to_group(process, number)
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        pass
    send_to_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def send_to_group(process: subprocess.Popen, number: int) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()
    except ProcessLookupError:
        return
