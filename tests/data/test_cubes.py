"""Datasets of cubes: what `preprocess` makes of a datalist, and what reads it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from monai.data import DataLoader
from monai.transforms import Compose

from phantoms import phantom
from scripts import InputError, OutputError, cached_dataset, load_records
from scripts.data.cubes import write_cubes
from scripts.data.datalist import SECTIONS
from scripts.data.datalist_check import training_transforms
from scripts.data.shards import Shard, dealt_back
from scripts.io.cube_files import CubeHeader, read_cube, read_cube_header, write_cube
from scripts.io.image_writer import cube_affine, write_ct
from unwritable import full_disk, on_posix

PIXELS = {"geometry#detector_pixels": 128}
HEADER = CubeHeader(96, 360.0, (1.0, -2.0, 3.5), (300.0, 310.0, 320.0), "made of this")


@pytest.fixture(scope="module")
def load() -> Compose:
    return training_transforms(**PIXELS)


@pytest.fixture
def make(dataset: Path, tmp_path: Path, load: Compose) -> Callable[..., Path]:
    """Makes the cubes of a datalist, by default that of the phantoms; returns their folder."""

    def run(shard: str | None = None, folder: Path = dataset, load: Compose = load) -> Path:
        write_cubes(str(folder / "datalist.json"), str(folder), str(tmp_path / "cubes"), load, shard)
        return tmp_path / "cubes"

    return run


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A datalist of three CTs, the second of them cut off."""
    folder = tmp_path / "patients"
    folder.mkdir()
    for name in "abc":
        write_ct(str(folder / f"{name}.nii.gz"), phantom(24, 0.1), cube_affine(24, 360.0))
    whole = (folder / "b.nii.gz").read_bytes()
    (folder / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "datalist.json").write_text(json.dumps({"training": [{"ct": f"{name}.nii.gz"} for name in "abc"]}))
    return folder


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A cube whose sides are no whole number of chunks."""
    path, draw = tmp_path_factory.mktemp("cube") / "a.zarr.zip", np.random.default_rng(0)
    hu = draw.integers(-1000, 3000, (96, 96, 96)).astype(np.int16)
    write_cube(str(path), hu, HEADER)
    return path, hu


@pytest.fixture(scope="module")
def cubes(dataset: Path, load: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the phantoms' cubes."""
    folder = tmp_path_factory.mktemp("cubes")
    write_cubes(str(dataset / "datalist.json"), str(dataset), str(folder), load)
    return folder


def files(folder: Path) -> dict[str, Any]:
    """The files by their paths, of a cube its entries' checksums: an archive has the time of its writing, too."""
    return {path.relative_to(folder).as_posix(): _content(path) for path in folder.rglob("*") if path.is_file()}


def _content(path: Path) -> Any:
    if path.suffix != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return [(entry.filename, entry.CRC) for entry in archive.infolist()]


def changed(path: Path, to: Path, change: Callable[[dict[str, bytes]], Any], how: int = zipfile.ZIP_STORED) -> str:
    """A copy of an archive, its entries by name changed; its path."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(to, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return str(to)


def test_a_cube_is_the_ct_as_training_loads_it_in_whole_hu(cubes: Path, dataset: Path, load: Compose):
    """In its place, of every section, with its radiographs, names, groups and what it was cut from."""
    for section in SECTIONS:
        records = [load_records(str(each / "datalist.json"), section) for each in (dataset, cubes)]
        for source, record in zip(*records, strict=True):
            expected, found = load(source), load(record)
            assert (found["ct"] - expected["ct"].round()).abs().max() == 0
            assert (expected["ct"] - expected["ct"].round()).any()
            torch.testing.assert_close(found["ct"].affine, expected["ct"].affine)
            assert found["ct"].meta["extent_mm"] == expected["ct"].meta["extent_mm"]
            assert torch.equal(found["xrays"], expected["xrays"])
            labels = ("name", "group", "patient", "has_radiographs")
            assert [found[name] for name in labels] == [expected[name] for name in labels]


def test_parts_make_the_same_dataset_as_one_call_and_what_is_there_stays(make, cubes: Path):
    for shard in ("2/2", "1/2"):
        folder = make(shard)
        listed = json.loads((folder / "datalist.json").read_text())
        assert sum(map(len, listed.values())) == 9
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.zip")}
    assert files(folder) == files(cubes)
    make()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.zip")} == made


def test_a_ct_that_was_altered_and_all_by_other_settings_are_made_anew(make, patients: Path):
    shutil.copyfile(patients / "a.nii.gz", patients / "b.nii.gz")
    folder = make(folder=patients)
    before = files(folder)
    write_ct(str(patients / "c.nii.gz"), phantom(24, -0.1), cube_affine(24, 360.0))
    after = files(make(folder=patients))
    assert [name for name in before if before[name] != after[name]] == ["training/c.zarr.zip"]
    make(folder=patients, load=training_transforms(**{**PIXELS, "geometry#fov_mm": 300.0}))
    for name in "abc":
        assert read_cube_header(str(folder / "training" / f"{name}.zarr.zip"), "here").fov_mm == 300.0


def test_a_ct_that_cannot_be_read_is_named_in_the_end_and_the_others_are_made(make, patients: Path, load: Compose):
    with pytest.raises(InputError) as caught:
        make(folder=patients)
    first, second = str(caught.value).split("\n")
    assert first == "1 of 3 CTs could not be made into cubes; the same command goes on with these:"
    assert second.startswith(f"training/b.zarr.zip: {patients}/b.nii.gz: field 'ct' cannot be read as an image")
    folder = patients.parent / "cubes"
    assert sorted(path.name for path in (folder / "training").iterdir()) == ["a.zarr.zip", "c.zarr.zip"]
    with pytest.raises(InputError, match=r"training\[1\]: field 'ct' names .*b.zarr.zip, which does not exist"):
        load_records(str(folder / "datalist.json"), "training")
    shutil.copyfile(patients / "a.nii.gz", patients / "b.nii.gz")
    make(folder=patients)
    assert len(load_records(str(folder / "datalist.json"), "training")) == 3


@on_posix
def test_a_write_that_ends_early_leaves_no_file_of_the_name(make, patients: Path):
    with pytest.raises(OutputError, match="cannot be written"), full_disk(4096):
        make(folder=patients)
    assert not list((patients.parent / "cubes").rglob("*a.zarr.zip"))


@pytest.mark.parametrize(
    "part", [(slice(0, 8), slice(60, 70), slice(90, 96)), (slice(5, 96), slice(64, 65), slice(3, 4))]
)
def test_a_part_is_that_of_the_whole_and_other_chunks_are_not_read(cube, tmp_path: Path, part: tuple[slice, ...]):
    path, hu = cube
    np.testing.assert_array_equal(read_cube(str(path), "here", part)[0], hu[part])
    with zipfile.ZipFile(path) as archive:
        entries = {
            entry.filename: entry.header_offset + 100 for entry in archive.infolist() if entry.filename[0] == "c"
        }
    spoilt = tmp_path / "spoilt.zarr.zip"
    for name, middle in entries.items():
        place = [int(number) for number in name.split("/")[1:]]
        is_read = all(each.start < 64 * (at + 1) and each.stop > 64 * at for each, at in zip(part, place))
        content = bytearray(path.read_bytes())
        content[middle] ^= 1
        spoilt.write_bytes(content)
        if is_read:
            with pytest.raises(InputError, match="here cannot be read as a cube .*Bad CRC-32"):
                read_cube(str(spoilt), "here", part)
        else:
            np.testing.assert_array_equal(read_cube(str(spoilt), "here", part)[0], hu[part])


def test_any_reader_of_zarr_opens_it(cube):
    path, hu = cube
    with zarr.storage.ZipStore(path, mode="r") as store:
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], hu)
    assert read_cube(str(path), "here")[1] == HEADER


def test_a_loaders_processes_read_cubes_after_this_one_has(cubes: Path, load: Compose):
    records = load_records(str(cubes / "datalist.json"), "training")[:1] * 4
    here = load(records[0])["ct"]
    loader = DataLoader(cached_dataset(records, load, cache_rate=0.0), batch_size=1, num_workers=2)
    assert all(torch.equal(torch.as_tensor(batch["ct"][0]), torch.as_tensor(here)) for batch in loader)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, False),
        ({"geometry#detector_pixels": 64}, False),
        ({"geometry#detector_pixels": 256}, True),
        ({"geometry#fov_mm": 350.0}, True),
    ],
)
def test_a_cube_of_another_side_or_of_fewer_voxels_is_refused(cubes: Path, settings: dict[str, Any], refused: bool):
    record = load_records(str(cubes / "datalist.json"), "training")[0]
    load = training_transforms(**{**PIXELS, **settings})
    if refused:
        with pytest.raises(RuntimeError) as caught:
            load(record)
        assert "is a cube of 360 mm and 64³ voxels, expected one of" in str(caught.value.__cause__)
    else:
        assert load(record)["ct"].shape[-1] == settings.get("geometry#detector_pixels", 128) // 2


def retold(**values: Any) -> Callable[[dict[str, bytes]], None]:
    """Changes values of `zarr.json`."""

    def change(entries: dict[str, bytes]) -> None:
        content = json.loads(entries["zarr.json"])
        for name, value in values.items():
            content["attributes" if name in content["attributes"] else name] = (
                {**content["attributes"], name: value} if name in content["attributes"] else value
            )
        entries["zarr.json"] = json.dumps(content).encode()

    return change


PICKLED = [{"name": "numcodecs.pickle", "configuration": {}}]
LONG = b"\x02\x01\x94\x02\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (retold(codecs=PICKLED), "'codecs' of zarr.json is"),
        (retold(shape=[96, 96, 97]), "'shape' of zarr.json is"),
        (retold(size=2**20), "at most"),
        (retold(size=-1), "expected positive sides"),
        (retold(size=128), "'shape' of zarr.json"),
        (retold(fov_mm=float("nan")), "attributes of zarr.json"),
        (retold(fov_mm=0), "attributes of zarr.json"),
        (retold(centre_mm=[0, 0]), "attributes of zarr.json"),
        (retold(extent_mm="abc"), "attributes of zarr.json"),
        (retold(attributes=[]), "attributes of zarr.json"),
        (lambda entries: entries.pop("c/1/0/1"), "8 entries, not those of a cube of 96³"),
        (lambda entries: entries.update({"c/9/9/9": b""}), "10 entries"),
        (lambda entries: entries.update({"zarr.json": b"{" * 10}), "cannot be read as a cube"),
        (lambda entries: entries.update({"zarr.json": b" " * 2**17}), "too long"),
        (lambda entries: entries.pop("zarr.json"), "cannot be read as a cube"),
        (
            lambda entries: entries.update({"c/0/0/0": LONG + entries["c/0/0/0"][8:]}),
            "has 2147483647 bytes, not 524288",
        ),
        (lambda entries: entries.update({"c/0/0/0": entries["c/0/0/0"][:500]}), "cannot be read as a cube"),
    ],
)
def test_a_file_that_is_no_cube_of_ours_is_refused_by_name(cube, tmp_path: Path, change, said: str):
    path = changed(cube[0], tmp_path / "b.zarr.zip", change)
    with pytest.raises(InputError) as caught:
        read_cube(path, f"{path}: field 'ct'")
    assert str(caught.value).startswith(f"{path}: field 'ct'") and said in str(caught.value)


def test_an_archive_that_is_compressed_cut_off_or_none_is_refused(cube, tmp_path: Path):
    path = tmp_path / "b.zarr.zip"
    with pytest.raises(InputError, match="entries are compressed"):
        read_cube(changed(cube[0], path, lambda entries: None, zipfile.ZIP_DEFLATED), "here")
    whole = cube[0].read_bytes()
    for kept in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="make it anew|is an empty file"):
            read_cube(str(path), "here")


def test_what_is_dealt_out_comes_back_in_its_order():
    for total in range(7):
        for count in range(1, 9):
            shards = [Shard(number, count) for number in range(1, count + 1)]
            parts = [shard.of(range(total)) for shard in shards]
            assert dealt_back(parts) == list(range(total))
            assert all(part[i] == shard.place(i) for shard, part in zip(shards, parts) for i in range(len(part)))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3", " 1/2", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(InputError, match=r"expected a number from 1 .* --array=1-8"):
        Shard.of_text(text)
