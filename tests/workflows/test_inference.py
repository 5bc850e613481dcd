from __future__ import annotations

import base64
import errno
import os
import shutil
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.transforms import Orientation
from PIL import Image
from pydicom import FileDataset, dcmread

from browser import view_of
from bundle_runs import bundle_run, bundle_run_here, cause_of
from conftest import Trained
from ct_series_files import write_series
from phantoms import chest_imaging
from radiograph_files import write_line_integrals
from scripts import (
    BiplanarGeometry,
    CheckpointError,
    FinalVolumeInferer,
    FinalVolumeModel,
    ImagingModel,
    InputError,
    LoadCTd,
    OutputError,
    SaveReconstructiond,
    ToHUd,
)
from scripts.data.known_views import write_known_views
from scripts.io.image_writer import cube_affine, write_greyscale, write_projection
from scripts.reporting.viewer import projection_matrix
from unwritable import full_disk, on_posix, read_only


def infer(overlay: Path, weights: Path, output: Path, **radiographs: Path) -> None:
    """`inference.json` at the tests' sizes."""
    configs = ["bundle/configs/inference.json", str(overlay)]
    bundle_run_here("run", configs, weights=weights, output_dir=output, **radiographs)


@pytest.fixture(scope="module")
def weights(trained: Trained) -> Path:
    return trained.folder / "stage3_best.pth"


@pytest.fixture(scope="module")
def radiographs(dataset: Path) -> dict[str, Path]:
    """A pair of float radiographs."""
    return {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}


def line_integrals(radiographs: dict[str, Path]) -> torch.Tensor:
    """`(1, 2, 128, 128)`, read without the bundle."""
    views = [nibabel.load(path).get_fdata()[..., 0].T for path in radiographs.values()]
    return torch.tensor(np.stack(views))[None].float()


def image_files(radiographs: dict[str, Path], folder: Path, size: tuple[int, int] = (128, 128)) -> dict[str, Path]:
    """The radiographs as 8-bit PNG of this width and height."""
    paths = {view: folder / f"{view}.png" for view in radiographs}
    for path, radiograph in zip(paths.values(), line_integrals(radiographs)[0]):
        write_greyscale(str(path), radiograph)
        Image.open(path).resize(size, Image.Resampling.BILINEAR).save(path)
    return paths


def test_float_radiographs_give_the_cascades_volume_in_hu_at_its_place(
    overlay, weights, radiographs, small_cascade, tmp_path
):
    infer(overlay, weights, tmp_path, **radiographs)
    model = small_cascade().eval()
    model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    with torch.no_grad():
        volume = model(line_integrals(radiographs) / 8)[-1][0, 0].clamp(0, 1)
    image = nibabel.load(tmp_path / "ct.nii.gz")
    assert image.shape == (64, 64, 64)
    assert volume.std() > 0.01
    np.testing.assert_allclose(image.get_fdata(), volume.numpy() * 2048 - 1024, atol=0.51)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([5.625] * 3))
    np.testing.assert_allclose(image.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1], atol=1e-4)


@pytest.mark.parametrize("known", [None, [("PA", "LL"), ("AP", "LL")]])
def test_dicom_radiographs_in_either_order_give_the_volume_of_the_geometry_in_their_tags(
    overlay, weights, radiographs, small_cascade, geometry, tmp_path: Path, known
):
    """
    The phantom's radiographs, said to be AP and RL, in swapped fields. Weights that have not met AP receive PA, with
    a warning; all receive RL.
    """
    weights = Path(shutil.copy(weights, tmp_path / "weights.pt"))
    if known:
        write_known_views(str(weights), known)
    xrays = line_integrals(radiographs)
    place = {"frontal": {"ViewPosition": "AP"}, "lateral": {"ViewPosition": "RL", "PatientOrientation": ["P", "F"]}}
    paths = [
        write_line_integrals(tmp_path / f"{field}.dcm", radiograph, **place[field])
        for field, radiograph in zip(radiographs, xrays[0].numpy())
    ]
    with pytest.warns(UserWarning, match="swapped") as warned:
        infer(overlay, weights, tmp_path / "output", frontal=paths[1], lateral=paths[0])
    assert any("view is AP, expected PA" in str(warning.message) for warning in warned) == (known is None)
    model = small_cascade().eval()
    model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    with torch.no_grad():
        as_read, configured = (
            model(xrays / 8, geometry=replace(geometry, views=views))[-1][0, 0].clamp(0, 1).numpy() * 2048 - 1024
            for views in (("AP" if known else "PA", "RL"), geometry.views)
        )
    found = nibabel.load(tmp_path / "output" / "ct.nii.gz").get_fdata()
    np.testing.assert_allclose(found, as_read, atol=1.0)
    assert np.abs(as_read - configured).max() > 2.0
    page = view_of(tmp_path / "output" / "view.html")
    assert [view["name"] for view in page["xrays"]] == ["Frontal X-ray, AP", "Lateral X-ray, RL"]
    marks = [projection_matrix(replace(geometry, views=("AP", "RL")), (0, 0, 0), view) for view in (0, 1)]
    np.testing.assert_allclose([view["projection"] for view in page["xrays"]], marks, atol=1e-9)


def test_the_preview_shows_radiographs_and_three_planes_and_the_page_holds_the_ct(
    overlay, weights, radiographs, tmp_path: Path
):
    infer(overlay, weights, tmp_path, **radiographs)
    preview = np.asarray(Image.open(tmp_path / "preview.png").convert("L"), dtype=float)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ct.nii.gz",
        "measurements.json",
        "preview.png",
        "run.json",
        "view.html",
    ]
    (volume,) = view_of(tmp_path / "view.html")["volumes"]
    assert base64.b64decode(volume["file"]) == (tmp_path / "ct.nii.gz").read_bytes()
    assert preview.shape[1] > 4 * preview.shape[0] > 400
    for panel in np.array_split(preview[preview.shape[0] // 4 :], 5, axis=1):
        assert panel.std() > 10


def test_the_dicom_series_holds_the_same_ct_and_names_nobody(overlay, weights, radiographs, tmp_path: Path):
    infer(overlay, weights, tmp_path, dicom=True, **radiographs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ct.nii.gz",
        "ct_dicom",
        "measurements.json",
        "preview.png",
        "run.json",
        "view.html",
    ]
    to_ras, load = Orientation("RAS", labels=None), LoadCTd("ct")
    series, volume = (to_ras(load({"ct": str(tmp_path / name)})["ct"]) for name in ("ct_dicom", "ct.nii.gz"))
    assert torch.equal(series.as_tensor(), volume.as_tensor())
    torch.testing.assert_close(series.affine, volume.affine, rtol=1e-6, atol=1e-5)
    assert {dcmread(path).PatientID for path in (tmp_path / "ct_dicom").iterdir()} == {"ANONYMOUS"}


def test_a_patient_that_cannot_be_copied_ends_it_before_anything_is_written(
    overlay, weights, radiographs, tmp_path: Path
):
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path, dicom=True, copy_patient=True, **radiographs)
    assert "the patient's data cannot be copied from it" in cause_of(caught.value, InputError)
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path, copy_patient=True, **radiographs)
    assert "copy_patient needs dicom" in cause_of(caught.value, InputError)
    assert not list(tmp_path.iterdir())


def test_the_patient_is_copied_when_asked(tmp_path: Path):
    radiograph = write_series(tmp_path / "radiograph", lambda image, _: setattr(image, "PatientID", "4711")) / "0.dcm"
    record = {"pred": torch.rand(1, 8, 8, 8), "image": torch.rand(2, 16, 16)}
    output = str(tmp_path / "output")
    save = SaveReconstructiond(output, BiplanarGeometry(), dicom=True, copy_patient_from=str(radiograph))
    save(ToHUd(chest_imaging(fov_mm=80.0))(record))
    images = [dcmread(path) for path in (tmp_path / "output" / "ct_dicom").iterdir()]
    assert {image.PatientID for image in images} == {"4711"}
    assert {image.StudyInstanceUID for image in images} == {dcmread(radiograph).StudyInstanceUID}


def test_a_folder_holds_the_results_of_one_run(overlay, weights, radiographs, tmp_path: Path):
    """A second run without `dicom` leaves no series, of another patient perhaps, next to its CT."""
    infer(overlay, weights, tmp_path, dicom=True, **radiographs)
    infer(overlay, weights, tmp_path, **radiographs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ct.nii.gz",
        "measurements.json",
        "preview.png",
        "run.json",
        "view.html",
    ]


def saved(folder: Path, seed: int, **arguments) -> None:
    """What `infer` writes of a prediction that this seed draws."""
    draw = torch.Generator().manual_seed(seed)
    record = {"pred": torch.rand(1, 16, 16, 16, generator=draw), "image": torch.rand(2, 16, 16, generator=draw)}
    SaveReconstructiond(str(folder), BiplanarGeometry(), **arguments)(ToHUd(chest_imaging(fov_mm=80.0))(record))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dicom", [False, True])
def test_an_earlier_series_goes_also_when_the_new_results_cannot_all_be_written(
    tmp_path: Path, monkeypatch, dicom: bool
):
    """The CT is new: nothing of the earlier run lies next to it. Before that, everything is as it was."""
    saved(tmp_path, 0, dicom=True)
    earlier = contents(tmp_path)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patch,
        pytest.raises(OutputError, match="ct.nii.gz: cannot be written .No space left"),
    ):
        patch.setattr(nibabel, "save", fails)
        saved(tmp_path, 1, dicom=dicom)
    assert contents(tmp_path) == earlier
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="cannot be written .No space left"):
        patch.setattr(Figure, "savefig", fails)
        patch.setattr(FileDataset, "save_as", fails)
        saved(tmp_path, 1, dicom=dicom)
    assert list(contents(tmp_path)) == ["ct.nii.gz"]
    assert contents(tmp_path)["ct.nii.gz"] != earlier["ct.nii.gz"]


def test_a_folder_of_other_files_under_the_name_of_the_series_is_left_alone(tmp_path: Path):
    (tmp_path / "ct_dicom").mkdir()
    (tmp_path / "ct_dicom" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="ct_dicom: holds 1 files that are no series, such as notes.txt"):
        saved(tmp_path, 0)
    assert contents(tmp_path) == {"ct_dicom/notes.txt": b"mine"}


@on_posix
def test_a_read_only_output_folder_is_named_and_nothing_is_written(tmp_path: Path):
    output = tmp_path / "output"
    output.mkdir()
    with read_only(output), pytest.raises(OutputError, match="output/ct.nii.gz: cannot be written .Permission denied"):
        saved(output, 0)
    assert not list(output.iterdir())


@on_posix
def test_a_full_disk_ends_the_inference_with_the_file_and_no_half_of_it(overlay, weights, radiographs, tmp_path: Path):
    with full_disk(4096), pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path / "output", **radiographs)
    message = cause_of(caught.value, OutputError)
    assert message.startswith(f"{tmp_path}/output/ct.nii.gz: cannot be written (File too large); free the place")
    assert not list((tmp_path / "output").iterdir())


def test_image_files_of_any_size_give_a_volume(overlay, weights, radiographs, tmp_path: Path):
    infer(overlay, weights, tmp_path, **image_files(radiographs, tmp_path, size=(90, 150)))
    hu = nibabel.load(tmp_path / "ct.nii.gz").get_fdata()
    assert hu.shape == (64, 64, 64)
    assert hu.min() >= -1024 and hu.max() <= 1024 and hu.std() > 10


def test_the_brightness_and_contrast_of_an_image_file_do_not_matter(overlay, weights, radiographs, tmp_path: Path):
    """Integers have no absolute scale: a darker, flatter image file leads to the same CT, as far as its 8 bits go."""
    volumes = []
    for name, gain, offset in (("plain", 1.0, 0.0), ("flat", 0.6, 50.0)):
        folder = tmp_path / name
        folder.mkdir()
        paths = image_files(radiographs, folder)
        for path in paths.values():
            Image.fromarray((np.asarray(Image.open(path)) * gain + offset).round().astype(np.uint8)).save(path)
        infer(overlay, weights, folder, **paths)
        volumes.append(nibabel.load(folder / "ct.nii.gz").get_fdata())
    assert np.abs(volumes[0] - volumes[1]).mean() < 0.02 * volumes[0].std()


def test_an_orientation_declared_on_the_command_line_turns_the_lateral_radiograph(
    overlay, weights, radiographs, tmp_path: Path
):
    """The line of `docs/data.md`: a radiograph stored facing right leads to the CT of the one that faces left."""
    image = nibabel.load(radiographs["lateral"])
    nibabel.save(
        nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1], image.affine), tmp_path / "lateral.nii.gz"
    )
    infer(overlay, weights, tmp_path / "facing left", **radiographs)
    run = bundle_run(
        "run",
        ["bundle/configs/inference.json", str(overlay)],
        frontal=radiographs["frontal"],
        lateral=tmp_path / "lateral.nii.gz",
        weights=weights,
        output_dir=tmp_path / "turned",
        **{"radiograph_orientation#lateral": "['A','F']"},
    )
    assert run.returncode == 0, run.stdout[-3000:]
    expected, found = (nibabel.load(tmp_path / name / "ct.nii.gz").get_fdata() for name in ("facing left", "turned"))
    np.testing.assert_allclose(found, expected, atol=1.0)


def test_a_second_run_gives_the_same_bytes_of_image(overlay, weights, radiographs, tmp_path: Path):
    for name in ("first", "second"):
        infer(overlay, weights, tmp_path / name, **radiographs)
    images = [nibabel.load(tmp_path / name / "ct.nii.gz").get_fdata() for name in ("first", "second")]
    assert np.array_equal(*images)


def spoil(kind: str, path: Path) -> Path:
    """A radiograph that cannot be used, in `path`'s folder."""
    radiograph = torch.rand(128, 128)
    if kind in ("nan", "infinite"):
        radiograph[3, 5] = {"nan": nan, "infinite": inf}[kind]
        write_projection(str(path), radiograph, 3.75)
    elif kind == "constant":
        write_projection(str(path), torch.full((128, 128), 2.0), 3.75)
    elif kind == "volume":
        image = nibabel.Nifti1Image(np.random.default_rng(0).random((16, 16, 16)), np.eye(4))
        nibabel.save(image, path)
    elif kind == "colour":
        path = path.with_name("radiograph.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    elif kind == "text":
        path = path.with_name("radiograph.png")
        path.write_text("no image")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "names a file that does not exist"),
        ("nan", "holds 1 NaN or infinite values"),
        ("infinite", "holds 1 NaN or infinite values"),
        ("constant", "constant"),
        ("volume", r"has shape (16, 16, 16), expected a single-channel image of 2 dimensions"),
        ("colour", r"has colours in"),
        ("text", "cannot be read as an image"),
    ],
)
@pytest.mark.parametrize("view", ["frontal", "lateral"])
def test_a_radiograph_that_cannot_be_used_is_named_and_nothing_is_written(
    overlay, weights, radiographs, tmp_path: Path, kind: str, message: str, view: str
):
    path = spoil(kind, tmp_path / "radiograph.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path / "output", **{**radiographs, view: path})
    found = cause_of(caught.value, InputError)
    assert str(path) in found
    assert f"'{view}'" in found
    assert message in found
    assert not list(tmp_path.glob("output/*"))


@pytest.mark.parametrize("view", ["frontal", "lateral"])
def test_a_missing_file_of_one_view_is_refused_by_its_field(overlay, weights, radiographs, tmp_path: Path, view: str):
    other = {"frontal": "lateral", "lateral": "frontal"}[view]
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path / "output", dataset_dir=tmp_path, **{view: radiographs[view]})
    assert f"field '{other}' names a file that does not exist" in cause_of(caught.value, InputError)
    assert not list(tmp_path.glob("output/*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"network_def#hidden_size": 32}, "size mismatch"), ({"network_def#num_layers": [1, 1, 2]}, "Missing key")],
)
def test_weights_of_other_sizes_are_refused_and_nothing_is_written(
    overlay, weights, radiographs, tmp_path: Path, overrides: dict, message: str
):
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, weights, tmp_path / "output", **radiographs, **overrides)
    found = cause_of(caught.value, CheckpointError)
    assert found.startswith(f"{weights}: does not fit the network of this configuration")
    assert message in found
    assert "stage3.json" in found
    assert not list(tmp_path.glob("output/*"))


def test_weights_of_an_earlier_stage_are_refused(overlay, trained: Trained, radiographs, tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, trained.folder / "stage2_best.pth", tmp_path / "output", **radiographs)
    assert "does not fit the network" in cause_of(caught.value, CheckpointError)


def test_missing_weights_are_named_with_the_command_that_makes_them(overlay, radiographs, tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        infer(overlay, tmp_path / "model.pt", tmp_path / "output", **radiographs)
    message = cause_of(caught.value, CheckpointError)
    assert message.startswith(f"{tmp_path}/model.pt: no such checkpoint")
    assert "python -m monai.bundle run training" in message


def test_the_window_is_undone_and_what_lies_outside_is_clipped():
    volume = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5]).expand(1, 5, 5, 5)
    result = ToHUd(ImagingModel(BiplanarGeometry(fov_mm=10.0), (-1000.0, 1000.0), 8.0))(
        {"pred": volume, "image": "kept"}
    )
    assert torch.equal(result["pred"].as_tensor()[0, 2, 3], torch.tensor([-1000.0, -1000.0, -500.0, 1000.0, 1000.0]))
    assert torch.equal(result["pred"].affine, cube_affine(5, 10.0))
    assert result["image"] == "kept"


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_inferer_gives_the_last_volume_alone(small_cascade, awaken, stages: int):
    whole, xrays = awaken(small_cascade()), torch.rand(2, 2, 128, 128)
    final = small_cascade(FinalVolumeModel, stages=stages)
    final.load_state_dict(whole.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(FinalVolumeInferer()(xrays, final), whole(xrays, stages=3)[stages - 1])
