from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import scripts
from bundle_runs import ROOT, bundle_run, stage_configs

BUNDLE = ROOT / "bundle"
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "ignite": "pytorch-ignite", "yaml": "pyyaml"}
"""Packages whose modules have another name."""
CONFIGS = sorted((BUNDLE / "configs").glob("*.json"))


def read(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def strings(content: Any) -> list[str]:
    """Every text in a config."""
    if isinstance(content, dict):
        return [text for value in content.values() for text in strings(value)]
    if isinstance(content, list):
        return [text for value in content for text in strings(value)]
    return [content] if isinstance(content, str) else []


def imported(path: Path) -> set[str]:
    """The top names of what a script imports from outside its package when it runs."""
    tree, modules = ast.parse(path.read_text(encoding="utf-8")), []
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
    return {module.split(".")[0] for module in modules}


def test_the_bundle_works_when_copied_elsewhere_alone(dataset: Path, overlay: Path, tmp_path: Path):
    shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.pth"))
    places = {"dataset_dir": dataset, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "output"}
    run = bundle_run("training", stage_configs(1, overlay), folder=tmp_path, epochs=1, **places)
    assert run.returncode == 0, run.stdout[-3000:]
    assert (tmp_path / "models" / "stage1_best.pth").is_file()


def test_the_scripts_import_nothing_from_outside_the_bundle_but_its_requirements():
    listed = [line.split("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    allowed = {Requirement(line).name for line in listed if line.strip()} | {"pillow", "scipy"}
    for path in (BUNDLE / "scripts").rglob("*.py"):
        for module in imported(path):
            name = DISTRIBUTIONS.get(module, module)
            assert module in sys.stdlib_module_names or name in allowed, (path.name, module)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_only_what_the_scripts_have(path: Path):
    for text in strings(json.loads(path.read_text(encoding="utf-8"))):
        for name in re.findall(r"\bscripts\.([\w.]+)", text):
            found = scripts
            for part in name.split("."):
                found = getattr(found, part)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_config_refers_to_another_file(path: Path):
    """Such a reference would start at the working folder, and break where the bundle is copied to."""
    for text in strings(json.loads(path.read_text(encoding="utf-8"))):
        assert not (text.startswith("%") and ".json" in text)


def test_the_public_names_are_there_and_in_order():
    assert scripts.__all__ == sorted(scripts.__all__, key=lambda name: (name[0].islower(), name))
    assert all(getattr(scripts, name).__doc__ for name in scripts.__all__)


def test_inference_and_training_agree_on_what_they_share():
    """
    Weights that training writes go into inference as the configs are. Each has imports and a workflow of its own, and
    only training may round to half precision.
    """
    train, inference = read("train"), read("inference")
    shared = train.keys() & inference.keys() - {"imports", "run", "amp", "network_def"}
    assert {"geometry", "imaging", "radiograph_orientation"} <= shared
    assert {name: inference[name] for name in shared} == {name: train[name] for name in shared}
    own = {"_target_", "stages", "trained_stage"}
    networks = [{k: v for k, v in config["network_def"].items() if k not in own} for config in (train, inference)]
    assert networks[0] == networks[1]
    radiographs = [
        t for c in (train["load"], inference["preprocessing"]) for t in c["transforms"] if "percentiles" in t
    ]
    radiographs[0].pop("allow_missing_keys")
    assert radiographs[0] == radiographs[1]


def test_the_metadata_describes_the_network_of_the_configs():
    formats, inference = read("metadata")["network_data_format"], read("inference")
    pixels = inference["geometry"]["detector_pixels"]
    assert formats["inputs"]["image"]["spatial_shape"] == [pixels, pixels]
    assert formats["inputs"]["image"]["num_channels"] == len(inference["geometry"]["views"])
    assert formats["outputs"]["pred"]["spatial_shape"] == [pixels // 2] * 3


def test_the_metadata_has_what_the_zoo_asks_for():
    metadata = read("metadata")
    assert metadata["version"] in metadata["changelog"]
    for key in ("monai_version", "pytorch_version", "numpy_version", *metadata["required_packages_version"]):
        found = metadata.get(key) or metadata["required_packages_version"][key]
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", found), key
    for key in ("task", "description", "authors", "copyright", "intended_use", "network_data_format"):
        assert metadata[key]
    assert "not for diagnosis" in metadata["intended_use"]
    assert (BUNDLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_metadatas_versions_are_those_installed():
    """Save for the last number."""
    metadata = read("metadata")
    keys = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    named = {name: metadata[key] for name, key in keys.items()}
    for name, found in {**named, **metadata["required_packages_version"]}.items():
        assert found.split(".")[:2] == version(name).split(".")[:2], name


def test_the_metadata_names_every_package_that_the_scripts_import():
    metadata = read("metadata")
    named = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    for path in (BUNDLE / "scripts").rglob("*.py"):
        for module in imported(path) - set(sys.stdlib_module_names):
            assert DISTRIBUTIONS.get(module, module) in named, (path.name, module)


def test_evaluation_figures_are_those_of_the_evaluation_itself():
    """`docs/metrics.json` is the report of `evaluate.json`; figures are means of its cases, and absent without it."""
    figures, path = read("metadata").get("eval_metrics"), BUNDLE / "docs" / "metrics.json"
    assert (figures is not None) == path.is_file()
    if figures is not None:
        rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["cases"] if row["method"] == "stage 3"]
        for name, value in figures.items():
            assert value == round(sum(row[name] for row in rows) / len(rows), 2), name


def test_the_metadatas_versions_lie_in_the_required_ranges():
    metadata = read("metadata")
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, filter(None, lines))}
    named = {name: metadata[f"{key}_version"] for name, key in (("monai",) * 2, ("torch", "pytorch"), ("numpy",) * 2)}
    for name, found in {**named, **metadata["required_packages_version"]}.items():
        assert found in ranges[name], name
    assert "2.14.1" in ranges["torch"] and "0.29.1" in ranges["torchvision"]
    for name, specifier in ranges.items():
        assert version(name) in specifier, name
