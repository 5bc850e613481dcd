from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Extension

from phantoms import chest_imaging, phantom
from scripts import CheckpointError, neighbours_beside
from scripts.anatomy.atlas import FIELDS, Atlas, atlas_path, evenly, read_atlas
from scripts.io.sidecar import sha256_of

SIZE = 24
IMAGING = chest_imaging(4 * SIZE)
FOV = IMAGING.geometry.fov_mm
PEOPLE = ("a", "b", "a", "c")
RECORDS = [{"ct": n, "name": f"case_{n}", "patient": person, "licence": "CC BY 4.0"} for n, person in enumerate(PEOPLE)]


def load(record: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"ct": phantom(2 * SIZE, 0.1 * record["ct"])[None]}


def atlas() -> Atlas:
    return Atlas.of(RECORDS, load, SIZE, FOV, {})


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return str(path)


def test_an_atlas_is_read_as_it_was_written(weights: str):
    written = atlas()
    assert written.write(weights) == atlas_path(weights)
    found = read_atlas(weights, FOV)
    assert torch.equal(found.cts, written.cts) and found.records == written.records
    assert found.records[1] == {
        "name": "case_1",
        "patient": "b",
        "collection": "unknown",
        "licence": "CC BY 4.0",
        "attribution": "unknown",
    }


def test_it_keeps_cts_to_half_a_step(weights: str):
    exact = torch.stack([load(record)["ct"] for record in RECORDS])
    averaged = torch.nn.functional.avg_pool3d(exact, 2)
    assert (atlas().cts - averaged).abs().max() <= 4


def test_no_weights_have_an_atlas_unless_one_lies_next_to_them(weights: str):
    assert read_atlas(weights, FOV) is None


def test_a_patient_has_no_neighbour_of_his_own(weights: str):
    others = atlas().without("a")
    assert [record["patient"] for record in others.records] == ["b", "c"]
    assert torch.equal(others.cts, atlas().cts[[1, 3]])


@pytest.mark.parametrize(("most", "chosen"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 3]), (9, [0, 1, 3])])
def test_records_are_chosen_evenly_one_of_each_patient(most: int, chosen: list[int]):
    assert [record["ct"] for record in evenly(RECORDS, most)] == chosen


def rewritten(path: str, change: Callable[[nibabel.Nifti1Image], nibabel.Nifti1Image]) -> None:
    """Changes an atlas, and has its sidecar vouch for it: what one does who means harm."""
    nibabel.save(change(nibabel.load(path)), path)
    vouched(path)


def vouched(path: str) -> None:
    sidecar = Path(path.replace(".nii.gz", ".json"))
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "atlas_sha256": sha256_of(path)}))


def with_records(image: nibabel.Nifti1Image, content: Any) -> nibabel.Nifti1Image:
    image.header.extensions.clear()
    image.header.extensions.append(
        Nifti1Extension("comment", content if isinstance(content, bytes) else json.dumps(content).encode())
    )
    return image


def remade(image: nibabel.Nifti1Image, voxels: np.ndarray, affine: np.ndarray | None = None) -> nibabel.Nifti1Image:
    made = nibabel.Nifti1Image(voxels, image.affine if affine is None else affine)
    made.header.extensions.extend(image.header.extensions)
    return made


def with_slope(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    made = remade(image, np.asarray(image.dataobj))
    made.header.set_slope_inter(1e6, 0)
    return made


KNOWN = dict.fromkeys(FIELDS, "x")
HOSTILE = {
    "floats": (lambda image: remade(image, np.asarray(image.dataobj).astype(np.float32)), "float32, expected 16-bit"),
    "a rescale": (with_slope, "without a rescale"),
    "another shape": (lambda image: remade(image, np.asarray(image.dataobj)[:-1]), "has shape"),
    "a CT without a record": (lambda image: remade(image, np.asarray(image.dataobj)[..., :3]), "names 4 records"),
    "another field of view": (
        lambda i: remade(i, np.asarray(i.dataobj), np.diag([2.0, 2, 2, 1])),
        "expected that of a cube",
    ),
    "values that are no HU": (lambda i: remade(i, np.asarray(i.dataobj) * 0 + 20000), "from 20000 to 20000"),
    "no JSON": (lambda image: with_records(image, b"{"), "no JSON object"),
    "JSON of another kind": (lambda image: with_records(image, [1]), "expected an object"),
    "records of another kind": (lambda image: with_records(image, {"records": [1] * 4}), "no list of objects"),
    "a record with more": (lambda i: with_records(i, {"records": [{**KNOWN, "y": ""}] * 4}), "no list of objects"),
    "a text that does not print": (
        lambda i: with_records(i, {"records": [{**KNOWN, "name": "\x1b"}] * 4}),
        "letters that print",
    ),
    "a text without an end": (
        lambda i: with_records(i, {"records": [{**KNOWN, "name": "x" * 9999}] * 4}),
        "at most 1000",
    ),
}


@pytest.mark.parametrize(("change", "told"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_atlas_is_refused_by_what_is_wrong_and_the_next_step(weights: str, change: Callable, told: str):
    path = atlas().write(weights)
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=rf"model_atlas\.nii\.gz: .*{told}.*launch\.py atlas"):
        read_atlas(weights, FOV)


def test_a_header_that_promises_more_than_memory_is_refused_unread(weights: str):
    path = atlas().write(weights)
    header = bytearray(nibabel.load(path).header.binaryblock)
    header[40:56] = np.array([4, 2000, 2000, 2000, 60, 1, 1, 1], "<i2").tobytes()
    Path(path).write_bytes(gzip.compress(bytes(header) + bytes(4)))
    vouched(path)
    with pytest.raises(CheckpointError, match="480000000000 values"):
        read_atlas(weights, FOV)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(400), b"\x1f\x8b" + bytes(99)]
)
def test_what_is_no_nifti_is_refused(weights: str, content: bytes):
    path = atlas().write(weights)
    Path(path).write_bytes(content)
    vouched(path)
    with pytest.raises(CheckpointError, match=r"model_atlas\.nii\.gz.*launch\.py atlas"):
        read_atlas(weights, FOV)


def test_an_atlas_that_has_changed_or_is_of_other_weights_is_refused(weights: str):
    path = atlas().write(weights)
    Path(weights).write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match="made for other weights"):
        read_atlas(weights, FOV)
    Path(weights).write_bytes(b"weights")
    Path(path).write_bytes(Path(path).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="it has changed since it was made"):
        read_atlas(weights, FOV)


def test_an_atlas_without_its_sidecar_is_refused(weights: str):
    Path(atlas().write(weights).replace(".nii.gz", ".json")).unlink()
    with pytest.raises(CheckpointError, match=r"model_atlas\.json: no such file"):
        read_atlas(weights, FOV)


def test_weights_that_expect_an_atlas_say_that_there_is_none(weights: str):
    with pytest.warns(UserWarning, match="reconstruct without them.*launch.py atlas"):
        assert neighbours_beside(weights, True, IMAGING) is None
    atlas().write(weights)
    assert torch.equal(neighbours_beside(weights, True, IMAGING).cts, atlas().cts)


def test_a_network_that_reads_none_leaves_the_atlas_alone(weights: str):
    Path(atlas_path(weights)).write_bytes(b"anything")
    assert neighbours_beside(weights, False, IMAGING) is None
