from __future__ import annotations

from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from phantoms import phantom
from scripts import InputError, LoadShapesd, Registration
from scripts.anatomy import shape_registration
from scripts.anatomy.shape_registration import register_section
from scripts.anatomy.shapes import read_content, read_shapes, shapes_path, with_shapes, write_shapes

FOV, SIZE, GRID = 360.0, 16, 8
LEVELS = [
    {"cells": 0, "size": 8, "steps": 5, "rate": 0.1},
    {"cells": 2, "size": 8, "steps": 5, "rate": 0.1, "stiffness": 0.002},
]
NAMES = ("a", "b", "c")


def records(*shifts: float) -> list[dict[str, Any]]:
    return [{"name": name, "ct": phantom(SIZE, shift)[None]} for name, shift in zip(NAMES, shifts)]


def register(folder: Path, cts: list[dict[str, Any]], levels: list[dict[str, Any]] = LEVELS, **changed: Any) -> None:
    given = {"fov_mm": FOV, "grid": GRID, "max_targets": 10, "device": torch.device("cpu")}
    register_section(cts, Registration(levels), str(folder), **{**given, **changed})


def displacements(count: int = 2, grid: int = GRID) -> torch.Tensor:
    return torch.rand(count, 3, grid, grid, grid, generator=torch.Generator().manual_seed(0)) * 20 - 10


def file_of(path: Path, shapes: torch.Tensor, **content: Any) -> str:
    write_shapes(str(path), shapes, FOV, {"targets": [str(number) for number in range(len(shapes))], **content})
    return str(path)


def test_displacements_come_back_as_they_were_written(tmp_path: Path):
    path = file_of(tmp_path / "a.nii.gz", displacements())
    assert torch.equal(read_shapes(path, FOV), displacements())
    assert torch.equal(LoadShapesd("shapes", FOV)({"shapes": path})["shapes"], displacements())


def test_itk_reads_them_as_displacements_of_its_own_frame(tmp_path: Path):
    """NIfTI's vectors point to right and anterior, ITK's to left and posterior; a voxel is where it is in both."""
    image = itk.imread(file_of(tmp_path / "a.nii.gz", displacements(1)))
    found = itk.array_view_from_image(image).squeeze().transpose(2, 1, 0, 3)
    expected = displacements(1)[0].movedim(0, -1).numpy() * [-1, -1, 1]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    first_voxel_mm = FOV / GRID / 2 - FOV / 2
    assert list(image.GetOrigin())[:3] == pytest.approx([-first_voxel_mm, -first_voxel_mm, first_voxel_mm])


def warped(hu: torch.Tensor, shape_mm: torch.Tensor) -> torch.Tensor:
    """By another route than the bundle's: SciPy's linear interpolation of the displacements, then of the CT."""
    places = np.indices((SIZE,) * 3).astype(float)
    on_grid = (places + 0.5) * GRID / SIZE - 0.5
    moved = [map_coordinates(axis, on_grid, order=1, mode="nearest") for axis in shape_mm.numpy()]
    read = map_coordinates(hu[0].numpy(), places + np.array(moved) * SIZE / FOV, order=1, mode="nearest")
    return torch.from_numpy(read)[None]


def test_each_ct_is_registered_to_each_other_and_made_to_look_like_it(tmp_path: Path):
    cts = records(0.0, 0.06, -0.06)
    register(tmp_path, cts, [{**level, "size": SIZE, "steps": 30} for level in LEVELS])
    hu = {record["name"]: record["ct"] for record in cts}
    for number, name in enumerate(NAMES):
        path = shapes_path(str(tmp_path), name)
        content = read_content(path)
        assert content["moving"] == name and content["targets"] == [*NAMES[number + 1 :], *NAMES[:number]]
        for target, shape in zip(content["targets"], read_shapes(path, FOV)):
            before, after = ((each - hu[target]).square().mean() for each in (hu[name], warped(hu[name], shape)))
            assert after < 0.5 * before


def test_a_run_goes_on_where_it_was_ended_and_makes_anew_what_depends_on_a_change(tmp_path: Path, monkeypatch):
    calls: list[int] = []
    register_one = shape_registration.displacement_mm

    def counted(*arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 4:  # the second CT's last
            raise KeyboardInterrupt
        return register_one(*arguments)

    monkeypatch.setattr(shape_registration, "displacement_mm", counted)
    with pytest.raises(KeyboardInterrupt):
        register(tmp_path, records(0.0, 0.06, -0.06))
    assert [path.name for path in tmp_path.glob("*.nii.gz")] == ["a.nii.gz"]
    first = (tmp_path / "a.nii.gz").stat().st_mtime_ns
    register(tmp_path, records(0.0, 0.06, -0.06))
    assert len(calls) == 8 and (tmp_path / "a.nii.gz").stat().st_mtime_ns == first
    register(tmp_path, records(0.0, 0.06, -0.06))
    assert len(calls) == 8
    register(tmp_path, records(0.0, 0.06, -0.05), max_targets=1)
    assert len(calls) == 11 and read_content(str(tmp_path / "a.nii.gz"))["targets"] == ["b"]
    register(tmp_path, records(0.01, 0.06, -0.05), max_targets=1)
    assert len(calls) == 13  # b to c is as it was
    register(tmp_path, records(0.01, 0.06, -0.05), LEVELS[:1], max_targets=1)
    assert len(calls) == 16


def test_one_ct_has_no_other(tmp_path: Path):
    with pytest.raises(InputError, match="1 CT in the training section"):
        register(tmp_path, records(0.0))


def test_records_get_the_file_of_their_name(tmp_path: Path):
    named = [{"name": name} for name in "ab"]
    assert with_shapes(named, None) == named
    paths = [file_of(tmp_path / f"{name}.nii.gz", displacements()) for name in "ab"]
    assert with_shapes(named, str(tmp_path)) == [{"name": n, "shapes": path} for n, path in zip("ab", paths)]
    file_of(tmp_path / "b.nii.gz", displacements(1))
    with pytest.raises(InputError, match="b.nii.gz: has 1 targets, expected 2 as in .*a.nii.gz.*launch.py register"):
        with_shapes(named, str(tmp_path))
    with pytest.raises(InputError, match="c.nii.gz: no such file.*launch.py register"):
        with_shapes([{"name": "c"}], str(tmp_path))


def write_other(path: Path, kind: str) -> None:
    if kind == "no NIfTI":
        path.write_bytes(b"no image")
    elif kind == "cut off":
        whole = Path(file_of(path, displacements())).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "a CT":
        nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    elif kind == "NaN":
        file_of(path, torch.full((1, 3, 4, 4, 4), torch.nan))
    else:
        write_shapes(str(path), displacements(), 320.0, {"targets": ["a", "b"]})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no NIfTI", "cannot be read as NIfTI"),
        ("cut off", "cannot be read"),
        ("a CT", r"has shape \(8, 8, 8\), expected \(G, G, G, N, 3\)"),
        ("NaN", "holds NaN"),
        ("another field", "is of a field of view of 320 mm, expected 360 mm"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, kind: str, message: str):
    path = tmp_path / "a.nii.gz"
    write_other(path, kind)
    with pytest.raises(InputError, match=f"{path}: {message}.*launch.py register"):
        read_shapes(str(path), FOV)


def test_a_file_whose_names_are_not_as_many_as_its_displacements_is_refused(tmp_path: Path):
    path = file_of(tmp_path / "a.nii.gz", displacements(), targets=["b"])
    with pytest.raises(InputError, match="names \\['b'\\] as 'targets', expected 2"):
        with_shapes([{"name": "a"}], str(tmp_path))
    assert read_shapes(path, FOV).shape[0] == 2
