from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import scripts
from bundle_runs import ROOT, read_configs

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


def test_every_public_name_is_documented():
    assert not [name for name in scripts.__all__ if not getattr(scripts, name).__doc__]


def test_what_training_writes_goes_into_inference_as_the_configs_are():
    """The networks of both take the same parameters, and compute from them with the same geometry."""
    configs = ["bundle/configs/train.json"], ["bundle/configs/inference.json"]
    trained, used = (read_configs(names).get_parsed_content("network_def") for names in configs)
    used.load_state_dict(trained.state_dict(), strict=True)
    for (name, buffer), (other, expected) in zip(trained.named_buffers(), used.named_buffers(), strict=True):
        assert name == other and torch.equal(buffer, expected), name


def test_train_and_inference_agree_on_every_id_that_they_share():
    """But for imports and workflows of their own, and for half precision, which only training may round to."""
    train, inference = read("train"), read("inference")
    shared = train.keys() & inference.keys() - {"imports", "run", "amp", "network_def"}
    assert {"geometry", "imaging", "radiograph_orientation"} <= shared
    assert {name: inference[name] for name in shared} == {name: train[name] for name in shared}
    own = {"_target_", "stages", "trained_stage"}
    networks = [{k: v for k, v in config["network_def"].items() if k not in own} for config in (train, inference)]
    assert networks[0] == networks[1]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_the_geometry_of_the_configs_is_the_default_one(name: str):
    assert read_configs([f"bundle/configs/{name}.json"]).get_parsed_content("geometry") == scripts.BiplanarGeometry()


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_a_pair_of_radiographs_is_the_same_to_training_and_to_inference(dataset: Path, tmp_path: Path, suffix: str):
    """Of an absolute scale, and of none."""
    pair = {view: str(dataset / f"phantom_6_{view}.nii.gz") for view in ("frontal", "lateral")}
    if suffix == ".png":
        for view, path in pair.items():
            pair[view] = str(tmp_path / f"{view}.png")
            values = nibabel.load(path).get_fdata()[..., 0].T
            Image.fromarray((255 * values / values.max()).astype(np.uint8)).save(pair[view])
    load = read_configs(["bundle/configs/train.json"]).get_parsed_content("load")
    preprocess = read_configs(["bundle/configs/inference.json"]).get_parsed_content("preprocessing")
    trained = load({"ct": str(dataset / "phantom_6.nii.gz"), **pair})["xrays"]
    used = preprocess(dict(pair))
    torch.testing.assert_close(torch.as_tensor(trained), torch.as_tensor(used["image"]), rtol=0, atol=0)


def test_the_metadata_says_what_the_software_is_not_for_and_the_licence_ships():
    assert "not for diagnosis" in read("metadata")["intended_use"]
    assert (BUNDLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


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
