"""The rooms of the code: a room imports only from those before it, so that data flows one way."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import scripts
from scripts.networks.cascade import STAGES
from scripts.projection.imaging import NUMBER_OF_STAGES
from scripts.training.former_names import FORMER_MODULES, FORMER_NAMES

SCRIPTS = Path(scripts.__file__).parent
ROOMS = [
    "io",
    "projection",
    "anatomy",
    "radiographs",
    "data",
    "networks",
    "losses",
    "training",
    "evaluation",
    "reporting",
]
DOORS = {"__init__", "datalist", "fetch", "half_precision", "on_dask", "package", "publish"}
OWN_PACKAGES = {
    "pydicom": "io",
    "itk": "io",
    "lpips": "losses",
    "torchvision": "losses",
    "matplotlib": "reporting",
}
"""Packages that one room alone imports."""


def modules() -> dict[str, Path]:
    """Files by their names below `scripts`, such as `io.limits`."""
    return {".".join(path.relative_to(SCRIPTS).with_suffix("").parts): path for path in sorted(SCRIPTS.rglob("*.py"))}


def imports(name: str, path: Path) -> Iterator[str]:
    """What a module imports, within functions too: `scripts.io.limits`, `numpy.linalg`."""
    package = ".".join(["scripts", *name.split(".")[:-1]])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_imports(name: str, path: Path) -> set[str]:
    """The modules of `scripts` among them."""
    known, found = modules(), set()
    for imported in imports(name, path):
        if imported.startswith("scripts."):
            parts = imported.split(".")[1:]
            found |= {".".join(parts[:end]) for end in (len(parts), len(parts) - 1)} & known.keys()
    return found


@pytest.mark.parametrize("name", modules())
def test_a_room_imports_only_from_those_before_it(name: str):
    room, *rest = name.split(".")
    if not rest:
        assert room in DOORS | {"errors"}
        return
    allowed = {"errors", *ROOMS[: ROOMS.index(room) + 1]}
    assert {other.split(".")[0] for other in own_imports(name, modules()[name])} <= allowed


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({name: own_imports(name, path) for name, path in modules().items()}).prepare()


@pytest.mark.parametrize("package", OWN_PACKAGES)
def test_a_package_is_imported_by_one_room(package: str):
    rooms = {
        name.split(".")[0]
        for name, path in modules().items()
        for found in imports(name, path)
        if found.split(".")[0] == package
    }
    assert rooms == {OWN_PACKAGES[package]}


def test_the_number_of_stages_is_that_of_the_cascade():
    assert len(STAGES) == NUMBER_OF_STAGES


@pytest.mark.parametrize("former", [*FORMER_NAMES, *FORMER_MODULES])
def test_a_name_of_the_previous_version_is_the_present_one_with_a_warning(former: str):
    now = {**FORMER_NAMES, **FORMER_MODULES}[former]
    with pytest.warns(FutureWarning, match=f"scripts.{former} is now scripts.{now}; correct the configuration."):
        found = getattr(scripts, former)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found is getattr(scripts, now)


def test_other_names_are_missing_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'film'"):
        _ = scripts.film
