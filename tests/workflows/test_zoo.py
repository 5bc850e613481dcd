"""What MONAI's model zoo asks of a bundle beside its files: the format of its code, and unit tests in its own form."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path

import pytest

from bundle_runs import ROOT
from scripts import package

UNIT_TESTS = f"test_{package.NAME}.py"


def formatted(cache: Path, *line: str) -> str:
    """What a formatter of the zoo says of `bundle`; it writes to its cache alone."""
    if importlib.util.find_spec(line[0]) is None:
        pytest.skip(f"{line[0]} comes by `python launch.py test`")
    environment = {**os.environ, "BLACK_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", *line, "bundle"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    return run.stdout + run.stderr if run.returncode else ""


def test_isort_would_change_nothing(tmp_path: Path):
    assert formatted(tmp_path, "isort", "--check-only", "--profile", "black", "--line-length", "120") == ""


@pytest.mark.slow
def test_black_would_change_nothing(tmp_path: Path):
    """`ruff format`, which is what the repository is kept by, differs from it in a few rare forms alone."""
    assert formatted(tmp_path, "black", "--check", "--quiet", "--line-length", "120", "--include", r"\.py$") == ""


@pytest.fixture
def zoo(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the zoo, as far as its runner needs it: the archive's bundle in `models`, its tests in `ci`."""
    monkeypatch.setattr(package, "BUNDLE", tiny_bundle)
    zipfile.ZipFile(package.write_package(tmp_path / "archive", without_weights=True)).extractall(tmp_path / "models")
    (tmp_path / "ci" / "unit_tests").mkdir(parents=True)
    shutil.move(tmp_path / "models" / package.NAME / "unit_tests" / UNIT_TESTS, tmp_path / "ci" / "unit_tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded_tests(zoo: Path) -> tuple[unittest.TestSuite, Path]:
    """The tests that the zoo's runner finds, and the bundle that they are of."""
    spec = importlib.util.spec_from_file_location("unit_tests_of_the_zoo", zoo / "ci" / "unit_tests" / UNIT_TESTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module), module.BUNDLE


def test_the_archive_brings_unit_tests_that_find_the_bundle_in_the_zoo(zoo: Path):
    """Their small form; what they run at full length is the test that follows."""
    tests, bundle = loaded_tests(zoo)
    assert tests.countTestCases() == 3 and bundle == zoo / "models" / package.NAME
    assert (bundle / "configs" / "tiny.json").is_file()


@pytest.mark.slow
def test_the_unit_tests_pass_in_the_zoo_and_in_the_bundle_alone(zoo: Path):
    """By a Python of their own, which finds the bundle's code where they say."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    runs = {
        zoo: ["-m", "unittest", f"ci/unit_tests/{UNIT_TESTS}"],
        ROOT / "bundle": ["-m", "unittest", "discover", "unit_tests"],
    }
    for folder, line in runs.items():
        run = subprocess.run(
            [sys.executable, *line], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
        )
        assert run.returncode == 0 and "Ran 3 tests" in run.stderr, run.stderr[-3000:]
