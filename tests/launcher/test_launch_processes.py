"""What the launcher's processes are: where and with how many threads they compute, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle_runs import ROOT, cause_of, read_configs, write_random_weights
from launch_fixtures import command, installed, lines, option_of, pair_options, places  # noqa: F401  fixtures
from launcher import demo, loading, workflows
from launcher.computing import Computing
from launcher.failures import Ended
from launcher.processes import ENDING_SIGNALS, run
from scripts import InputError
from scripts.io.shared_overlay import shared_part
from scripts.training.cores import available_cores
from unwritable import on_posix

LAUNCHER = """
import argparse, pathlib, sys
sys.path.insert(0, {root!r})
import launch
from launcher.processes import run
verb = lambda arguments: run([sys.executable, "-c", {child!r}], "child", error_log={log})
launch.environments.install = lambda for_development: None
launch.parse_arguments = lambda description: argparse.Namespace(verb=verb, verbs=[])
sys.exit(launch.main())
"""
"""The launcher itself, with a verb of its own that runs one child."""
CHILD = """
import pathlib, signal, subprocess, sys, time
folder = pathlib.Path({folder!r})
def end(number, frame):
    time.sleep(0.5)
    (folder / "ended").write_text(str(number))
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, end)
deaf = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; print(flush=True); time.sleep(60)"
grandchild = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
grandchild.stdout.readline()
(folder / "grandchild").write_text(str(grandchild.pid))
(folder / "started").write_text("")
while not (folder / "go_on").exists():
    time.sleep(0.02)
grandchild.kill()
(folder / "finished").write_text("")
"""
"""Ends by a signal after half a second and a file, and has a child that heeds no signal."""


def wait_for(done: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not come in time"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """One that has ended and is not waited for does not count."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, encoding="utf-8").stdout.strip()
    return bool(state) and not state.startswith("Z")


def started(folder: Path, log: Path | None = None, **options) -> subprocess.Popen:
    """A launcher whose child is running."""
    code = LAUNCHER.format(
        root=str(ROOT),
        child=CHILD.format(folder=str(folder)),
        log=None if log is None else f"pathlib.Path({str(log)!r})",
    )

    def heed_signals() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    options = {"preexec_fn": heed_signals, "stderr": subprocess.PIPE, "encoding": "utf-8", **options}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    wait_for((folder / "started").exists)
    return process


@on_posix
@pytest.mark.parametrize("with_log", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_what_ends_the_launcher_ends_all_that_it_has_started(tmp_path: Path, name: str, with_log: bool):
    """The child gets the signal and the time to end in its own way; nothing is left behind."""
    number = getattr(signal, name)
    process = started(tmp_path, tmp_path / "error.log" if with_log else None)
    process.send_signal(number)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert message == f"\nlaunch.py: ended by {name}.\n"
    assert (tmp_path / "ended").read_text() == str(int(number))
    assert not (tmp_path / "finished").exists()
    grandchild = int((tmp_path / "grandchild").read_text())
    wait_for(lambda: not is_running(grandchild))


@on_posix
def test_a_signal_that_the_launcher_was_told_to_ignore_ends_nothing(tmp_path: Path):
    """As under `nohup`, whose point is that a terminal's end is not that of the training."""
    process = started(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and not (tmp_path / "ended").exists()
    (tmp_path / "go_on").touch()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "finished").exists()


@on_posix
def test_a_signal_that_comes_while_a_child_is_started_ends_it_too(monkeypatch: pytest.MonkeyPatch):
    start, children = subprocess.Popen, []

    def start_under_a_signal(*arguments, **options) -> subprocess.Popen:
        children.append(start(*arguments, **options))
        os.kill(os.getpid(), signal.SIGTERM)
        return children[0]

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(subprocess, "Popen", start_under_a_signal)
    with pytest.raises(Ended):
        run([sys.executable, "-c", "import time; time.sleep(60)"], "child")
    assert children[0].poll() == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@on_posix
def test_a_child_that_ends_by_itself_leaves_the_handlers_as_they_were():
    before = [signal.getsignal(number) for number in ENDING_SIGNALS]
    assert run([sys.executable, "-c", "raise SystemExit(3)"], "child") == 3
    assert [signal.getsignal(number) for number in ENDING_SIGNALS] == before


NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def threads_of_child(computing: Computing, capfd: pytest.CaptureFixture) -> list[str]:
    """What a child finds of threads in its environment."""
    code = f"import os; print('found', *[os.environ[name] for name in {NAMES}])"
    assert run([sys.executable, "-c", code], "child", computing=computing) == 0
    return capfd.readouterr().out.split("found ")[1].split()


def test_threads_are_as_many_as_cores_and_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch, capfd):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert threads_of_child(Computing(), capfd) == [str(available_cores()), "PASSIVE"]
    assert threads_of_child(Computing(gpus=2), capfd) == [str(max(1, available_cores() // 2)), "PASSIVE"]
    assert threads_of_child(Computing(gpus=1000), capfd) == ["1", "PASSIVE"]


def test_what_a_user_has_set_of_threads_stays_and_an_option_comes_before_it(monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert threads_of_child(Computing(), capfd) == ["7", "ACTIVE"]
    assert threads_of_child(Computing(threads=3, gpus=2), capfd) == ["3", "ACTIVE"]


def test_pytorch_computes_with_the_threads_that_were_asked_for(monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", str(available_cores()))
    code = "import torch; print('found', torch.get_num_threads())"
    assert run([sys.executable, "-c", code], "child", computing=Computing(threads=1)) == 0
    assert capfd.readouterr().out.split("found ")[1] == "1\n"


RADIOGRAPHS = ["--frontal", "a.png", "--lateral", "b.png"]
COMPUTING = [
    ["demo", "--no-train"],
    ["demo", "--train"],
    ["train", "--stage", "2", "--tiny"],
    ["infer", *RADIOGRAPHS],
    ["evaluate", "--dataset_dir", "data"],
]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the verbs read and print of runs that have done nothing; the current folder has it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "model.pt"):
        Path(name).touch()
    Path("metrics.json").write_text('{"summary": [], "worst_cases": []}')
    monkeypatch.setattr(places, "WEIGHTS", tmp_path / "model.pt")
    monkeypatch.setattr(demo, "show_case", lambda output: None)


@on_posix
@pytest.mark.parametrize("arguments", COMPUTING)
def test_every_line_of_a_verb_that_computes_has_the_device(command, lines, results, arguments: list[str], tmp_path):
    weights = ["--weights", tmp_path / "model.pt"] if arguments[0] in ("infer", "evaluate") else []
    assert command(*arguments, *weights, "--output", tmp_path) == 0
    before = lines()
    assert before and not any("--device" in line for line in before)
    assert command(*arguments, *weights, "--output", tmp_path, "--device", "meta") == 0
    chosen = [option_of(line, "device") for line in lines()[len(before) :]]
    assert len(chosen) == len(before)
    for value in set(chosen):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            read_configs(["bundle/configs/inference.json"], device=value).get_parsed_content("device")
        assert cause_of(caught.value, InputError).startswith("device: meta is to compute")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "paint it"], "--device 'paint it': expected a name such as cpu, cuda, cuda:1, mps or xpu."),
        (["--device", "cuda'); print('"], "expected a name such as cpu, cuda, cuda:1, mps or xpu."),
        (["--threads", "0"], "--threads 0: expected a number of at least 1."),
        (["--gpus", "2", "--device", "cuda:1"], "--device cuda:1: expected cuda or cpu with --gpus 2"),
    ],
)
def test_where_nothing_can_be_computed_is_refused_before_any_work(command, lines, options, message, tmp_path, capfd):
    assert command("train", "--output", tmp_path / "output", *options) == 1
    error = capfd.readouterr().err
    assert error.startswith("\nlaunch.py: error: --") and message in error and "Traceback" not in error
    assert not lines() and not (tmp_path / "output").exists()


@pytest.fixture
def inference(dataset: Path, overlay: Path, tmp_path: Path) -> list[str | Path]:
    """The arguments of an inference by random weights at small sizes."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "overlay.json").write_text(json.dumps(shared_part(json.loads(overlay.read_text()))))
    weights = write_random_weights(tmp_path / "weights" / "model.pt", tmp_path / "weights" / "overlay.json")
    return ["infer", *pair_options(dataset), "--weights", weights, "--output", tmp_path / "output"]


def test_a_device_that_is_not_there_ends_a_verb_with_one_sentence(command, inference, capfd, tmp_path):
    assert command(*inference, "--device", "cuda:99") == 1
    error = capfd.readouterr().err
    assert re.search(r"^launch.py: error: device: .*cuda:99.* expected cpu", error, re.M) and "Traceback" not in error
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


WAITING = "import sys, time; time.sleep(0.5); print('heard', file=sys.stderr); time.sleep(0.5)"


def test_seconds_are_counted_until_a_process_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd):
    monkeypatch.setattr(loading, "SECONDS_BETWEEN", 0.1)
    assert run([sys.executable, "-c", WAITING], "child", error_log=tmp_path / "error.log", loads="all") == 0
    output = capfd.readouterr()
    before, after = output.err.split("heard\n")
    assert output.out == "\n$ child\nLoading all ...\n"
    assert re.fullmatch(r"(\.\.\. \d s\n)+", before) and not after


def test_a_process_says_when_it_has_loaded_where_the_launcher_waits(capfd):
    file = ROOT / "bundle" / "scripts" / "training" / "loading.py"
    code = f"import runpy; runpy.run_path({str(file)!r})['report_loaded']()"
    assert run([sys.executable, "-c", code], "child") == 0
    assert capfd.readouterr().err == ""
    assert run([sys.executable, "-c", code], "child", loads="all") == 0
    assert re.fullmatch(r"Loaded in \d s\.\n", capfd.readouterr().err)


def test_a_config_of_others_is_warned_of_as_monai_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Such a one runs what it likes; the bundle's own, and the numbers next to weights, are silent."""
    (tmp_path / "overlay.json").write_text('{"network_def#tokens": 5}')
    (tmp_path / "mine.json").write_text('{"epochs": 5}')
    assert workflows.is_trusted(places.CONFIGS / "train.json") and workflows.is_trusted(tmp_path / "overlay.json")
    assert not workflows.is_trusted(tmp_path / "mine.json")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert workflows.without_warning_of_configs().endswith(",error")
