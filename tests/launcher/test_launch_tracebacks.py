"""What becomes of a process's stderr: progress is seen as it comes, a traceback is a log and one message."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import launch_fixtures  # noqa: F401  puts the launcher on the path
from launcher.failures import LaunchError
from launcher.processes import run
from launcher.tracebacks import message_of, pass_on
from scripts import CheckpointError, InputError


def run_python(code: str, error_log: Path) -> int:
    return run([sys.executable, "-c", code], shown_as="python", error_log=error_log)


def test_progress_is_passed_on_to_the_last_byte(capfdbinary, tmp_path: Path):
    progress = b"\rStage 1: 10 %\rStage 1: 100 %\nTrace of a line\r\x1b[KTraceback (most"
    assert run_python(f"import sys; sys.stderr.buffer.write({progress!r})", tmp_path / "error.log") == 0
    assert capfdbinary.readouterr().err == progress
    assert not (tmp_path / "error.log").exists()


def test_progress_is_passed_on_as_it_comes(monkeypatch: pytest.MonkeyPatch):
    """A bar that has not reached its end of line is seen while the process still runs."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown))
    wait = "import sys; sys.stderr.write('\\r 50 %'); sys.stderr.flush(); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    reader = threading.Thread(target=pass_on, args=(process.stderr, lambda: None))
    reader.start()
    deadline = time.monotonic() + 30
    while not shown.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = shown.getvalue()
    process.communicate()
    reader.join()
    assert seen == b"\r 50 %"


def test_a_traceback_goes_to_the_log_and_its_message_becomes_the_error(capfd, tmp_path: Path):
    code = "import sys; print('before', file=sys.stderr); raise ValueError('what went wrong')"
    with pytest.raises(LaunchError) as caught:
        run_python(code, tmp_path / "new" / "error.log")
    log = tmp_path / "new" / "error.log"
    assert str(caught.value) == f"ValueError: what went wrong\n(The whole traceback is in {log}.)"
    assert log.read_text().startswith("Traceback (most recent call last)")
    assert capfd.readouterr().err == "before\n"


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path):
    """As on a full disk or in a read-only folder, where the error itself is that a result could not be written."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LaunchError, match="^ValueError: what went wrong\n.The whole traceback could not be"):
        run_python("raise ValueError('what went wrong')", tmp_path / "taken" / "error.log")


def test_the_error_of_one_of_several_processes_is_told_without_its_number(capfd, tmp_path: Path):
    chain = "Traceback (most recent call last):\n  File 'a.py', line 1\nMemoryError: out of memory\n\nTraceback\n"
    numbered = "".join(f"[rank1]: {line}\n" for line in chain.splitlines())
    code = f"import sys; sys.stderr.write('Stage 1\\r' + {numbered!r}); sys.exit(1)"
    with pytest.raises(LaunchError, match="^MemoryError: out of memory\n"):
        run_python(code, tmp_path / "error.log")
    assert capfd.readouterr().err == "Stage 1\r"


def test_the_bundles_error_is_found_in_whichever_process_it_was(tmp_path: Path):
    """Whose lines may come among those of others, without the empty ones, and before what torchrun has to say."""
    lost = ["Traceback (most recent call last):", '  File "a.py", line 1', "RuntimeError: the other process has ended"]
    own = [*lost[:2], "a.b.BundleError.InputError: one.png: broken.", "Mend it."]
    own += ["The above exception was the direct cause of the following exception:", *lost]
    mixed = [f"[rank{rank}]: {line}" for lines in zip(lost, own) for rank, line in enumerate(lines)]
    mixed += [f"[rank1]: {line}" for line in own[len(lost) :]]
    assert message_of("\n".join([*mixed, "E1127 failed (exitcode: 1)", *lost])) == "one.png: broken.\nMend it."


def test_a_traceback_of_a_run_that_succeeds_is_shown_and_no_error(capfd, tmp_path: Path):
    code = "import sys, traceback\ntry: 1 / 0\nexcept Exception: traceback.print_exc()\nprint('on', file=sys.stderr)"
    assert run_python(code, tmp_path / "error.log") == 0
    assert "ZeroDivisionError: division by zero\non\n" in capfd.readouterr().err
    assert not (tmp_path / "error.log").exists()


def test_a_status_without_a_traceback_is_handed_back(tmp_path: Path):
    assert run_python("raise SystemExit(7)", tmp_path / "error.log") == 7
    assert not (tmp_path / "error.log").exists()


class Broken(Dataset):
    """A dataset that no item can be had of."""

    def __init__(self, is_wrapped: bool) -> None:
        self.is_wrapped = is_wrapped

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        try:
            raise InputError("radiograph.png: field 'frontal' holds 1 NaN or infinite values, expected none.")
        except InputError as error:
            if not self.is_wrapped:
                raise
            raise RuntimeError("applying transform") from error


def fail(chain: str) -> None:
    if chain.startswith("worker"):
        list(DataLoader(Broken(chain == "worker, wrapped"), num_workers=1))
    try:
        if chain == "cause":
            raise FileNotFoundError("errno 2")
        raise InputError("radiograph.png: field 'frontal' holds 1 NaN or infinite values, expected none.")
    except FileNotFoundError as error:
        raise CheckpointError("stage1_best.pth: no such checkpoint.\nIt is made by: a command") from error
    except InputError as error:
        raise RuntimeError('Failed to evaluate ConfigExpression:\n"$@evaluator.run()"') from error


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ("wrapped", "radiograph.png: field 'frontal' holds 1 NaN or infinite values, expected none."),
        ("worker, wrapped", "radiograph.png: field 'frontal' holds 1 NaN or infinite values, expected none."),
        ("worker", "radiograph.png: field 'frontal' holds 1 NaN or infinite values, expected none."),
        ("cause", "stage1_best.pth: no such checkpoint.\nIt is made by: a command"),
    ],
)
def test_the_bundles_own_error_is_found_in_a_chain(chain: str, message: str):
    with pytest.raises(Exception) as caught:
        fail(chain)
    text = "".join(traceback.format_exception(caught.value))
    assert message_of(text[text.index("Traceback") :]) == message


def test_another_error_is_told_by_the_first_of_its_chain():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise MemoryError("out of memory")
        except MemoryError as error:
            raise RuntimeError('Failed to evaluate ConfigExpression:\n"$@train#trainer.run()"') from error
    text = "".join(traceback.format_exception(caught.value))
    assert message_of(text) == "MemoryError: out of memory"
    assert message_of(text + "\n=======\nthe end of torchrun\n=======\n") == "MemoryError: out of memory"
