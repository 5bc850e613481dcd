"""The image: what it holds and what not, what it runs, and as whom; where Docker's daemon answers, the image itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bundle_runs import ROOT
from label_server import Server, free_port
from phantoms import phantom, write_radiographs
from unwritable import on_posix

USED = ("demo", "infer", "label", "node")
"""The verbs that the image is for."""
USER = 4321
"""Of `docker run --user`: it has no name, and no home."""

SECONDS_TO_START = 300
"""For a server; MONAI Label and PyTorch are imported from a cold disk."""


@cache
def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in their order, each with what it is given."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = filter(None, map(str.strip, text.replace("\\\n", " ").splitlines()))
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def given(name: str) -> list[str]:
    """What each instruction of this name is given."""
    return [text for step, text in steps() if step == name]


def variables() -> dict[str, str]:
    """The environment of a container."""
    return dict(part.split("=", 1) for text in given("ENV") for part in text.split())


@cache
def rules() -> list[tuple[re.Pattern[str], bool]]:
    """The patterns of .dockerignore, and whether each takes out; the last that a path or its folder meets counts."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    shown = {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*"}
    found = []
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        pattern = re.escape(line.removeprefix("!"))
        for sign, meaning in shown.items():
            pattern = pattern.replace(sign, meaning)
        found.append((re.compile(pattern), not line.startswith("!")))
    return found


def is_left_out(path: str) -> bool:
    """Whether Docker's client does not send a file of the repository."""
    places = [path, *map(str, PurePosixPath(path).parents)]
    met = [takes_out for pattern, takes_out in rules() if any(map(pattern.fullmatch, places))]
    return bool(met) and met[-1]


@cache
def tracked() -> list[str]:
    """The files that git keeps, or will once they are added."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode != 0:
        pytest.skip("there is no git here, or no clone")
    return sorted(name for name in set(listed.stdout.split("\0")) - {""} if (ROOT / name).is_file())


def copied() -> Iterator[tuple[str, list[str], str]]:
    """Of each source of a COPY: its name, the files that git keeps of it, and where in the image it goes."""
    for text in given("COPY"):
        *sources, target = text.split()
        for source in sources:
            yield source, [name for name in tracked() if PurePosixPath(name).is_relative_to(source)], target


def lay_out(folder: Path) -> None:
    """What the image's folder holds before its RUN steps."""
    for source, files, target in copied():
        for name in filter(lambda name: not is_left_out(name), files):
            inner = PurePosixPath(name).relative_to(source) if name != source else PurePosixPath(name)
            place = folder / target / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)


def run_steps(folder: Path, python: Path) -> None:
    """By the shell, as Docker does, with this Python as the image's."""
    programs = folder.parent / "programs"
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    (programs / "python").chmod(0o755)
    own = {name: value for name, value in variables().items() if name not in ("PIP_NO_CACHE_DIR", "HOME", "USER")}
    environment = {**os.environ, **own, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    for line in given("RUN"):
        subprocess.run(["/bin/sh", "-c", line], cwd=folder, env=environment, check=True)


def test_the_base_image_has_the_tag_of_a_version():
    assert [re.fullmatch(r"python:3\.\d+-slim(-\w+)?", text) is not None for text in given("FROM")] == [True]


def test_who_runs_is_not_root_and_has_a_number_that_a_cluster_can_check():
    user, _, group = given("USER")[-1].partition(":")
    assert int(user) > 0 and int(group) > 0
    names = [name for name, _ in steps()]
    assert names.count("USER") == 1 and not {"RUN", "COPY"} & set(names[names.index("USER") :])  # nor owns what it runs


def test_every_source_is_in_git_and_all_that_git_keeps_of_it_is_sent():
    for source, files, _ in copied():
        assert files, source
        assert not list(filter(is_left_out, files)), source


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "output/demo/stage3.nii.gz",
        "studies/patient_1/pa.dcm",
        "TOKEN_FILE",
        "node_queue/failed/a/reason.txt",
        "tests/conftest.py",
        "bundle/models/model_atlas.nii.gz",
        "bundle/models/stage3_best.pth",
        "bundle/models/training_1/before.pth",
        "monailabel_app/logs/app.log",
        "bundle/scripts/io/__pycache__/limits.cpython-311.pyc",
    ],
)
def test_what_is_somebodys_own_is_not_sent(path: str):
    assert is_left_out(path)


@on_posix
def test_the_steps_install_what_the_verbs_need_by_the_launcher_from_what_was_copied(tmp_path: Path):
    """With environments whose Python only says which requirements it was to install."""
    assert not [line for line in given("RUN") if re.search(r"\b(pip|apt-get|curl|wget)\b", line)]
    lay_out(tmp_path / "app")
    for name in (".venv", ".venv-label"):
        python = tmp_path / "app" / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        keep = f'test -f "$file" && echo {name} "$file" >> {tmp_path}/calls'
        python.write_text(f"#!/bin/sh\nfor file; do :; done\n{keep}\n")
        python.chmod(0o755)
    run_steps(tmp_path / "app", Path(sys.executable))
    assert (tmp_path / "calls").read_text().splitlines() == [
        ".venv requirements.txt",
        ".venv requirements-demo.txt",
        ".venv dicom_node/requirements.txt",
        ".venv-label requirements.txt",
        ".venv-label monailabel_app/requirements.txt",
        ".venv-label monailabel_app/requirements-server.txt",
    ]


@on_posix
@pytest.mark.parametrize("verb", USED)
def test_the_entry_point_takes_the_verbs(tmp_path: Path, verb: str):
    lay_out(tmp_path / "app")
    python, *script = json.loads(given("ENTRYPOINT")[-1])
    assert python == "python"
    line = [sys.executable, "-I", *script, verb, "--help"]
    told = subprocess.run(line, cwd=tmp_path / "app", capture_output=True, encoding="utf-8", check=True).stdout
    assert told.startswith(f"usage: launch.py {verb}")


@pytest.mark.slow
@on_posix
def test_the_steps_leave_what_reconstructs_for_a_user_without_a_name():
    """Without Docker: the RUN steps in a folder of their own, then the demo there by a user who can change nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder, results = Path(name) / "app", Path(name) / "results"
        Path(name).chmod(0o755)
        lay_out(folder)
        everybodys = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
        run_steps(folder, Path(everybodys or sys._base_executable))
        check_verbs(folder, results)


def check_verbs(folder: Path, results: Path) -> None:
    """
    The demo, a reconstruction of two radiographs, and both servers; where these tests are root's by a user who writes
    into `results` alone, as a container's.

    Args:
        folder: what the image has; next to it lies the folder `programs` with its Python.
        results: is made.
    """
    results.mkdir()
    is_root = os.geteuid() == 0
    user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if is_root else {}
    if is_root:
        os.chown(results, USER, USER)
    options = {
        "cwd": folder,
        "env": {"PATH": f"{folder.parent / 'programs'}:{os.environ['PATH']}", **variables()},
        **user,
    }
    entry = json.loads(given("ENTRYPOINT")[-1])
    subprocess.run([*entry, "demo", "--no-train", "--output", results / "demo"], check=True, **options)
    check_results(results / "demo", USER if is_root else os.geteuid())
    pair = write_radiographs(results, "phantom", phantom(24, 0.0))
    given_pair = [part for view, path in pair.items() for part in (f"--{view}", path)]
    subprocess.run([*entry, "infer", *given_pair, "--output", results / "infer"], check=True, **options)
    assert (results / "infer" / "ct.nii.gz").is_file()
    token, port = results / "token", free_port()
    token.write_text("a" * 32)
    label = [*entry, "label", "--studies", results / "demo", "--host", "0.0.0.0", "--token-file", token]
    with serving([*label, "--port", str(port)], port, **options):
        server = Server(port, results, results, 0)
        assert server.send("GET", "/info/").status == 401
        assert server.send("GET", "/info/", authorization=f"Bearer {'a' * 32}").status == 200
    port = free_port()
    node = [
        *entry,
        "node",
        "--aet",
        "CTNODE",
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
        "--allow",
        "MODALITY=127.0.0.1",
    ]
    with serving([*node, "--store", "ARCHIVE@127.0.0.1:104", "--queue", results / "queue"], port, **options):
        pass


@contextmanager
def serving(line: list[str | Path], port: int, **options: Any) -> Iterator[None]:
    """A command from when its port is open; it is ended as `docker stop` does, and has to end by that."""
    process = subprocess.Popen(line, **options)
    try:
        latest = time.monotonic() + SECONDS_TO_START
        while not is_open(port):
            assert process.poll() is None and time.monotonic() < latest
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def has_daemon() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.slow
@on_posix
def test_the_image_reconstructs_into_a_mounted_folder(tmp_path: Path):
    if not has_daemon():
        pytest.skip("no daemon of Docker answers")
    image = ["docker", "build", "--tag", "biplanar-test", "."]
    subprocess.run(image, cwd=ROOT, check=True)
    container = ["docker", "run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{tmp_path}:/results"]
    for verb in USED:
        told = subprocess.check_output([*container, "biplanar-test", verb, "--help"], encoding="utf-8")
        assert told.startswith(f"usage: launch.py {verb}")
    subprocess.run([*container, "biplanar-test", "demo", "--no-train", "--output", "/results/demo"], check=True)
    check_results(tmp_path / "demo", os.getuid())


def check_results(folder: Path, user: int) -> None:
    """The demo's are there, and all of one user."""
    written = {path.relative_to(folder).as_posix(): path.stat().st_uid for path in folder.rglob("*")}
    assert {"stage3.nii.gz", "report.html", "metrics.json"} <= set(written)
    assert set(written.values()) == {user}
