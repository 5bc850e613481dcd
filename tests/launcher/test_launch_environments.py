"""The environments that the launcher makes, and what it installs into them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from launch_fixtures import checksums, environments, installed, places  # noqa: F401  fixtures
from launcher.failures import LaunchError
from unwritable import on_posix


@pytest.mark.parametrize("for_development", [False, True])
def test_a_second_install_does_nothing(installed: Path, for_development: bool, capfd):
    before = sorted(places.ENVIRONMENT.rglob("*"))
    environments.install(for_development)
    assert sorted(places.ENVIRONMENT.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def requirements_in(arguments: list[str]) -> str:
    """The requirements file that a call of pip installs."""
    return arguments[arguments.index("-r") + 1]


@pytest.fixture
def pip_calls(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], list[str]]:
    """Installs, with a Python that ends with the given status, and returns the files that pip was given so far."""
    if os.name == "nt":
        pytest.skip("the stand-in for Python is a shell script")
    monkeypatch.setattr(places, "PYTHON", tmp_path / "python")

    def calls(status: int = 0, for_development: bool = False) -> list[str]:
        places.PYTHON.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit {status}\n')
        places.PYTHON.chmod(0o755)
        environments.install(for_development)
        return list(map(requirements_in, map(str.split, (tmp_path / "calls").read_text().splitlines())))

    return calls


def test_changed_requirements_are_installed_once(installed: Path, pip_calls):
    installed.write_text("of another version\n")
    expected = ["requirements.txt", "requirements-demo.txt"]
    assert pip_calls() == expected
    assert pip_calls() == expected


def test_only_the_file_that_has_changed_is_installed_again(installed: Path, pip_calls):
    installed.write_text(checksums().replace(checksums()[:8], "00000000", 1))
    assert pip_calls(for_development=True) == ["requirements.txt"]
    assert sorted(installed.read_text().splitlines()) == sorted(checksums().splitlines())


def test_what_development_needs_is_installed_for_the_tests_alone(installed: Path, pip_calls):
    installed.write_text("of another version\n")
    assert "requirements-dev.txt" not in pip_calls()
    assert pip_calls(for_development=True)[2:] == ["requirements-dev.txt"]


def test_the_tests_want_a_python_that_their_packages_have(installed: Path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    environments.install()
    with pytest.raises(LaunchError, match="3.11 or newer expected of the tests"):
        environments.install(for_development=True)


def test_label_installs_the_bundles_requirements_held_to_its_own(monkeypatch, tmp_path: Path):
    calls, files = [], [places.REQUIREMENTS, places.REQUIREMENTS_LABEL, places.REQUIREMENTS_LABEL_SERVER]
    monkeypatch.setattr(environments, "pip_install", lambda python, arguments: calls.append(arguments))
    monkeypatch.setattr(environments, "make_environment", lambda folder, python, over: folder.mkdir())
    environments.install_into(tmp_path / "label", tmp_path / "label" / "python", environments.requirements_of_label())
    own, server = "monailabel_app/requirements.txt", "monailabel_app/requirements-server.txt"
    assert list(map(requirements_in, calls)) == ["requirements.txt", own, server]
    assert calls[0][calls[0].index("-c") + 1] == own  # so that the bundle's are as old as the server's
    lines = (tmp_path / "label" / "installed-requirements.sha256").read_text().splitlines()
    assert lines == [environments.checksum(file) for file in files]


def test_an_environment_over_another_finds_its_own_packages_first(installed: Path, tmp_path: Path):
    """What only the lower one has is imported from there; pip takes it for installed, and installs over it alone."""
    python = tmp_path / "upper" / places.PYTHON.relative_to(places.PYTHON.parents[1])
    environments.make_environment(tmp_path / "upper", python, over=places.PYTHON)
    own = environments.packages_of(python)
    assert own.is_relative_to(tmp_path / "upper")
    (own / "tqdm.py").write_text("")
    found = "import torch, tqdm; print(torch.__file__); print(tqdm.__file__)"
    files = subprocess.check_output([python, "-c", found], encoding="utf-8").split()
    assert files == [torch.__file__, str(own / "tqdm.py")]
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format", "freeze"], encoding="utf-8")
    assert f"torch=={version('torch')}" in listed


@on_posix
def test_of_an_environment_that_cannot_be_made_nothing_is_left(tmp_path: Path):
    maker = tmp_path / "python"
    maker.write_text('#!/bin/sh\nmkdir -p "$3/bin"; exit 1\n')
    maker.chmod(0o755)
    with pytest.raises(LaunchError, match="environment could not be made"):
        environments.make_environment(tmp_path / "environment", tmp_path / "environment" / "bin" / "python", over=maker)
    assert not (tmp_path / "environment").exists()


def test_a_failed_install_is_not_taken_for_done(installed: Path, pip_calls):
    installed.write_text("of another version\n")
    with pytest.raises(LaunchError, match="could not be installed"):
        pip_calls(status=1)
    assert installed.read_text() == "of another version\n"
