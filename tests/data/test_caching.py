from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import DataLoader
from monai.transforms import Compose

from bundle_runs import ROOT
from phantoms import phantom
from scripts import cached_dataset
from scripts.data.caching import hash_with_files
from scripts.data.datalist_check import training_transforms
from scripts.io.image_writer import cube_affine, write_ct

SETTINGS = {"geometry#detector_pixels": 32}


def write(path: Path, shift: float) -> None:
    write_ct(str(path), phantom(24, shift), cube_affine(24, 360.0))


@pytest.fixture
def record(tmp_path: Path) -> dict[str, str]:
    write(tmp_path / "ct.nii.gz", 0.0)
    return {"ct": str(tmp_path / "ct.nii.gz"), "name": "a", "group": "b"}


@pytest.fixture
def load() -> Compose:
    return training_transforms(**SETTINGS)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"))


def same(one: dict, two: dict) -> bool:
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in ("ct", "xrays"))


def test_memory_and_folder_serve_what_the_transform_returns(record, load: Compose, tmp_path: Path):
    expected = load(record)
    for cache_dir in (None, str(tmp_path / "cache")):
        for dataset in (cached_dataset([record], load, cache_dir), cached_dataset([record], load, cache_dir)):
            for _ in range(2):
                assert same(dataset[0], expected)
                assert (dataset[0]["name"], dataset[0]["has_radiographs"]) == ("a", False)
    assert len(files(tmp_path / "cache")) == 1


def test_without_a_folder_a_record_that_comes_often_is_kept_once(record, load: Compose):
    dataset = cached_dataset([record] * 3, load)
    assert dataset[0]["ct"].data_ptr() == dataset[2]["ct"].data_ptr()


def test_the_folder_is_read_instead_of_the_ct(record, load: Compose, tmp_path: Path):
    first = cached_dataset([record], load, str(tmp_path / "cache"))[0]

    def never(record: dict) -> None:
        raise AssertionError("was loaded again")

    dataset = cached_dataset([record], load, str(tmp_path / "cache"))
    dataset._pre_transform = never
    assert same(dataset[0], first)


def test_a_batch_may_mix_what_was_kept_and_what_was_just_made(record, load: Compose, tmp_path: Path):
    write(tmp_path / "other.nii.gz", 0.1)
    other = {**record, "ct": str(tmp_path / "other.nii.gz")}
    cached_dataset([record], load, str(tmp_path / "cache"))[0]
    (batch,) = DataLoader(cached_dataset([record, other], load, str(tmp_path / "cache")), batch_size=2)
    expected = torch.stack([torch.as_tensor(load(one)["ct"]) for one in (record, other)])
    assert torch.equal(batch["ct"], expected)


def test_a_changed_ct_is_loaded_anew(record, load: Compose, tmp_path: Path):
    first = cached_dataset([record], load, str(tmp_path / "cache"))[0]
    write(Path(record["ct"]), 0.1)
    second = cached_dataset([record], load, str(tmp_path / "cache"))[0]
    assert not torch.equal(torch.as_tensor(first["ct"]), torch.as_tensor(second["ct"]))
    assert same(second, load(record))


def test_a_changed_slice_of_a_series_changes_the_hash(tmp_path: Path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"one")
    record = {"ct": str(tmp_path / "series"), "name": "a"}
    hashes = [hash_with_files(record)]
    (tmp_path / "series" / "2.dcm").write_bytes(b"two")
    hashes.append(hash_with_files(record))
    os.utime(tmp_path / "series" / "1.dcm", ns=(1, 1))
    hashes.append(hash_with_files(record))
    assert len(set(hashes)) == 3
    assert hash_with_files(dict(reversed(record.items()))) == hashes[-1]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_changed_voxels_of_a_detached_header_are_loaded_anew(load: Compose, tmp_path: Path, suffix: str):
    """The header stays as it is, to the byte; SimpleITK writes both files."""
    path, other = tmp_path / f"ct{suffix}", tmp_path / f"other{suffix}"
    hu = np.full((12, 12, 12), -1000, np.int16)
    hu[4:8, 4:8, 4:8] = np.arange(64).reshape(4, 4, 4)
    for place, shift in ((path, 0), (other, 100)):
        image = sitk.GetImageFromArray(hu + np.int16(shift))
        image.SetSpacing([30.0] * 3)
        sitk.WriteImage(image, place)
    record, header = {"ct": str(path), "name": "a", "group": "b"}, path.read_bytes()
    first = cached_dataset([record], load, str(tmp_path / "cache"))[0]["ct"]
    other.with_suffix(".raw").replace(path.with_suffix(".raw"))
    second = cached_dataset([record], load, str(tmp_path / "cache"))[0]["ct"]
    assert path.read_bytes() == header
    inner = (slice(4, 12),) * 3
    torch.testing.assert_close(torch.as_tensor(second)[0][inner], torch.as_tensor(first)[0][inner] + 100)


def test_another_configuration_has_another_file(record, load: Compose, tmp_path: Path):
    cached_dataset([record], load, str(tmp_path))[0]
    other = training_transforms(**SETTINGS, volume_size=12)
    assert cached_dataset([record], other, str(tmp_path))[0]["ct"].shape == (1, 12, 12, 12)
    assert len(files(tmp_path)) == 2


def test_another_process_finds_the_file(record, load: Compose, tmp_path: Path):
    cached_dataset([record], load, str(tmp_path / "cache"))[0]
    code = (
        f"from scripts import cached_dataset; from scripts.data.datalist_check import training_transforms as load; "
        f"cached_dataset([{record!r}], load(**{SETTINGS!r}), {str(tmp_path / 'cache')!r})[0]"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "bundle", env=environment, check=True)
    assert len(files(tmp_path / "cache")) == 1


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_file_that_is_not_whole_is_named_and_made_anew(record, load: Compose, tmp_path: Path, kept: float):
    expected = cached_dataset([record], load, str(tmp_path / "cache"))[0]
    (file,) = files(tmp_path / "cache")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.warns(UserWarning, match="is not a whole file") as caught:
        assert same(cached_dataset([record], load, str(tmp_path / "cache"))[0], expected)
    assert str(file) in str(caught[0].message)
    assert len(file.read_bytes()) == len(whole)
