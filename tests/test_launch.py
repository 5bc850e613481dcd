from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from bundle_runs import ROOT
from conftest import Trained
from phantoms import phantom
from scripts import CheckpointError, InputError
from scripts.half_precision import write_half_precision
from scripts.io.image_writer import cube_affine, write_ct
from scripts.io.shared_overlay import shared_part
from unwritable import full_disk, on_posix

SOURCE = ROOT / "launch.py"
TINY = ROOT / "bundle" / "configs" / "tiny.json"


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The launcher, whose environment is the one that runs the tests."""
    specification = importlib.util.spec_from_file_location("launch", SOURCE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / "environment")
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "installed-requirements.sha256").write_text(checksums(module))
    monkeypatch.setattr(module, "install_label", lambda: None)
    return module


def checksums(launch: ModuleType) -> str:
    """The content of the file that says which requirements are installed, in the form of `sha256sum`."""
    files = (launch.REQUIREMENTS, launch.REQUIREMENTS_DEMO, launch.REQUIREMENTS_PEERS)
    return "".join(f"{launch.hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


@pytest.fixture
def command(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `launch.py` with these arguments in this process; gives its exit status."""

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["launch.py", *map(str, arguments)])
        return launch.main()

    return run


@pytest.fixture
def weights(trained: Trained, overlay: Path, tmp_path: Path) -> Path:
    """The trained cascade with its overlay config beside it, as a training run leaves them."""
    (tmp_path / "overlay.json").write_text(json.dumps(shared_part(json.loads(overlay.read_text()))))
    return Path(shutil.copyfile(trained.folder / "stage3_best.pth", tmp_path / "stage3_best.pth"))


def test_it_needs_nothing_but_python():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 10))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("arguments", "verb", "expected"),
    [
        (["demo"], "demo", {"output": ROOT / "output" / "demo", "train": None}),
        (["demo", "--train"], "demo", {"train": True}),
        (["demo", "--no-train"], "demo", {"train": False}),
        (["train"], "train", {"stage": "all", "gpus": 1, "overlay": None, "dataset_dir": None}),
        (["train", "--stage", "2", "--gpus", "4", "--tiny"], "train", {"stage": "2", "gpus": 4, "overlay": TINY}),
        (["train", "--overlay", "a.json"], "train", {"overlay": Path.cwd() / "a.json"}),
        (["infer", "--frontal", "a", "--lateral", "b", "--output", "c"], "infer", {"frontal": Path.cwd() / "a"}),
        (
            ["infer", "--frontal", "a", "--lateral", "b", "--output", "c", "--dicom", "--copy-patient"],
            "infer",
            {"dicom": True, "copy_patient": True},
        ),
        (["infer", "--frontal", "a", "--lateral", "b", "--output", "c", "--uncertainty"], "infer", {"uncertainty": True}),
        (["evaluate", "--dataset_dir", "d"], "evaluate", {"weights": ROOT / "bundle" / "models" / "model.pt"}),
        (["evaluate", "--dataset_dir", "d", "--gpus", "2"], "evaluate", {"gpus": 2}),
        (
            ["evaluate", "--dataset_dir", "d", "--datalist", "f", "--section", "validation"],
            "evaluate",
            {"datalist": Path.cwd() / "f", "section": "validation", "robustness": False},
        ),
        (
            ["evaluate", "--dataset_dir", "d", "--robustness", "--stop_after", "1"],
            "evaluate",
            {"datalist": None, "section": "test", "robustness": True, "stop_after": 1},
        ),
        (["datalist", "d"], "datalist", {"dataset_dir": Path.cwd() / "d", "check": False, "overwrite": False}),
        (["datalist", "d", "--check"], "datalist", {"check": True}),
        (["package", "--output", "d"], "package", {"output": Path.cwd() / "d", "without_weights": False}),
        (["package", "--output", "d", "--large-files-url", "u"], "package", {"large_files_url": "u"}),
        (["label", "--studies", "d"], "label", {"studies": Path.cwd() / "d", "host": "127.0.0.1", "port": 8000}),
        (["test"], "test", {"pytest": []}),
        (["test", "-k", "words", "tests/test_files.py"], "test", {"pytest": ["-k", "words", "tests/test_files.py"]}),
    ],
)
def test_arguments(launch: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments, verb: str, expected: dict):
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])
    found = launch.parse_arguments()
    launch.check_arguments(found)
    assert found.verb is getattr(launch, verb)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["train", "--stage", "4"],
        ["infer", "--frontal", "a"],
        ["evaluate"],
        ["evaluate", "--dataset_dir", "d", "--section", "training"],
        ["evaluate", "--dataset_dir", "d", "--protocol", "lpips"],
        ["evaluate", "--dataset_dir", "d", "--protocol", "x2ct", "--robustness"],
        ["demo", "-k"],
        ["demo", "--train", "--no-train"],
        ["train", "--tiny", "--overlay", "a.json"],
        ["datalist"],
        ["package"],
        ["datalist", "d", "--check", "--overwrite"],
        ["label"],
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_work(command, arguments: list[str], capfd):
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capfd.readouterr().err


@pytest.mark.parametrize("with_peers", [False, True])
def test_a_second_install_does_nothing(launch: ModuleType, with_peers: bool, capfd):
    before = sorted(launch.ENVIRONMENT.rglob("*"))
    launch.install(with_peers)
    assert sorted(launch.ENVIRONMENT.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def marker(launch: ModuleType) -> Path:
    return launch.ENVIRONMENT / "installed-requirements.sha256"


@pytest.fixture
def pip_calls(launch: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], list[str]]:
    """Installs, with a Python that ends with the given status, and gives pip's arguments of all calls so far."""
    if os.name == "nt":
        pytest.skip("the stand-in for Python is a shell script")
    monkeypatch.setattr(launch, "PYTHON", tmp_path / "python")

    def calls(status: int = 0, with_peers: bool = False) -> list[str]:
        launch.PYTHON.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit {status}\n')
        launch.PYTHON.chmod(0o755)
        launch.install(with_peers)
        lines = (tmp_path / "calls").read_text().splitlines()
        return [line.split("--disable-pip-version-check ")[1] for line in lines]

    return calls


def test_changed_requirements_are_installed_once(launch: ModuleType, marker: Path, pip_calls):
    marker.write_text("of another version\n")
    expected = ["-r requirements.txt", "--no-deps -r requirements-demo.txt"]
    assert pip_calls() == expected
    assert pip_calls() == expected


def test_only_the_file_that_has_changed_is_installed_again(launch: ModuleType, marker: Path, pip_calls):
    marker.write_text(checksums(launch).replace(checksums(launch)[:8], "00000000", 1))
    assert pip_calls(with_peers=True) == ["-r requirements.txt"]
    assert sorted(marker.read_text().splitlines()) == sorted(checksums(launch).splitlines())


def test_the_peers_are_installed_for_the_tests_alone(launch: ModuleType, monkeypatch, tmp_path, marker, pip_calls):
    marker.write_text("of another version\n")
    assert not any("peers" in call for call in pip_calls())
    assert pip_calls(with_peers=True)[2:] == ["--no-deps -r requirements-peers.txt"]


def test_each_verb_installs_what_it_needs(launch: ModuleType, command, monkeypatch: pytest.MonkeyPatch):
    wanted = []
    monkeypatch.setattr(launch, "install", lambda with_peers: wanted.append("peers" if with_peers else "bundle"))
    monkeypatch.setattr(launch, "install_label", lambda: wanted.append("label"))
    for verb, *options in (["train"], ["label", "--studies", "d"], ["test", "--without-label"], ["test"]):
        monkeypatch.setattr(launch, verb, lambda arguments: None)
        command(verb, *options)
    assert wanted == ["bundle", "bundle", "label", "peers", "peers", "label"]


def test_label_installs_the_bundles_requirements_held_to_its_own(launch: ModuleType, monkeypatch, tmp_path: Path):
    calls, files = [], [launch.REQUIREMENTS, launch.REQUIREMENTS_LABEL, launch.REQUIREMENTS_LABEL_SERVER]
    monkeypatch.setattr(launch, "pip_install", lambda python, arguments: calls.append(arguments))
    monkeypatch.setattr(launch, "make_environment", lambda folder, python, over: folder.mkdir())
    launch.install_into(tmp_path / "label", tmp_path / "label" / "python", launch.requirements_of_label())
    own, server = "monailabel_app/requirements.txt", "monailabel_app/requirements-server.txt"
    held = "--no-warn-conflicts"
    assert calls == [[held, "-c", own, "-r", "requirements.txt"], [held, "-r", own], ["--no-deps", "-r", server]]
    lines = (tmp_path / "label" / "installed-requirements.sha256").read_text().splitlines()
    assert lines == [launch.checksum(file) for file in files]


def test_an_environment_over_another_finds_its_own_packages_first(launch: ModuleType, tmp_path: Path):
    """What only the lower one has is imported from there; pip takes it for installed, and installs over it alone."""
    python = tmp_path / "upper" / launch.PYTHON.relative_to(launch.PYTHON.parents[1])
    launch.make_environment(tmp_path / "upper", python, over=launch.PYTHON)
    own = launch.packages_of(python)
    assert own.is_relative_to(tmp_path / "upper")
    (own / "tqdm.py").write_text("")
    found = "import torch, tqdm; print(torch.__file__); print(tqdm.__file__)"
    files = subprocess.check_output([python, "-c", found], encoding="utf-8").split()
    assert files == [torch.__file__, str(own / "tqdm.py")]
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format", "freeze"], encoding="utf-8")
    assert f"torch=={version('torch')}" in listed


@on_posix
def test_of_an_environment_that_cannot_be_made_nothing_is_left(launch: ModuleType, tmp_path: Path):
    maker = tmp_path / "python"
    maker.write_text('#!/bin/sh\nmkdir -p "$3/bin"; exit 1\n')
    maker.chmod(0o755)
    with pytest.raises(launch.LaunchError, match="environment could not be made"):
        launch.make_environment(tmp_path / "environment", tmp_path / "environment" / "bin" / "python", over=maker)
    assert not (tmp_path / "environment").exists()


def test_label_refuses_studies_that_are_no_folder_and_prints_the_line_it_runs(
    launch: ModuleType, command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd
):
    assert command("label", "--studies", tmp_path / "nowhere") == 1
    assert capfd.readouterr().err == f"\nlaunch.py: error: --studies {tmp_path}/nowhere: no such folder.\n"
    monkeypatch.setattr(launch, "LABEL_PYTHON", ROOT / ".venv-label" / "bin" / "python")
    start, nothing = subprocess.Popen, [sys.executable, "-c", ""]
    monkeypatch.setattr(launch.subprocess, "Popen", lambda line, **options: start(nothing, **options))
    assert command("label", "--studies", tmp_path, "--weights", tmp_path / "model.pt", "--port", "81") == 0
    told, line = capfd.readouterr().out.strip().split("\n\n$ ")
    assert told.startswith(f"{tmp_path}/model.pt: no such weights.")
    expected = [".venv-label/bin/python", "-m", "monailabel.main", "start_server", "--app", "monailabel_app"]
    expected += ["--studies", str(tmp_path), "--conf", "weights", f"{tmp_path}/model.pt"]
    expected += ["--host", "127.0.0.1", "--port", "81", "--uvicorn_app", "monailabel_app.server:app"]
    assert shlex.split(line) == expected


def test_a_failed_install_is_not_taken_for_done(launch: ModuleType, marker: Path, pip_calls):
    marker.write_text("of another version\n")
    with pytest.raises(launch.LaunchError, match="could not be installed"):
        pip_calls(status=1)
    assert marker.read_text() == "of another version\n"


def run_python(launch: ModuleType, code: str, error_log: Path) -> int:
    return launch.run([sys.executable, "-c", code], shown_as="python", error_log=error_log)


def test_progress_is_passed_on_to_the_last_byte(launch: ModuleType, capfdbinary, tmp_path: Path):
    progress = b"\rStage 1: 10 %\rStage 1: 100 %\nTrace of a line\r\x1b[KTraceback (most"
    assert run_python(launch, f"import sys; sys.stderr.buffer.write({progress!r})", tmp_path / "error.log") == 0
    assert capfdbinary.readouterr().err == progress
    assert not (tmp_path / "error.log").exists()


def test_progress_is_passed_on_as_it_comes(launch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """A bar that has not reached its end of line is seen while the process still runs."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown))
    wait = "import sys; sys.stderr.write('\\r 50 %'); sys.stderr.flush(); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    reader = threading.Thread(target=launch.pass_on, args=(process,))
    reader.start()
    deadline = time.monotonic() + 30
    while not shown.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = shown.getvalue()
    process.communicate()
    reader.join()
    assert seen == b"\r 50 %"


def test_a_traceback_goes_to_the_log_and_its_message_becomes_the_error(launch: ModuleType, capfd, tmp_path: Path):
    code = "import sys; print('before', file=sys.stderr); raise ValueError('what went wrong')"
    with pytest.raises(launch.LaunchError) as caught:
        run_python(launch, code, tmp_path / "new" / "error.log")
    log = tmp_path / "new" / "error.log"
    assert str(caught.value) == f"ValueError: what went wrong\n(The whole traceback is in {log}.)"
    assert log.read_text().startswith("Traceback (most recent call last)")
    assert capfd.readouterr().err == "before\n"


def test_a_log_that_cannot_be_written_does_not_hide_the_error(launch: ModuleType, tmp_path: Path):
    """As on a full disk or in a read-only folder, where the error itself is that a result could not be written."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(launch.LaunchError, match="^ValueError: what went wrong\n.The whole traceback could not be"):
        run_python(launch, "raise ValueError('what went wrong')", tmp_path / "taken" / "error.log")


@on_posix
def test_a_full_disk_ends_infer_with_one_error_that_names_the_file(command, weights, dataset: Path, tmp_path: Path, capfd):
    films = [part for view in ("frontal", "lateral") for part in (f"--{view}", dataset / f"phantom_6_{view}.nii.gz")]
    with full_disk(4096):
        assert command("infer", *films, "--weights", weights, "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err.split("launch.py: error: ")[1]
    assert error.startswith(f"{tmp_path}/output/ct.nii.gz: cannot be written (File too large); free the place or choose")
    assert "Traceback" not in error
    assert {path.name for path in (tmp_path / "output").iterdir()} <= {"error.log"}


def test_the_error_of_one_of_several_processes_is_told_without_its_number(launch: ModuleType, capfd, tmp_path: Path):
    chain = "Traceback (most recent call last):\n  File 'a.py', line 1\nMemoryError: out of memory\n\nTraceback\n"
    numbered = "".join(f"[rank1]: {line}\n" for line in chain.splitlines())
    code = f"import sys; sys.stderr.write('Stage 1\\r' + {numbered!r}); sys.exit(1)"
    with pytest.raises(launch.LaunchError, match="^MemoryError: out of memory\n"):
        run_python(launch, code, tmp_path / "error.log")
    assert capfd.readouterr().err == "Stage 1\r"


def test_a_traceback_of_a_run_that_succeeds_is_shown_and_no_error(launch: ModuleType, capfd, tmp_path: Path):
    code = "import sys, traceback\ntry: 1 / 0\nexcept Exception: traceback.print_exc()\nprint('on', file=sys.stderr)"
    assert run_python(launch, code, tmp_path / "error.log") == 0
    assert "ZeroDivisionError: division by zero\non\n" in capfd.readouterr().err
    assert not (tmp_path / "error.log").exists()


def test_a_status_without_a_traceback_is_handed_back(launch: ModuleType, tmp_path: Path):
    assert run_python(launch, "raise SystemExit(7)", tmp_path / "error.log") == 7
    assert not (tmp_path / "error.log").exists()


class Broken(Dataset):
    """A dataset that no item can be had of."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        try:
            raise InputError("film.png: field 'frontal' holds 1 NaN or infinite values, expected none.")
        except InputError as error:
            raise RuntimeError("applying transform") from error


def fail(chain: str) -> None:
    if chain == "worker":
        list(DataLoader(Broken(), num_workers=1))
    try:
        if chain == "cause":
            raise FileNotFoundError("errno 2")
        raise InputError("film.png: field 'frontal' holds 1 NaN or infinite values, expected none.")
    except FileNotFoundError as error:
        raise CheckpointError("stage1_best.pth: no such checkpoint.\nIt is made by: a command") from error
    except InputError as error:
        raise RuntimeError("Failed to evaluate ConfigExpression:\n\"$@evaluator.run()\"") from error


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ("wrapped", "film.png: field 'frontal' holds 1 NaN or infinite values, expected none."),
        ("worker", "film.png: field 'frontal' holds 1 NaN or infinite values, expected none."),
        ("cause", "stage1_best.pth: no such checkpoint.\nIt is made by: a command"),
    ],
)
def test_the_bundles_own_error_is_found_in_a_chain(launch: ModuleType, chain: str, message: str):
    with pytest.raises(Exception) as caught:
        fail(chain)
    text = "".join(traceback.format_exception(caught.value))
    assert launch.message_of(text[text.index("Traceback") :]) == message


def test_another_error_is_told_by_the_first_of_its_chain(launch: ModuleType):
    with pytest.raises(RuntimeError) as caught:
        try:
            raise MemoryError("out of memory")
        except MemoryError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression:\n\"$@train#trainer.run()\"") from error
    text = "".join(traceback.format_exception(caught.value))
    assert launch.message_of(text) == "MemoryError: out of memory"
    assert launch.message_of(text + "\n=======\nthe end of torchrun\n=======\n") == "MemoryError: out of memory"


def test_the_printed_line_is_read_by_a_shell_as_the_line_that_runs(launch: ModuleType):
    for line in (
        ["python", "-m", "monai.bundle", "--config_file", "['a.json', 'b.json']", "--output_dir", "/tmp/a b"],
        ["python", "--config_file", "['a.json', \"it's.json\"]"],
        ["python", "--config_file", "['$HOME.json', '`a`.json']"],
    ):
        assert shlex.split(launch.shown(line)) == line
    assert launch.shown(["--config_file", "['a.json']"]) == "--config_file \"['a.json']\""


@pytest.mark.parametrize("given", ["frontal", "lateral"])
def test_films_that_are_no_files_are_refused_at_once(command, weights, dataset, tmp_path: Path, given: str, capfd):
    films = {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}
    films[given] = tmp_path / "nowhere.png"
    options = [part for view, path in films.items() for part in (f"--{view}", path)]
    assert command("infer", *options, "--weights", weights, "--output", tmp_path / "output") == 1
    output = capfd.readouterr()
    assert output.err == f"\nlaunch.py: error: --{given} {tmp_path}/nowhere.png: no such file.\n"
    assert "$ python" not in output.out
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("verb", ["infer", "evaluate"])
def test_missing_weights_are_refused_at_once_with_the_command_that_makes_them(command, dataset, tmp_path, verb, capfd):
    films = ["--frontal", dataset / "phantom_6_frontal.nii.gz", "--lateral", dataset / "phantom_6_lateral.nii.gz"]
    own = films if verb == "infer" else ["--dataset_dir", dataset]
    assert command(verb, *own, "--weights", tmp_path / "nowhere.pth", "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"\nlaunch.py: error: {tmp_path}/nowhere.pth: no such weights.")
    assert "python launch.py train" in error
    assert not (tmp_path / "output").exists()


def test_an_output_that_is_a_file_is_one_clear_error(command, dataset: Path, tmp_path: Path, capfd):
    (tmp_path / "taken").write_text("a file")
    assert command("train", "--dataset_dir", dataset, "--output", tmp_path / "taken") == 1
    error = capfd.readouterr().err
    assert error.startswith("\nlaunch.py: error: ")
    assert str(tmp_path / "taken") in error
    assert (tmp_path / "taken").read_text() == "a file"


SIZES = '{"network_def#tokens": 5}'


@pytest.mark.parametrize(("before", "options"), [(SIZES, []), (SIZES, ["--tiny"]), (None, ["--tiny"])])
def test_a_training_of_other_sizes_is_not_begun_over_one_that_can_go_on(
    command, dataset: Path, tmp_path: Path, before: str | None, options: list[str], capfd
):
    (tmp_path / "resume").mkdir()
    if before:
        (tmp_path / "overlay.json").write_text(before)
    assert command("train", "--dataset_dir", dataset, "--output", tmp_path, *options) == 1
    output = capfd.readouterr()
    assert f"{tmp_path} holds a training with " in output.err and "Choose another --output" in output.err
    assert "$ python" not in output.out
    assert [path.read_text() for path in tmp_path.glob("*.json")] == ([before] if before else [])


@pytest.fixture
def lines(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict]]:
    """What trainings `monai.bundle run` would be called with, configs and overrides; nothing is run."""
    called = []

    def take(workflow: str, configs: list[Path], output: Path, gpus: int = 1, **overrides) -> None:
        if workflow != "check":
            called.append(([config.name for config in configs], overrides))

    monkeypatch.setattr(launch, "bundle", take)
    return called


def test_an_overlay_of_the_training_alone_leaves_nothing_to_evaluation_and_inference(launch, command, lines, tmp_path):
    """As that of the shipped weights: its datalist and the size of its CTs are not those of what is evaluated."""
    weights, output = launch.CONFIGS / "weights.json", tmp_path / "output"
    overlay = json.loads((ROOT / weights).read_text(encoding="utf-8"))
    assert {"datalist", "volume_size", "augment", "epochs"} <= overlay.keys()
    assert command("train", "--overlay", ROOT / weights, "--dataset_dir", tmp_path, "--output", output) == 0
    assert [names for names, _ in lines] == [
        ["train.json", "weights.json"],
        *(["train.json", f"stage{stage}.json", "weights.json"] for stage in (2, 3)),
    ]
    assert launch.overlay_beside(output / "stage3_best.pth") == []
    shutil.copyfile(ROOT / weights, output / "overlay.json")
    with pytest.raises(launch.LaunchError, match="overlay.json: id 'datalist' is no part"):
        launch.overlay_beside(output / "stage3_best.pth")


def test_of_an_overlay_with_sizes_these_alone_are_left_beside_the_weights(launch, command, lines, tmp_path: Path):
    (tmp_path / "overlay.json").write_text("{}")
    assert command("train", "--tiny", "--dataset_dir", tmp_path, "--output", tmp_path) == 0
    (left,) = launch.overlay_beside(tmp_path / "stage3_best.pth")
    overlay, found = (json.loads(path.read_text(encoding="utf-8")) for path in (TINY, left))
    assert found == {name: overlay[name] for name in overlay if name.startswith(("geometry#", "network_def#"))}
    assert found and "epochs" not in found


def test_a_training_goes_on_with_a_schedule_that_is_its_own_to_judge(launch, command, lines, tmp_path: Path):
    """The sizes are compared here; a change of anything else is found, and named, by the training itself."""
    overlay = tmp_path / "mine.json"
    for epochs in (1, 2):
        overlay.write_text(json.dumps({"epochs": epochs, "network_def#tokens": 4}))
        assert command("train", "--overlay", overlay, "--dataset_dir", tmp_path, "--output", tmp_path) == 0
        (tmp_path / "resume").mkdir(exist_ok=True)
    assert len(lines) == 6


@pytest.mark.parametrize("is_finished", [False, True])
def test_what_later_stages_need_is_checked_until_the_first_has_ended(command, lines, tmp_path: Path, is_finished, capfd):
    (tmp_path / "resume").mkdir()
    if is_finished:
        (tmp_path / "resume" / "stage1_finished.json").write_text("{}")
    assert command("train", "--dataset_dir", tmp_path, "--output", tmp_path) == 0
    assert ("=== What the later stages need ===" in capfd.readouterr().out) is not is_finished
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file."),
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object of config ids."),
        ('{"datalist": "split.json"}', "names a datalist: say by --dataset_dir where the files of its records lie."),
    ],
)
def test_an_overlay_that_cannot_be_used_is_refused_at_once(command, lines, tmp_path: Path, content, told: str, capfd):
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    assert command("train", "--overlay", tmp_path / "mine.json", "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"\nlaunch.py: error: {tmp_path}/mine.json") and told in error
    assert not lines and not (tmp_path / "output").exists()


@pytest.fixture
def parts(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which parts of the demo run, and what it asks, in their order; none does its work."""
    done = []
    monkeypatch.setattr(launch, "demo_reconstruction", lambda output: done.append(f"reconstruct {output.name}"))
    monkeypatch.setattr(launch, "demo_training", lambda output: done.append(f"train {'/'.join(output.parts[-2:])}"))
    monkeypatch.setattr("builtins.input", lambda question: done.append("ask") or launch.answer)
    return done


@pytest.mark.parametrize(
    ("shipped", "options", "terminal", "answer", "expected"),
    [
        (True, [], True, "y", ["reconstruct demo", "ask", "train demo/training"]),
        (True, [], True, "", ["reconstruct demo", "ask"]),
        (True, [], True, "n", ["reconstruct demo", "ask"]),
        (True, [], False, "y", ["reconstruct demo"]),
        (True, ["--train"], True, "n", ["reconstruct demo", "train demo/training"]),
        (True, ["--no-train"], True, "y", ["reconstruct demo"]),
        (False, [], False, "n", ["train demo/training"]),
        (False, ["--no-train"], True, "y", []),
    ],
)
def test_the_demo_reconstructs_with_what_ships_and_trains_when_it_may(
    launch, command, parts, monkeypatch, tmp_path, capfd, shipped, options, terminal, answer, expected
):
    monkeypatch.setattr(launch, "WEIGHTS", SOURCE if shipped else tmp_path / "model.pt")
    monkeypatch.setattr(launch, "answer", answer, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    assert command("demo", "--output", tmp_path / "demo", *options) == 0
    assert parts == expected
    told = capfd.readouterr().out
    assert (f"{tmp_path}/model.pt: no such weights" in told) is not shipped
    line = f"python launch.py demo --train --output {tmp_path}/demo"
    assert (line in told) is not any(part.startswith("train") for part in expected)


def test_a_terminal_that_ends_is_no_yes(launch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert launch.agreed() is False


def test_the_demo_scores_the_shipped_weights_on_its_ct_and_says_what_that_shows(
    launch, command, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd
):
    write_half_precision(str(weights), str(tmp_path / "model.pt"))
    monkeypatch.setattr(launch, "WEIGHTS", tmp_path / "model.pt")
    output = tmp_path / "demo"
    assert command("demo", "--no-train", "--output", output) == 0
    told = capfd.readouterr().out
    assert "one of the six that the weights were trained on" in told and "not\ngeneralisation" in told
    assert str(ROOT / "bundle" / "docs" / "README.md") in told and "Research use only" in told
    assert "one of the six that the weights were trained on" in (output / "report.html").read_text(encoding="utf-8")
    cases = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["cases"]
    assert {row["case"] for row in cases} == {"original"}
    truth, found = (nibabel.load(output / f"{name}.nii.gz") for name in ("truth", "stage3"))
    assert found.shape == truth.shape == (64, 64, 64)
    error = np.abs(found.get_fdata() - truth.get_fdata()).mean()
    scored = next(row["mae_hu"] for row in cases if row["method"] == "stage 3")
    assert error == pytest.approx(scored, abs=0.5)  # HU are rounded to whole numbers in the files
    assert {"frontal.nii.gz", "lateral.nii.gz", "report.png", "xrays.png"} <= {path.name for path in output.iterdir()}
    assert not (output / "cases").exists() and not (output / "training").exists()


def test_the_demos_dataset_is_not_written_again_under_a_training(launch: ModuleType, monkeypatch, tmp_path: Path):
    written = []
    monkeypatch.setattr(launch, "bundle", lambda *arguments, **overrides: written.append(overrides["dataset_dir"]))
    tiny = launch.CONFIGS / "tiny.json"
    assert launch.demo_dataset(tmp_path, tiny) == tmp_path / "data"
    assert written == [tmp_path / "data"]
    for folder in ("data", "resume"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "datalist.json").write_text("{}")
    (tmp_path / "overlay.json").write_text(json.dumps(launch.shared_with_inference(ROOT / tiny)))
    assert launch.demo_dataset(tmp_path, tiny) == tmp_path / "data"
    assert written == [tmp_path / "data"]


def test_infer_writes_the_ct_and_prints_its_line(command, weights: Path, dataset: Path, tmp_path: Path, capfd):
    films = {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}
    options = [part for view, path in films.items() for part in (f"--{view}", path)]
    assert command("infer", *options, "--weights", weights, "--output", tmp_path / "a folder") == 0
    assert nibabel.load(tmp_path / "a folder" / "ct.nii.gz").shape == (64, 64, 64)
    assert sorted(path.name for path in (tmp_path / "a folder").iterdir()) == ["ct.nii.gz", "preview.png", "view.html"]
    output = capfd.readouterr().out
    assert "Research use only" in output
    lines = [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("$ ")]
    configs = str(["bundle/configs/inference.json", str(tmp_path / "overlay.json")])
    expected = ["python", "-m", "monai.bundle", "run", "run", "--config_file", configs, "--bundle_root", "bundle"]
    expected += [*map(str, options), "--weights", str(weights), "--output_dir", str(tmp_path / "a folder")]
    assert lines == [expected]


def test_datalist_writes_one_from_the_bundles_folder_and_never_over_another(command, tmp_path: Path, capfd):
    write_ct(str(tmp_path / "a folder" / "p1.nii.gz"), phantom(8, 0.0), cube_affine(8, 360.0))
    assert command("datalist", tmp_path / "a folder") == 0
    written = (tmp_path / "a folder" / "datalist.json").read_text()
    assert json.loads(written)["training"] == [{"ct": "p1.nii.gz"}]
    assert f"$ cd bundle && python -m scripts.datalist '{tmp_path}/a folder'\n" in capfd.readouterr().out
    assert command("datalist", tmp_path / "a folder") == 1
    error = capfd.readouterr().err
    assert f"error: {tmp_path}/a folder/datalist.json: is there already" in error
    assert error.endswith("launch.py: error: the command above ended with status 1; its message is above.\n")
    assert (tmp_path / "a folder" / "datalist.json").read_text() == written


def test_infer_writes_a_dicom_series_when_asked(command, weights: Path, dataset: Path, tmp_path: Path, capfd):
    films = [part for view in ("frontal", "lateral") for part in (f"--{view}", dataset / f"phantom_6_{view}.nii.gz")]
    assert command("infer", *films, "--weights", weights, "--output", tmp_path / "output", "--dicom") == 0
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["ct.nii.gz", "ct_dicom", "preview.png", "view.html"]
    assert len(list((tmp_path / "output" / "ct_dicom").glob("*.dcm"))) == 64
    output = capfd.readouterr().out
    assert " --dicom True" in output and "copy_patient" not in output
    assert "ct_dicom" in output.splitlines()[-1]


def test_an_uncertainty_that_the_weights_have_no_table_for_ends_infer_with_one_error(
    command, weights: Path, dataset: Path, tmp_path: Path, capfd
):
    films = [part for view in ("frontal", "lateral") for part in (f"--{view}", dataset / f"phantom_6_{view}.nii.gz")]
    assert command("infer", *films, "--weights", weights, "--output", tmp_path / "output", "--uncertainty") == 1
    output = capfd.readouterr()
    assert " --uncertainty True" in output.out and "--familiarity" not in output.out
    table = weights.with_name(f"{weights.stem}_uncertainty.json")
    assert f"launch.py: error: {table}: no such file, expected one beside the weights." in output.err
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


def test_a_patient_can_be_copied_only_into_a_dicom_series(command, weights: Path, dataset: Path, tmp_path: Path, capfd):
    films = [part for view in ("frontal", "lateral") for part in (f"--{view}", dataset / f"phantom_6_{view}.nii.gz")]
    assert command("infer", *films, "--weights", weights, "--output", tmp_path / "output", "--copy-patient") == 1
    assert capfd.readouterr().err.startswith("\nlaunch.py: error: --copy-patient needs --dicom")
    assert not (tmp_path / "output").exists()


def test_a_bundles_error_ends_the_launcher_with_its_message(command, dataset: Path, tmp_path: Path, capfd):
    """Stage 2 of an empty folder: the file, what was expected and the command; the traceback is in the log alone."""
    assert command("train", "--stage", "2", "--tiny", "--dataset_dir", dataset, "--output", tmp_path / "output") == 1
    output = capfd.readouterr()
    error = output.err[output.err.index("launch.py: error:") :]
    assert error.startswith(f"launch.py: error: {tmp_path}/output/stage1_best.pth: no such checkpoint; expected")
    assert "python -m monai.bundle run training --config_file \"['bundle/configs/train.json']\"" in error
    assert error.endswith(f"(The whole traceback is in {tmp_path}/output/error.log.)\n")
    assert "Traceback" not in output.err
    assert "['bundle/configs/train.json', 'bundle/configs/stage2.json', 'bundle/configs/tiny.json']" in output.out
    assert "CheckpointError" in (tmp_path / "output" / "error.log").read_text()
    assert not list((tmp_path / "output").rglob("*.pth"))


@pytest.fixture
def folder_of_one(tmp_path: Path) -> Path:
    """A CT without a datalist."""
    write_ct(str(tmp_path / "data" / "somebody.nii.gz"), phantom(24, 0.0), cube_affine(24, 360.0))
    return tmp_path / "data"


@pytest.fixture
def random_weights(tiny_bundle: Path, overlay: Path, tmp_path: Path) -> Path:
    """With the overlay that a training leaves beside them."""
    content = shared_part(json.loads(overlay.read_text()))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "overlay.json").write_text(json.dumps(content))
    return Path(shutil.copyfile(tiny_bundle / "models" / "model.pt", tmp_path / "weights" / "model.pt"))


def test_the_evaluations_table_shows_every_group_and_method(command, random_weights, dataset: Path, tmp_path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output"]
    assert command("evaluate", "--dataset_dir", dataset, *options) == 0
    table = capfd.readouterr().out.split("X2CT dB\n")[1]
    rows = [line for line in table.splitlines() if line.startswith(("with films", "without films"))]
    for name in ("stage 1", "stage 2", "stage 3", "upsampled stage 2"):
        assert sum(f"³  {name} " in row for row in rows) == 2  # one for each group
    assert sum("³  upsampled stage 1 " in row for row in rows) == 4  # and each later size
    for name in ("mean volume", "nearest training patient"):
        assert sum(f"³  {name} " in row for row in rows) == 6  # and each size
    assert (tmp_path / "output" / "metrics.csv").is_file()


def test_robustness_is_told_for_a_folder_without_a_datalist(command, random_weights, folder_of_one, tmp_path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output", "--robustness", "--stop_after", "1"]
    assert command("evaluate", "--dataset_dir", folder_of_one, *options) == 0
    output = capfd.readouterr().out
    assert "each of the 1 CTs found there is a case" in output
    rows = output.split("PSNR dB  change\n")[1].splitlines()
    assert re.fullmatch(r"as the network is told +1 +\d+\.\d\d +0\.00", rows[0])
    for start in ("patient turned about the body axis, in both views", "source farther away", "photon noise", "gamma"):
        assert sum(row.startswith(start) for row in rows) in (3, 4)
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["robustness.csv", "robustness.json", "robustness.png"]


def test_the_protocol_of_others_has_a_table_of_its_own(command, random_weights, folder_of_one, tmp_path: Path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output", "--protocol", "x2ct"]
    assert command("evaluate", "--dataset_dir", folder_of_one, *options) == 0
    output = capfd.readouterr().out
    rows = output.split("SSIM\n")[1].split("By the protocol of X2CT-GAN")[0].splitlines()
    report = json.loads((tmp_path / "output" / "protocol_x2ct.json").read_text(encoding="utf-8"))
    assert len(rows) == len(report["summary"]) > 1
    for row, entry in zip(rows, report["summary"]):
        scores = [f"{entry[name]['mean']:.2f}" for name in ("psnr_db", "psnr_3d_db")]
        assert row.split() == [entry["group"], *entry["method"].split(), "1", *scores, f"{entry['ssim']['mean']:.3f}"]
    assert output.endswith(
        f"\nEvery case is in {tmp_path}/output/protocol_x2ct.csv; protocol_x2ct.json beside it has the definitions.\n"
    )
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["protocol_x2ct.csv", "protocol_x2ct.json"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--datalist", "nowhere.json"], f"--datalist {Path.cwd() / 'nowhere.json'}: no such file."),
        (["--stop_after", "1"], "--stop_after needs --robustness"),
    ],
)
def test_what_an_evaluation_cannot_do_is_refused_at_once(
    command, random_weights: Path, folder_of_one: Path, options, told: str, tmp_path: Path, capfd
):
    output = ["--output", tmp_path / "output"]
    assert command("evaluate", "--dataset_dir", folder_of_one, "--weights", random_weights, *output, *options) == 1
    assert capfd.readouterr().err.startswith(f"\nlaunch.py: error: {told}")
    assert not (tmp_path / "output").exists()


def test_package_leaves_the_archive_and_its_checksum(command, tmp_path: Path, capfd):
    assert command("package", "--output", tmp_path / "out", "--without-weights") == 0
    archive, checksum = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert archive.startswith("biplanar_xray_ct_reconstruction_v") and checksum == f"{archive}.sha256"
    output = capfd.readouterr().out
    assert f"$ cd bundle && python -m scripts.package {tmp_path}/out --without-weights\n" in output
    assert "The archive holds no weights.\n" in output


def test_a_package_that_cannot_be_written_ends_with_one_clear_error(command, tmp_path: Path, capfd):
    (tmp_path / "taken").write_text("a file")
    assert command("package", "--output", tmp_path / "taken", "--without-weights") == 1
    error = capfd.readouterr().err
    assert "\nerror: " in error and str(tmp_path / "taken") in error
    assert "Traceback" not in error
