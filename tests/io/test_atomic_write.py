from __future__ import annotations

import json
import os
from math import inf, nan
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from scripts import BiplanarGeometry, LoadRadiographsd, OutputError, PrepareXraysd
from scripts.io.atomic_write import write_atomically, write_folder_atomically, write_json
from scripts.io.dicom_ct_writer import write_ct_series
from scripts.io.image_writer import cube_affine, write_ct, write_greyscale, write_projection
from scripts.reporting.figures import middle_slice, preview_figure, volume_figure, xray_figure
from unwritable import full_disk, on_posix, read_only

NOISE = torch.randint(-1000, 1000, (32, 32, 32), generator=torch.Generator().manual_seed(0)).float()
WRITERS = {
    "ct.nii.gz": lambda path: write_ct(path, NOISE, cube_affine(32, 360.0)),
    "radiograph.nii.gz": lambda path: write_projection(path, NOISE[0], 3.75),
    "radiograph.png": lambda path: write_greyscale(path, NOISE[:2].reshape(32, 64)),
    "metrics.json": lambda path: write_json(path, NOISE[0].tolist()),
    "preview.png": lambda path: write_atomically(path, preview_figure(NOISE[:2], NOISE).savefig),
    "ct_dicom": lambda path: write_ct_series(path, NOISE, cube_affine(32, 360.0)),
}
"""What the bundle writes, each larger than 1024 bytes."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_then_fail(path: str) -> None:
    Path(path).write_text("half")
    raise OSError("disk full")


def test_a_file_appears_whole_under_its_name_and_suffix(tmp_path: Path):
    seen = []

    def write(path: str) -> None:
        seen.append(path)
        assert names(tmp_path / "new") == []
        Path(path).write_text("whole")

    write_atomically(str(tmp_path / "new" / "a.nii.gz"), write)
    assert names(tmp_path / "new") == ["a.nii.gz"]
    assert (tmp_path / "new" / "a.nii.gz").read_text() == "whole"
    assert seen[0].endswith(".nii.gz")


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path):
    with pytest.raises(OSError, match="disk full"):
        write_atomically(str(tmp_path / "a.txt"), half_then_fail)
    assert names(tmp_path) == []


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(str(tmp_path / "a.txt"), half_then_fail)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_interrupted_writer_leaves_no_file(tmp_path: Path):
    def interrupted(path: str) -> None:
        Path(path).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(tmp_path / "a.txt"), interrupted)
    assert names(tmp_path) == []


def test_a_folder_appears_whole_in_the_place_of_the_earlier_one(tmp_path: Path):
    def write(folder: str) -> None:
        assert names(Path(folder)) == []
        assert not (tmp_path / "new").exists() or names(tmp_path / "new") == ["a.txt"]
        Path(folder, "a.txt").write_text("whole")

    for _ in range(2):
        write_folder_atomically(str(tmp_path / "new"), write)
        assert names(tmp_path) == ["new"]
    write_folder_atomically(str(tmp_path / "new"), lambda folder: Path(folder, "b.txt").write_text("other"))
    assert names(tmp_path / "new") == ["b.txt"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_renamed_leaves_the_earlier_one(tmp_path: Path, monkeypatch, failing: int):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").write_text("old")
    rename, calls = os.rename, []

    def fail_once(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OutputError, match="a: cannot be written .Permission denied"):
        write_folder_atomically(str(tmp_path / "a"), lambda folder: Path(folder, "new.txt").write_text("new"))
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["old.txt"]


@on_posix
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_with_the_next_step_and_leaves_the_earlier_result(tmp_path: Path, name: str):
    WRITERS[name](str(tmp_path / name))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert max(map(len, files.values())) > 1024
    with full_disk(1024), pytest.raises(OutputError) as caught:
        WRITERS[name](str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written (File too large); free the place")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert names(tmp_path) == [name]


@on_posix
@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder_is_named_and_nothing_is_left(tmp_path: Path, name: str):
    (tmp_path / "output").mkdir()
    with read_only(tmp_path / "output"), pytest.raises(OutputError) as caught:
        WRITERS[name](str(tmp_path / "output" / name))
    assert str(caught.value).startswith(f"{tmp_path / 'output' / name}: cannot be written (Permission denied)")
    assert names(tmp_path / "output") == []


def test_a_relative_path_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("a.txt", lambda path: Path(path).write_text("whole"))
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_ct_reads_back_in_hu_at_its_place(tmp_path: Path, suffix: str):
    hu = torch.linspace(-1024, 1024, 5 * 6 * 7).reshape(5, 6, 7)
    affine = cube_affine(5, 100.0, torch.tensor([3.0, -4.0, 12.0]))
    write_ct(str(tmp_path / f"ct{suffix}"), hu, affine)
    image = nibabel.load(tmp_path / f"ct{suffix}")
    assert np.array_equal(image.get_fdata(), hu.round().numpy())
    np.testing.assert_allclose(image.affine, affine.numpy(), rtol=1e-6)
    assert image.get_data_dtype() == np.int16
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")


def test_the_affine_of_a_cube_centres_it():
    affine = cube_affine(8, 360.0, torch.tensor([1.0, 2.0, 3.0]))
    corners = torch.tensor([[-0.5, -0.5, -0.5, 1.0], [7.5, 7.5, 7.5, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[-179.0, -178.0, -177.0], [181.0, 182.0, 183.0]], dtype=torch.float64)
    torch.testing.assert_close((corners @ affine.T)[:, :3], expected)
    assert torch.equal(cube_affine(8, 360.0), cube_affine(8, 360.0, torch.zeros(3)))


def test_a_written_projection_reads_back_as_the_radiograph_with_its_absolute_scale(tmp_path: Path):
    radiograph = torch.rand(32, 32) * 8
    write_projection(str(tmp_path / "frontal.nii.gz"), radiograph, pixel_mm=15.0)
    record = LoadRadiographsd()({"frontal": str(tmp_path / "frontal.nii.gz")})
    read = PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=32), 8.0, (1, 99), (0.0, 0.7))(record)["frontal"]
    torch.testing.assert_close(read, radiograph[None] / 8)
    assert nibabel.load(tmp_path / "frontal.nii.gz").header.get_zooms()[:2] == (15.0, 15.0)


def test_an_image_file_of_a_radiograph_spans_black_to_white_and_keeps_its_orientation(tmp_path: Path):
    radiograph = torch.full((20, 30), 3.0)
    radiograph[:5, :10] = 7.0
    write_greyscale(str(tmp_path / "frontal.png"), radiograph)
    image_file = np.asarray(Image.open(tmp_path / "frontal.png"))
    assert image_file.shape == (20, 30)
    assert (image_file[:5, :10] == 255).all()
    assert image_file[5:].max() == image_file[:, 10:].max() == 0


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path):
    content = {"a": nan, "b": [1.5, -inf, {"c": inf}], "d": (2, "x", None, True)}
    write_json(str(tmp_path / "metrics.json"), content)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == {"a": None, "b": [1.5, None, {"c": None}], "d": [2, "x", None, True]}


def save(figure: Figure, path: Path) -> np.ndarray:
    write_atomically(str(path), figure.savefig)
    return np.asarray(Image.open(path).convert("L"), dtype=float)


def test_every_figure_can_be_saved_and_shows_something(tmp_path: Path):
    hu = {"stage 1": torch.rand(8, 8, 8) * 1000, "stage 2": torch.rand(16, 16, 16) * 1000}
    truth, radiographs = torch.rand(16, 16, 16) * 1000, torch.rand(2, 32, 32)
    figures = {
        "volumes.png": volume_figure(hu, truth, "A case"),
        "without_truth.png": volume_figure(hu),
        "radiographs.png": xray_figure(radiographs, {"stage 1": torch.rand(2, 16, 16)}, "A case"),
        "preview.png": preview_figure(radiographs, truth),
    }
    for name, figure in figures.items():
        assert save(figure, tmp_path / name).std() > 10
        assert "Research use only, not for diagnosis" in figure.get_suptitle()
    assert names(tmp_path) == sorted(figures)


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_slices_show_the_patients_right_anterior_and_superior_at_the_left_and_top(axis: int, plane: str):
    """Axial: right at the left, anterior at the top; coronal: right, superior; sagittal: anterior, superior."""
    corner = torch.zeros(8, 8, 8)
    corner[tuple(slice(None) if i == axis else slice(6, 8) for i in range(3))] = 1
    shown = middle_slice(corner, axis)
    assert shown[:2, :2].all(), plane
    assert shown.sum() == 4


@pytest.mark.parametrize(("axis", "left", "top"), [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_columns_and_rows_of_a_slice_are_the_right_axes(axis: int, left: int, top: int):
    volume = torch.zeros(8, 8, 8)
    volume.select(left, 7).fill_(1)
    assert torch.equal(middle_slice(volume, axis), torch.cat([torch.ones(8, 1), torch.zeros(8, 7)], 1))
    volume = torch.zeros(8, 8, 8)
    volume.select(top, 7).fill_(1)
    assert torch.equal(middle_slice(volume, axis), torch.cat([torch.ones(1, 8), torch.zeros(7, 8)], 0))


def test_the_error_shown_is_against_the_truth_averaged_to_the_volumes_size():
    truth = torch.rand(16, 16, 16) * 1000
    coarse = truth.reshape(8, 2, 8, 2, 8, 2).mean((1, 3, 5))
    figure = volume_figure({"stage 1": coarse + 100}, truth)
    shown = [place for place in figure.axes if "error of stage 1" in place.get_title()]
    assert len(shown) == 1
    np.testing.assert_allclose(shown[0].get_images()[0].get_array(), 100, atol=1e-3)
