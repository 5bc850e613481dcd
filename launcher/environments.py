"""
The environments, made on first use: `.venv` for the bundle, and over it `.venv-label` for MONAI Label and `.venv-page`
for the page to try it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from . import places
from .failures import LaunchError
from .from_bundle import config_text
from .processes import child, run


def install(for_development: bool = False) -> None:
    """
    Makes `.venv` and installs what the bundle needs.

    Raises:
        LaunchError: when that fails, or this Python is too old, for the tests by one version more.
    """
    if for_development and sys.version_info < (3, 11):
        found = sys.version.split()[0]
        raise LaunchError(f"Python {found} found, 3.11 or newer expected of the tests; every other verb runs by 3.10.")
    wanted: dict[Path, list[str]] = {places.REQUIREMENTS: [], places.REQUIREMENTS_DEMO: ["--no-deps"]}
    if for_development:
        wanted[places.REQUIREMENTS_DEV] = ["--no-deps"]
    install_into(places.ENVIRONMENT, places.PYTHON, wanted)


def install_node() -> None:
    """Installs what the DICOM node needs besides into `.venv`."""
    install_into(places.ENVIRONMENT, places.PYTHON, {places.REQUIREMENTS_NODE: ["--no-deps"]})


def install_publish() -> None:
    """Installs what an upload to the Hugging Face Hub needs besides into `.venv`."""
    install_into(places.ENVIRONMENT, places.PYTHON, {places.REQUIREMENTS_PUBLISH: ["--no-deps"]})


def install_label() -> None:
    """Makes `.venv-label` for MONAI Label over `.venv`: it holds only what must be older there, and the server."""
    install_into(places.LABEL_ENVIRONMENT, places.LABEL_PYTHON, requirements_of_label(), over=places.PYTHON)


def install_page() -> None:
    """Makes `.venv-page` over `.venv` for Gradio, which needs an older Pillow."""
    wanted = {places.REQUIREMENTS_PAGE: ["--no-warn-conflicts"]}
    install_into(places.PAGE_ENVIRONMENT, places.PAGE_PYTHON, wanted, over=places.PYTHON)


def requirements_of_label() -> dict[Path, list[str]]:
    """In the order of their installation, each file with pip's options. Conflicts can only be with what `.venv` has."""
    quiet, constraints = "--no-warn-conflicts", places.REQUIREMENTS_LABEL.relative_to(places.ROOT).as_posix()
    return {
        places.REQUIREMENTS: [quiet, "-c", constraints],
        places.REQUIREMENTS_LABEL: [quiet],
        places.REQUIREMENTS_LABEL_SERVER: ["--no-deps"],
    }


def install_into(environment: Path, python: Path, wanted: dict[Path, list[str]], over: Path | None = None) -> None:
    """
    Makes an environment and installs requirements, save those files that have been installed as they are now.

    Args:
        environment: its folder.
        python: its interpreter, which need not exist yet.
        wanted: requirements files, each with pip's options.
        over: interpreter of another environment, whose packages are found after this one's own, so that the large ones
            are on the disk once.
    """
    if sys.version_info < (3, 10):  # noqa: UP036
        raise LaunchError(f"Python {sys.version.split()[0]} found, 3.10 or newer expected.")
    marker = environment / "installed-requirements.sha256"
    done = marker.read_text(encoding="utf-8").splitlines() if python.is_file() and marker.is_file() else []
    missing = {file: options for file, options in wanted.items() if checksum(file) not in done}
    if not missing:
        return
    print(f"Installing the requirements into {environment}; this happens once and takes a few minutes.", flush=True)
    if not python.is_file():
        make_environment(environment, python, over)
    for file, options in missing.items():
        pip_install(python, [*options, "-r", file.relative_to(places.ROOT).as_posix()])
        done = [line for line in done if line.split()[-1] != checksum(file).split()[-1]] + [checksum(file)]
        marker.write_text("\n".join(done) + "\n", encoding="utf-8")


def make_environment(environment: Path, python: Path, over: Path | None) -> None:
    """By the Python of `over`, for which the packages there are built, else by this one."""
    with child([str(over or sys.executable), "-m", "venv", str(environment)]) as process:
        status = process.wait()
    if status != 0:
        shutil.rmtree(environment, ignore_errors=True)
        raise LaunchError(f"{environment} could not be made; Python's message is above.")
    if over is not None:
        (packages_of(python) / "over.pth").write_text(f"{packages_of(over)}\n", encoding="utf-8")


def packages_of(python: Path) -> Path:
    """The folder from which an interpreter imports what pip installs."""
    line = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.check_output(line, encoding="utf-8").strip())


def checksum(file: Path) -> str:
    """As `sha256sum` prints it in the repository root."""
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(places.ROOT).as_posix()}"


def pip_install(python: Path, arguments: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    if run(command, shown_as=config_text.as_typed(["python", "-m", "pip", "install", *arguments])) != 0:
        raise LaunchError("the requirements could not be installed; pip's message is above.")
