from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundle_runs import ROOT
from scripts import OutputError
from scripts.io.folder_lock import LOCK, hold_folder, leave_folder
from small_training import left, training
from unwritable import on_posix

HOLDER = (
    "import sys; from scripts.io.folder_lock import *; hold_folder(sys.argv[1]); print(flush=True); sys.stdin.read()"
)
FORKING = (
    "import os, sys, time; from scripts.io.folder_lock import *; hold_folder(sys.argv[1]); "
    "child = os.fork() or (os.close(0), os.close(1), time.sleep(30), os._exit(0)); print(child, flush=True); "
    "sys.stdin.read()"
)
TRAINING = """
import sys, time
sys.path[:0] = [{tests!r}, {bundle!r}]
from pathlib import Path
from ignite.engine import Events
from small_training import training
trainer = training(Path(sys.argv[1]))
trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda: (print(flush=True), sys.stdin.read()))
trainer.run()
"""
"""A training whose second epoch, of four steps each, waits until its input ends."""


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process with a folder and waits for its first line; ends it after the test."""
    processes = []

    def start(code: str, folder: Path) -> subprocess.Popen:
        line = [sys.executable, "-c", code, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        processes.append(subprocess.Popen(line, cwd=ROOT / "bundle", **pipes))
        processes[-1].first_line = processes[-1].stdout.readline()
        return processes[-1]

    yield start
    for each in processes:
        each.kill()
        each.communicate()


@pytest.fixture(autouse=True)
def nothing_held(tmp_path: Path) -> Iterator[None]:
    yield
    leave_folder(str(tmp_path))


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(process, tmp_path: Path):
    other = process(HOLDER, tmp_path)
    by = f"in use by process {other.pid} on {re.escape(socket.gethostname())}\\. Wait for its end"
    for _ in range(2):
        with pytest.raises(OutputError, match=f"^{re.escape(str(tmp_path))}: is {by}"):
            hold_folder(str(tmp_path))
    other.communicate("")
    hold_folder(str(tmp_path))
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


@on_posix
def test_what_a_killed_process_has_left_is_taken_over(process, tmp_path: Path):
    other = process(HOLDER, tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert str(other.pid) in (tmp_path / LOCK).read_text()
    hold_folder(str(tmp_path))
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


@on_posix
def test_a_process_that_the_holder_has_forked_does_not_keep_the_folder_after_its_end(process, tmp_path: Path):
    """As the workers of a loader, which notice a while later that their training was killed."""
    other = process(FORKING, tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    forked = int(other.first_line)
    os.kill(forked, 0)
    try:
        hold_folder(str(tmp_path))
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_folder_that_is_given_back_is_free(process, tmp_path: Path):
    hold_folder(str(tmp_path))
    hold_folder(str(tmp_path / "."))
    leave_folder(str(tmp_path))
    assert (tmp_path / LOCK).read_bytes() == b""
    other = process(HOLDER, tmp_path)
    with pytest.raises(OutputError, match=f"process {other.pid} "):
        hold_folder(str(tmp_path))


@on_posix
def test_a_link_in_its_place_leads_to_no_file_that_is_emptied(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    hold_folder(str(tmp_path))
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / LOCK).is_symlink()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"taken/resume/in_use\.lock: cannot be written .*choose another"):
        hold_folder(str(tmp_path / "taken" / "resume"))


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_goes_on(process, tmp_path: Path):
    code = TRAINING.format(tests=str(ROOT / "tests"), bundle=str(ROOT / "bundle"))
    first = process(code, tmp_path / "shared")
    before = left(tmp_path / "shared")
    with pytest.raises(OutputError, match=f"resume: is in use by process {first.pid} on "):
        training(tmp_path / "shared").run()
    assert left(tmp_path / "shared") == before and len(before) == 2
    first.communicate("")
    assert first.returncode == 0
    training(tmp_path / "alone").run()
    assert left(tmp_path / "shared") == left(tmp_path / "alone")


@on_posix
def test_a_training_goes_on_in_the_folder_of_one_that_was_killed(process, tmp_path: Path):
    code = TRAINING.format(tests=str(ROOT / "tests"), bundle=str(ROOT / "bundle"))
    first = process(code, tmp_path / "shared")
    first.send_signal(signal.SIGKILL)
    first.wait()
    training(tmp_path / "shared").run()
    training(tmp_path / "alone").run()
    assert left(tmp_path / "shared") == left(tmp_path / "alone")
