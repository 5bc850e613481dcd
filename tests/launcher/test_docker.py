"""The image: what it holds and what not, what it runs, and as whom; where Docker's daemon answers, the image itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from bundle_runs import ROOT
from unwritable import on_posix

USED = ("demo", "infer", "label", "node")
"""The verbs that the image is for."""
USER = 4321
"""Of `docker run --user`: it has no name, and no home."""


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
        results.mkdir()
        as_user = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        if as_user:
            os.chown(results, USER, USER)
        environment = {"PATH": f"{Path(name) / 'programs'}:{os.environ['PATH']}", **variables()}
        line = [*json.loads(given("ENTRYPOINT")[-1]), "demo", "--no-train", "--output", str(results / "demo")]
        subprocess.run(line, cwd=folder, env=environment, check=True, **as_user)
        label = [str(folder / ".venv-label/bin/python"), "-c", "import monailabel.main"]
        subprocess.run(label, cwd=folder, env=environment, check=True, **as_user)
        check_results(results / "demo", USER if as_user else os.geteuid())


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
