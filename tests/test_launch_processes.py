"""What the launcher does with processes, devices and names: real processes, real signals, real files."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from bundle_runs import ROOT

sys.path.insert(0, str(ROOT))
import launch  # noqa: E402

CHILD = """
import os, signal, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def end(number, frame):
    open(sys.argv[1] + ".ended", "w").write(str(number))
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, end if sys.argv[2] == "polite" else signal.SIG_IGN)
open(sys.argv[1], "w").write(f"{os.getpid()} {grandchild.pid}")
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def launched(tmp_path: Path):
    """A launcher that runs a process with a child of its own; the launcher, and the pids of the two."""
    started = []

    def start(kind: str) -> tuple[subprocess.Popen, list[int]]:
        main = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import launch
        launch.SECONDS_TO_END = 1
        launch.check_arguments = lambda arguments: None
        launch.install = lambda **wanted: None
        line = [sys.executable, "-c", {CHILD!r}, {str(tmp_path / 'pids')!r}, {kind!r}]
        verb = lambda arguments: launch.run(line, shown_as="child")
        launch.parse_arguments = lambda: type("Arguments", (), {{"verb": staticmethod(verb)}})
        sys.exit(launch.main())
        """
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(main)], stderr=subprocess.PIPE, text=True)
        started.append(process)
        wait_for(lambda: (tmp_path / "pids").is_file() and len((tmp_path / "pids").read_text().split()) == 2)
        return process, [int(pid) for pid in (tmp_path / "pids").read_text().split()]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_the_launcher_ends_all_that_it_has_started(launched, tmp_path: Path, name: str):
    process, pids = launched("polite")
    number = getattr(signal, name)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"launch.py: ended by {name}." in told and "Traceback" not in told
    assert (tmp_path / "pids.ended").read_text() == str(int(number))
    wait_for(lambda: not any(map(is_running, pids)))


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
def test_what_does_not_end_by_itself_is_made_to(launched):
    process, pids = launched("deaf")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    wait_for(lambda: not any(map(is_running, pids)))


def printed_by(code: str, capfd, **options) -> str:
    assert launch.run([sys.executable, "-c", code], shown_as="python", **options) == 0
    return capfd.readouterr().out


def test_processes_share_the_cores_and_their_threads_sleep_while_they_wait(capfd, monkeypatch: pytest.MonkeyPatch):
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'])"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert printed_by(code, capfd).split()[-2:] == [str(cores), "PASSIVE"]
    assert printed_by(code, capfd, processes=2 * cores).split()[-2:] == ["1", "PASSIVE"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert printed_by(code, capfd).split()[-2] == "7"
    monkeypatch.setitem(launch.COMPUTING, "threads", 3)
    assert printed_by(code, capfd).split()[-2] == "3"


def command(*line: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "launch.py", *map(str, line)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["train", "--output", "run#1"], "'#'"),
        (["evaluate", "--dataset_dir", "a#b"], "--dataset_dir"),
        (["train", "--output", "a\nWrote b"], "cannot be printed"),
        (["train", "--output", "a\x1b[31m"], "cannot be printed"),
        (["train", "--gpus", "0"], "--gpus 0"),
        (["train", "--gpus", "100000"], "--gpus 100000"),
        (["train", "--threads", "0"], "--threads 0"),
        (["train", "--device", "cuda; rm"], "--device"),
        (["train", "--device", "$exit(3)"], "--device"),
        (["label", "--studies", ".", "--port", "-1"], "--port -1"),
        (["label", "--studies", ".", "--port", "99999"], "--port 99999"),
    ],
)
def test_what_would_be_read_otherwise_or_fail_later_is_refused_before_any_work(line: list[str], told: str):
    run = command(*line)
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("\nlaunch.py: error: ") and told in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["demo", "train", "infer", "evaluate", "label"])
def test_every_verb_that_computes_takes_a_device_and_threads(verb: str):
    told = command(verb, "--help").stdout
    assert "--device NAME" in told and "--threads N" in told


@pytest.mark.parametrize("device", ["cuda:63", "mps:9", "nothing"])
def test_a_device_that_is_not_there_is_one_clear_error(dataset: Path, tmp_path: Path, device: str):
    films = [f"--{view}={dataset / f'phantom_6_{view}.nii.gz'}" for view in ("frontal", "lateral")]
    run = command("infer", *films, "--output", tmp_path, "--device", device)
    assert run.returncode == 1
    assert "launch.py: error: device: " in run.stderr and device.split(":")[0] in run.stderr
    assert "Traceback" not in run.stderr


def test_the_device_is_an_override_of_the_printed_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lines = []
    monkeypatch.setattr(launch, "run", lambda command, **options: lines.append(options["shown_as"]) or 0)
    monkeypatch.setitem(launch.COMPUTING, "device", "cuda:1")
    launch.bundle("run", [Path("a.json")], tmp_path)
    words = shlex.split(lines[0])
    assert words[words.index("--device") + 1] == "$scripts.devices.choose_device('cuda:1')"


# Files


def test_an_earlier_log_does_not_lie_beside_good_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "error.log").write_text("of an earlier run")
    monkeypatch.setattr(launch, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(launch, "run", lambda *arguments, **options: 0)
    launch.bundle("run", [Path("a.json")], tmp_path)
    assert not (tmp_path / "error.log").exists()


def test_a_log_is_not_written_through_a_link(tmp_path: Path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "error.log").symlink_to(mine)
    with pytest.raises(launch.LaunchError, match="ValueError: wrong"):
        launch.run([sys.executable, "-c", "raise ValueError('wrong')"], "python", error_log=tmp_path / "error.log")
    assert mine.read_text() == "mine"
    assert "Traceback" in (tmp_path / "error.log").read_text() and not (tmp_path / "error.log").is_symlink()


def test_what_lies_beside_weights_is_not_run(tmp_path: Path):
    marker = tmp_path / "was_run"
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "overlay.json").write_text(json.dumps({"xray_scale": f"$open({str(marker)!r}, 'w').close() or 8.0"}))
    for line in (["evaluate", "--dataset_dir", tmp_path], ["infer", "--frontal", __file__, "--lateral", __file__]):
        run = command(*line, "--weights", tmp_path / "model.pt", "--output", tmp_path / "out")
        assert run.returncode == 1 and "overlay.json: id 'xray_scale'" in run.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "is_checked"), [({}, True), ({"vgg": 0}, False), ({"vgg_weights": "untrained"}, False), ({"epochs": 1}, True)]
)
def test_what_the_later_stages_need_is_looked_for_before_the_first(monkeypatch, tmp_path: Path, content, is_checked):
    overlay, ran = tmp_path / "overlay.json", []
    overlay.write_text(json.dumps(content))
    monkeypatch.setattr(launch, "bundle", lambda workflow, configs, *arguments, **places: ran.append((workflow, configs)))
    launch.train_stages([1, 2, 3], tmp_path, tmp_path / "output", overlay)
    assert [workflow for workflow, _ in ran] == ["check"] * is_checked + ["training"] * 3
    ran.clear()
    launch.train_stages([1], tmp_path, tmp_path / "output", overlay)
    assert [workflow for workflow, _ in ran] == ["training"]


def test_weights_that_cannot_be_had_are_missed_before_stage_1_trains(dataset: Path, overlay: Path, tmp_path: Path):
    chosen = tmp_path / "chosen.json"
    content = {**json.loads(overlay.read_text()), "vgg_weights": str(tmp_path / "nowhere.pth")}
    chosen.write_text(json.dumps(content))
    run = command("train", "--dataset_dir", dataset, "--output", tmp_path / "out", "--overlay", chosen)
    assert run.returncode == 1 and "nowhere.pth" in run.stderr
    assert "=== Stage 1 ===" not in run.stdout
