"""A dataset of small phantoms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import affine_grid, grid_sample

from scripts import BiplanarGeometry, ImagingModel, hu_to_attenuation, project
from scripts.io.image_writer import cube_affine, write_ct, write_projection
from scripts.projection.attenuation import WATER_ATTENUATION_PER_MM


def chest_imaging(detector_pixels: int = 512, xray_scale: float = 8.0, **geometry: Any) -> ImagingModel:
    """That of the bundle's configs, but for what is given."""
    return ImagingModel(BiplanarGeometry(detector_pixels=detector_pixels, **geometry), (-1024, 1024), xray_scale)


def projector(geometry: BiplanarGeometry) -> Callable[..., torch.Tensor]:
    """Projects a CT in HU, `(1, S, S, S)`, to scaled X-rays, `(2, P, P)`; a second geometry overrides this one."""
    imaging = ImagingModel(geometry, (-1024, 1024), 8.0)
    return lambda hu, other=None: imaging.project(hu[None], other)[0]


def write_phantoms(folder: Path) -> None:
    """
    Phantoms of 24 voxels a side and `datalist.json`, in which every other record of validation and test has
    radiographs of its own, and test two groups.
    """
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number, section in enumerate(["training", "training", "validation", "validation", "validation", *["test"] * 4]):
        name = f"phantom_{number}"
        hu = phantom(24, 0.03 * number - 0.1)
        write_ct(str(folder / f"{name}.nii.gz"), hu, cube_affine(24, 360.0))
        has_radiographs = section != "training" and len(sections[section]) % 2 == 1
        radiographs = write_radiographs(folder, name, hu) if has_radiographs else {}
        group = {"group": "with radiographs" if has_radiographs else "without radiographs"} if section == "test" else {}
        sections[section].append({"ct": f"{name}.nii.gz", **radiographs, **group})
    (folder / "datalist.json").write_text(json.dumps(sections))


def phantom(size: int, shift: float) -> torch.Tensor:
    """A chest of ellipsoids in HU, `(size, size, size)`: air, body, two lungs of one size, spine. `shift` moves it."""
    side = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(side - shift, side + shift / 2, side, indexing="ij")
    hu = torch.full((size, size, size), -1000.0)
    hu[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = 40.0
    hu[((x.abs() - 0.4) / 0.25) ** 2 + (y / 0.4) ** 2 + (z / 0.7) ** 2 < 1] = -800.0
    hu[x**2 + (y + 0.4) ** 2 < 0.01] = 700.0
    return hu


def write_radiographs(folder: Path, name: str, hu: torch.Tensor) -> dict[str, str]:
    """
    Both radiographs of a CT as float NIfTI, 128 pixels a side, from a machine that reads a tenth more than the
    projector, so that they can be distinguished from projections; their paths by field.
    """
    radiographs = 1.1 * project(hu_to_attenuation(hu[None, None]), BiplanarGeometry(detector_pixels=128))[0]
    paths = {view: str(folder / f"{name}_{view}.nii.gz") for view in ("frontal", "lateral")}
    for path, radiograph in zip(paths.values(), radiographs):
        write_projection(path, radiograph, pixel_mm=3.75)
    return paths


def smooth_body(size: int = 96) -> torch.Tensor:
    """Two blobs in air, `(1, size, size, size)` in HU, that look different from everywhere."""
    side = torch.linspace(-180, 180, size)
    x, y, z = torch.meshgrid(side, side, side, indexing="ij")
    first = torch.exp(-(((x - 40) / 40) ** 2 + ((y + 30) / 50) ** 2 + ((z - 50) / 30) ** 2))
    second = torch.exp(-(((x + 50) / 30) ** 2 + ((y - 60) / 40) ** 2 + ((z + 60) / 50) ** 2))
    return (-1000 + 1000 * (first + second))[None]


def rotated(hu: torch.Tensor, degrees: float, axis: int) -> torch.Tensor:
    """The body rotated about an axis of the volume, right-handed."""
    angle, (a, b) = math.radians(degrees), ((axis + 1) % 3, (axis + 2) % 3)
    matrix = torch.eye(3)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    inverse = matrix.T.flip(0, 1)  # grid_sample has Z, Y, X
    grid = affine_grid(torch.cat([inverse, torch.zeros(3, 1)], 1)[None], [1, *hu.shape], align_corners=False)
    return grid_sample(hu[None] + 1000, grid, align_corners=False)[0] - 1000


def asymmetric_body(
    size: int, scale: tuple[float, float, float] = (1.0, 1.0, 1.0), density: float = 1.0
) -> torch.Tensor:
    """
    Attenuation in 1/mm, `(1, 1, size, size, size)`, of a body of ellipsoids in a field of view of 360 mm, in air:
    trunk, two lungs of different size, a heart on one side and a spine behind. Its edges are as soft as a voxel.

    Args:
        size: voxels a side.
        scale: of its width, depth and height.
        density: of the trunk, water being 1.
    """
    side = ((torch.arange(size) + 0.5) / size - 0.5) * 360
    place = torch.meshgrid(*(side / factor for factor in scale), indexing="ij")
    parts = [  # middle and semi-axes in mm, density
        ((5, -3, 0), (140, 95, 150), density),
        ((-62, 8, 12), (45, 62, 95), 0.3 - density),
        ((68, 0, 20), (38, 55, 80), 0.25 - density),
        ((25, 35, -25), (42, 38, 50), 0.5),
        ((3, -68, 0), (16, 18, 140), 0.6),
    ]
    body = torch.zeros(size, size, size)
    for middle, axes, amount in parts:
        radius = sum(((at - m) / a) ** 2 for at, m, a in zip(place, middle, axes)) ** 0.5
        body += amount * ((1 - radius) * min(axes) * size / 360 + 0.5).clamp(0, 1)
    return WATER_ATTENUATION_PER_MM * body.clamp(min=0)[None, None]


def knee(size: int, shift_mm: float = 0.0, fov_mm: float = 180.0) -> torch.Tensor:
    """A knee in HU, `(size, size, size)`: air, soft tissue, femur and tibia with a joint between them, patella."""
    side = ((torch.arange(size) + 0.5) / size - 0.5) * fov_mm
    x, y, z = torch.meshgrid(side - shift_mm, side, side, indexing="ij")
    hu = torch.full((size, size, size), -1000.0)
    hu[x**2 + y**2 < (60 + 0.1 * z) ** 2] = 50.0
    hu[(x**2 + y**2 < 25**2) & (z.abs() > 5)] = 1200.0
    hu[(x / 20) ** 2 + ((y - 45) / 12) ** 2 + ((z - 15) / 20) ** 2 < 1] = 900.0
    return hu


def write_knees(folder: Path) -> None:
    """Knees of 24 voxels a side, 180 mm, and `datalist.json`, two of a public collection to train on."""
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number, section in enumerate(["training", "training", "validation", "test", "test"]):
        write_ct(str(folder / f"knee_{number}.nii.gz"), knee(24, 4.0 * number - 8.0), cube_affine(24, 180.0))
        sections[section].append({"ct": f"knee_{number}.nii.gz"})
    for record in sections["training"]:
        record |= {"collection": "Knees", "patient": record["ct"][:6], "licence": "CC BY 4.0"}
    (folder / "datalist.json").write_text(json.dumps(sections))
