"""Fixtures of the launcher's tests: it runs in this process, by the environment that runs the tests."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from bundle_runs import ROOT
from conftest import Trained
from phantoms import phantom
from scripts.io.image_writer import cube_affine, write_ct
from scripts.io.shared_overlay import shared_part
from warm_python import warm_python

sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from launcher import environments, places  # noqa: E402


def checksums() -> str:
    """The content of the file that says which requirements are installed, in the form of `sha256sum`."""
    files = (places.REQUIREMENTS, places.REQUIREMENTS_DEMO, places.REQUIREMENTS_DEV)
    return "".join(f"{sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What says that all requirements are installed in the environment, whose Python is the one that runs the tests."""
    monkeypatch.setattr(places, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(places, "ENVIRONMENT", tmp_path / "environment")
    for further in ("install_label", "install_node", "install_page", "install_publish"):
        monkeypatch.setattr(environments, further, lambda: None)
    marker = tmp_path / "environment" / "installed-requirements.sha256"
    marker.parent.mkdir()
    marker.write_text(checksums())
    return marker


@pytest.fixture
def command(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `launch.py` with these arguments, and by :func:`warm_python` what it starts; returns its exit status."""
    monkeypatch.setattr(places, "PYTHON", warm_python())

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["launch.py", *map(str, arguments)])
        return launch.main()

    return run


@pytest.fixture
def cold_command(command: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The same by the Python that runs the tests."""
    monkeypatch.setattr(places, "PYTHON", Path(sys.executable))
    return command


@pytest.fixture
def lines(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[list[str]]]:
    """The arguments of all runs so far of the environment's Python, which does nothing but keep them."""
    kept, python = tmp_path / "environment" / "lines", tmp_path / "environment" / "python"
    keep = f"import json, sys; open({str(kept)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    kept.touch()
    python.write_text(f"#!{sys.executable}\n{keep}\n")
    python.chmod(0o755)
    monkeypatch.setattr(places, "PYTHON", python)
    return lambda: list(map(json.loads, kept.read_text().splitlines()))


def option_of(line: list[str], name: str) -> str:
    """What an option of a line is."""
    return line[line.index(f"--{name}") + 1]


def next_arguments(printed: str) -> list[str]:
    """The arguments of the line of `launch.py` that a verb has printed as the next one."""
    python, script, *arguments = shlex.split(printed.rsplit("\nNext: ", 1)[1].splitlines()[0])
    assert shutil.which(python) and (Path.cwd() / script).samefile(ROOT / "launch.py")
    return arguments


def pair_options(folder: Path) -> list[str | Path]:
    """The options of `infer` that name the radiographs of a phantom."""
    return [part for view in ("frontal", "lateral") for part in (f"--{view}", folder / f"phantom_6_{view}.nii.gz")]


@pytest.fixture
def weights(trained: Trained, overlay: Path, tmp_path: Path) -> Path:
    """The trained cascade with its overlay config next to it, as a training run leaves them."""
    (tmp_path / "overlay.json").write_text(json.dumps(shared_part(json.loads(overlay.read_text()))))
    return Path(shutil.copyfile(trained.folder / "stage3_best.pth", tmp_path / "stage3_best.pth"))


@pytest.fixture
def folder_of_one(tmp_path: Path) -> Path:
    """A CT without a datalist."""
    write_ct(str(tmp_path / "data" / "somebody.nii.gz"), phantom(24, 0.0), cube_affine(24, 360.0))
    return tmp_path / "data"


@pytest.fixture
def random_weights(tiny_bundle: Path, overlay: Path, tmp_path: Path) -> Path:
    """With the overlay that a training leaves next to them."""
    content = shared_part(json.loads(overlay.read_text()))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "overlay.json").write_text(json.dumps(content))
    return Path(shutil.copyfile(tiny_bundle / "models" / "model.pt", tmp_path / "weights" / "model.pt"))
