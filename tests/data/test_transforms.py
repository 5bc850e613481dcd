from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from math import ceil, cos, sin
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd
from PIL import Image

from scripts import BiplanarGeometry, InputError, LoadCTd, LoadRadiographsd, PrepareXraysd, ResampleToCubed
from scripts.io.image_writer import cube_affine

SIZE, FOV = 24, 360.0


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def png(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)


def to_cube(path: str, size: int = SIZE, fov_mm: float = FOV) -> MetaTensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*of the cube")
        load = Compose([LoadCTd("ct"), Orientationd("ct", "RAS", labels=None), ResampleToCubed("ct", size, fov_mm)])
        return load({"ct": path})["ct"]


def prepare(path: str, pixels: int, xray_scale: float = 8.0) -> torch.Tensor:
    """The radiograph on a detector of `pixels`; that its spacing is missing is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no pixel spacing")
        record = LoadRadiographsd()({"frontal": path})
    return PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=pixels), xray_scale, (1, 99), (0.0, 0.7))(record)[
        "frontal"
    ]


# Loading


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1)])
def test_a_volume_is_loaded_channel_first_with_its_values_and_place(tmp_path: Path, shape: tuple):
    array = noise(*shape)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    ct = LoadCTd("ct")({"ct": nifti(tmp_path / "ct.nii.gz", array, affine)})["ct"]
    assert ct.shape == (1, 4, 5, 6)
    assert ct.dtype == torch.float32
    np.testing.assert_array_equal(ct[0].numpy(), array.reshape(4, 5, 6))
    np.testing.assert_allclose(ct.affine.numpy(), affine)


def test_loading_leaves_the_given_record_as_it_was(tmp_path: Path):
    record = {"ct": nifti(tmp_path / "ct.nii.gz", noise(4, 4, 4))}
    LoadCTd("ct")(record)
    assert isinstance(record["ct"], str)


def with_value(value: float) -> np.ndarray:
    array = noise(4, 5, 6)
    array[1, 2, 3] = array[0, 0, 0] = value
    return array


def text_file(path: Path) -> str:
    path.write_text("this is no image\n")
    return str(path)


REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing file": (lambda folder: str(folder / "nowhere.nii.gz"), "does not exist"),
    "text as volume": (lambda folder: text_file(folder / "a.nii.gz"), "cannot be read as an image"),
    "empty folder": (lambda folder: str(folder), "holds no DICOM file"),
    "channels": (lambda folder: nifti(folder / "a.nii.gz", noise(4, 5, 6, 2)), "shape (4, 5, 6, 2)"),
    "flat volume": (lambda folder: nifti(folder / "a.nii.gz", noise(4, 5)), "shape (4, 5)"),
    "NaN": (lambda folder: nifti(folder / "a.nii.gz", with_value(np.nan)), "holds 2 NaN or infinite values"),
    "infinite": (lambda folder: nifti(folder / "a.nii.gz", with_value(-np.inf)), "holds 2 NaN or infinite values"),
    "constant": (lambda folder: nifti(folder / "a.nii.gz", np.ones((4, 5, 6))), "empty or constant"),
}


@pytest.mark.parametrize(("write", "found"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_usable_image_is_refused_by_file_field_and_finding(tmp_path: Path, write, found: str):
    path = write(tmp_path)
    with pytest.raises(InputError) as caught:
        LoadCTd("thorax")({"thorax": path})
    for part in (path, "'thorax'", found):
        assert part in str(caught.value)


def test_an_empty_volume_is_refused_as_empty(tmp_path: Path):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((0, 4, 4), np.float32))
    with pytest.raises(InputError, match="'ct'") as caught:
        LoadCTd("ct")({"ct": path})
    assert path in str(caught.value)


# The cube


def rotation(angle: float) -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]
    return turn


ORIENTATIONS = {
    "RAS": np.diag([4.0, 5.0, 6.0, 1.0]),
    "LPS": np.diag([-4.0, -5.0, 6.0, 1.0]),
    "permuted": np.array([[0, 0, 6.0, 0], [-4.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 0, 1.0]]),
    "oblique": rotation(0.15) @ np.diag([4.0, 5.0, 6.0, 1.0]),
}


@pytest.mark.parametrize("axes", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_a_blob_stays_where_it_was_in_the_patient(tmp_path: Path, axes: np.ndarray):
    shape, middle, at = (72, 60, 50), np.array([12.0, -30.0, 150.0]), np.array([62.0, 25.0, 110.0])
    affine = axes.copy()
    affine[:3, 3] = middle - axes[:3, :3] @ ((np.array(shape) - 1) / 2)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    array = -1000 + 1500 * np.exp(-((world - at) ** 2).sum(-1) / (2 * 15.0**2))
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", array.astype(np.float32), affine), size=48)

    expected = cube_affine(48, FOV, torch.tensor(middle))
    torch.testing.assert_close(cube.affine.double(), expected, rtol=1e-5, atol=1e-3)
    voxels = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"), -1)
    world = voxels @ expected[:3, :3].numpy().T + expected[:3, 3].numpy()
    weight = cube[0].numpy() + 1000
    np.testing.assert_allclose((world * weight[..., None]).sum((0, 1, 2)) / weight.sum(), at, atol=0.3)


def test_outside_of_the_ct_is_air(tmp_path: Path):
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", np.abs(noise(20, 20, 20)), affine), size=36)
    inside = torch.zeros(36, 36, 36, dtype=torch.bool)
    inside[8:28, 8:28, 8:28] = True
    assert (cube[0][~inside] == -1000).all()
    assert (cube[0][inside] >= 0).all()


def test_padding_below_air_is_air(tmp_path: Path):
    array = noise(24, 24, 24)
    array[:4], array[4:8] = -3024, -1024
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", array, cube_affine(24, FOV).numpy()))
    assert (cube[0, :8] == -1000).all()
    assert cube.min() == -1000


@pytest.mark.parametrize("size", [24, 25])
def test_a_ct_that_already_is_the_cube_comes_back_unchanged(tmp_path: Path, size: int):
    array = noise(size, size, size).round()
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", array, cube_affine(size, FOV, torch.ones(3)).numpy()), size=size)
    np.testing.assert_allclose(cube[0].numpy(), array, atol=0.02)


def test_a_coarser_cube_averages_the_noise_and_keeps_the_mean(tmp_path: Path):
    """Linear interpolation alone would leave at least 1/sqrt(8) = 35 % of the noise."""
    array = noise(96, 96, 96) + 40
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", array), size=24, fov_mm=96.0)[0, 3:-3, 3:-3, 3:-3]
    assert cube.mean().item() == pytest.approx(40, abs=1)
    assert cube.std() < 10


def test_smoothing_for_a_coarser_cube_does_not_darken_the_borders_of_the_ct(tmp_path: Path):
    array = np.full((96, 96, 96), -960, np.float32)
    array[48, 48, 48], array[40, 40, 40] = -959, -960.5
    cube = to_cube(nifti(tmp_path / "ct.nii.gz", array), size=24, fov_mm=96.0)
    np.testing.assert_allclose(cube[0].numpy(), -960, atol=1)


def test_a_ct_that_covers_little_of_the_cube_is_named_in_a_warning(tmp_path: Path):
    path = nifti(tmp_path / "small.nii.gz", noise(20, 20, 20), np.diag([9.0, 9.0, 9.0, 1.0]))
    record = LoadCTd("ct")({"ct": path})
    with pytest.warns(UserWarning, match=re.escape(path)) as caught:
        ResampleToCubed("ct", SIZE, FOV)(record)
    for part in ("'ct'", "12%", "180 x 180 x 180 mm"):
        assert part in str(caught[0].message)


def test_a_ct_that_covers_most_of_the_cube_passes_without_a_warning(tmp_path: Path):
    path = nifti(tmp_path / "large.nii.gz", noise(40, 40, 20), np.diag([9.0, 9.0, 9.5, 1.0]))
    record = LoadCTd("ct")({"ct": path})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ResampleToCubed("ct", SIZE, FOV)(record)


# Preparation of X-rays


def test_a_floating_point_radiograph_keeps_its_absolute_scale(tmp_path: Path):
    radiograph = np.abs(noise(16, 16, 1))
    prepared = prepare(nifti(tmp_path / "radiograph.nii.gz", radiograph), 16, xray_scale=4.0)
    np.testing.assert_allclose(prepared[0].numpy(), radiograph[..., 0].T / 4, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_percentiles_of_an_integer_radiograph_become_the_standard_range(tmp_path: Path, dtype: type):
    array = np.random.default_rng(0).integers(20, 200, (64, 64)).astype(dtype) * (1 if dtype == np.uint8 else 200)
    prepared = prepare(png(tmp_path / "radiograph.png", array), 64)
    low, high = np.percentile(prepared.numpy(), (1, 99))
    assert (low, high) == (pytest.approx(0, abs=1e-5), pytest.approx(0.7, abs=1e-5))
    order = np.argsort(array, axis=None, kind="stable")
    assert (np.diff(prepared.numpy().ravel()[order]) >= 0).all()


def test_brightness_and_contrast_of_an_integer_radiograph_do_not_matter(tmp_path: Path):
    array = np.random.default_rng(0).integers(0, 100, (16, 16))
    plain = prepare(png(tmp_path / "a.png", array.astype(np.uint8)), 16)
    other = prepare(png(tmp_path / "b.png", (array * 300 + 1000).astype(np.uint16)), 16)
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (48, 40), (150, 90)])
def test_radiographs_of_other_sizes_are_brought_to_the_detectors_pixels(tmp_path: Path, height: int, width: int):
    """A ramp from top to bottom stays one, from end to end of the longer side; the picture keeps its shape."""
    ramp = np.broadcast_to((np.arange(height) + 0.5) / height, (width, height))[..., None].astype(np.float32)
    prepared = prepare(nifti(tmp_path / "radiograph.nii.gz", ramp), 32, xray_scale=1.0)
    assert prepared.shape == (1, 32, 32)
    margin = ceil((32 - 32 * width / height) / 2 - 0.5)
    expected = ((torch.arange(32) + 0.5) / 32)[:, None].expand(32, 32 - 2 * margin)
    torch.testing.assert_close(prepared[0, 3:-3, margin : 32 - margin], expected[3:-3], rtol=0, atol=1e-3)
    assert not prepared[0, :, :margin].any() and not prepared[0, :, 32 - margin :].any()


def test_a_finer_radiograph_is_averaged_and_not_sampled(tmp_path: Path):
    radiograph = np.abs(noise(256, 256, 1))
    prepared = prepare(nifti(tmp_path / "radiograph.nii.gz", radiograph), 32, xray_scale=1.0)
    assert prepared.mean().item() == pytest.approx(radiograph.mean(), rel=0.01)
    assert prepared.std() < 0.15 * radiograph.std()


@pytest.mark.parametrize("suffix", ["png", "nii.gz"])
def test_the_top_left_of_a_radiograph_stays_at_the_top_left(tmp_path: Path, suffix: str):
    array = np.zeros((32, 32), np.uint8)
    array[:8, :16] = 200
    path = tmp_path / f"radiograph.{suffix}"
    prepared = prepare(png(path, array) if suffix == "png" else nifti(path, array.T[..., None]), 32)[0]
    bright = prepared > 0.35
    assert bright[:8, :16].all()
    assert bright.sum() == 8 * 16
