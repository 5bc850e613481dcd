"""What is a label map by its values, and what is none."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from phantoms import phantom
from scripts import InputError, LoadCTd
from scripts.io.label_maps import is_label_map

HU = phantom(24, 0.1).numpy()
NOISE = np.random.default_rng(0).normal(0, 20, HU.shape)

LABEL_MAPS = {
    "binary": (HU > 0).astype(np.uint8),
    "of 255": (255 * (HU > 0)).astype(np.uint8),
    "in floating point": (HU == -800).astype(np.float32) * 3,
    "of 118 classes": np.kron(np.arange(118), np.ones((24, 24, 2))),
    "with an ignored part": np.where(HU > 0, 1, -1),
    "of air and 0": np.where(HU > 0, 0, -1024),
}
CTS = {
    "of a phantom": HU,
    "noisy": (HU + NOISE).round(),
    "of soft tissue alone": (40 + NOISE).round(),
    "in floating point without air": 40 + NOISE,
    "not in HU": (HU + 1024 + abs(NOISE)).round(),
}


@pytest.mark.parametrize("values", LABEL_MAPS.values(), ids=LABEL_MAPS.keys())
def test_a_label_map_is_refused_as_one(tmp_path: Path, values: np.ndarray):
    path = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), path)
    with pytest.raises(InputError, match="ct.nii.gz: field 'ct' is a label map"):
        LoadCTd("ct")({"ct": str(path)})


@pytest.mark.parametrize("values", CTS.values(), ids=CTS.keys())
def test_a_ct_is_none(values: np.ndarray):
    assert not is_label_map(values)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_ct_whose_first_voxels_are_alike_is_none(order: str):
    """Of a large volume some voxels are looked at, spread over all of it."""
    values = np.zeros((128, 128, 128), np.int16, order=order)
    values[40:80, 40:80, 40:80] = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40))
    assert not is_label_map(values)
