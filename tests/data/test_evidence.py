"""The files in which training keeps what other people's bodies say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.utils import set_determinism

from phantoms import chest_imaging, phantom
from scripts import (
    EvidenceFiles,
    EvidenceWriter,
    InputError,
    LoadCTd,
    LoadEvidenced,
    PrepareBiplanarBatch,
    RandDeformd,
    Registration,
)
from scripts.data.evidence import read_evidence, sources_of, write_evidence
from scripts.io.image_writer import cube_affine, write_ct

SIZE = 24
IMAGING = chest_imaging(2 * SIZE)
LEVELS = [{"cells": 0, "size": 12, "steps": 10, "rate": 0.1}]


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, str]]:
    """Four CTs of three patients."""
    found = []
    for number, patient in enumerate("abca"):
        path = tmp_path / f"{number}.nii.gz"
        write_ct(str(path), phantom(SIZE, 0.05 * number), cube_affine(SIZE, 360.0))
        found.append({"name": f"case_{number}", "patient": patient, "group": "training", "ct": str(path)})
    return found


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "stage1_best.pth"
    path.write_bytes(b"weights")
    return path


def files(tmp_path: Path, weights: Path, records: list[dict[str, str]], **changed: Any) -> EvidenceFiles:
    arguments = {
        "folder": str(tmp_path / "anatomy"),
        "weights": str(weights),
        "records": records,
        "most": 8,
        "load": LoadCTd("ct"),
        "size": SIZE,
        "imaging": IMAGING,
        "registration": Registration(LEVELS),
        "nearest": 8,
        "sources": {},
    }
    return EvidenceFiles(**{**arguments, **changed})


def evidence(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_evidence_is_read_as_it_was_written_to_half_a_hu(tmp_path: Path):
    path = str(tmp_path / "a.nii.gz")
    write_evidence(path, evidence(), IMAGING)
    assert (read_evidence(path, IMAGING) - evidence()).abs().max() <= 0.51 / 2048
    loaded = LoadEvidenced("anatomy", IMAGING)({"anatomy": path, "ct": 1})
    assert torch.equal(loaded["anatomy"], read_evidence(path, IMAGING)) and loaded["ct"] == 1


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b" + bytes(50), bytes(400)])
def test_a_file_that_is_spoilt_is_refused_with_the_next_step(tmp_path: Path, content: bytes):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nii\.gz.*make it anew by the workflow `evidence`"):
        read_evidence(str(path), IMAGING)


def test_a_ct_in_its_place_is_refused(tmp_path: Path):
    path = str(tmp_path / "a.nii.gz")
    write_ct(path, phantom(SIZE, 0.0), cube_affine(SIZE, 360.0))
    with pytest.raises(InputError, match=r"shape \(24, 24, 24\) of int16, expected \(S, S, S, 2\)"):
        read_evidence(path, IMAGING)


def test_a_patient_is_never_a_neighbour_of_his_own(tmp_path: Path, weights: Path, records):
    kept = files(tmp_path, weights, records)
    assert [record["name"] for record in kept.chosen] == ["case_0", "case_1", "case_2"]
    for patient, others in {"a": [1, 2], "b": [0, 2], "z": [0, 1, 2]}.items():
        expected = torch.stack([kept.load({"ct": records[n]["ct"]})["ct"].as_tensor() for n in others])
        assert (kept.neighbours(patient).cts - expected).abs().max() <= 4


def test_a_single_patient_has_no_neighbours(tmp_path: Path, weights: Path, records):
    with pytest.raises(InputError, match="no CT of another patient than 'a'"):
        files(tmp_path, weights, records[:1]).neighbours("a")


def test_a_file_is_of_one_record_one_stage_1_and_one_atlas(tmp_path: Path, weights: Path, records):
    def paths(**changed: Any) -> list[str]:
        kept = files(tmp_path, weights, **{"records": records, **changed})
        return [kept.path(record) for record in records]

    before = paths()
    assert len(set(before)) == 4 and paths() == before
    assert not set(before) & set(paths(registration=Registration([{**LEVELS[0], "steps": 11}])))
    assert not set(before) & set(paths(nearest=2)) and not set(before) & set(paths(size=12))
    # Without the CT of patient c, whose own file depends on the others' alone.
    fewer = paths(records=records[:2])
    assert [a == b for a, b in zip(before, fewer)] == [False, False, True, False]
    os.utime(records[1]["ct"], (1, 1))
    assert [a == b for a, b in zip(before, paths())] == [False, False, False, False]
    now = paths()
    weights.write_bytes(b"other weights")
    assert not set(now) & set(paths())


def test_what_is_missing_is_told_with_the_command(tmp_path: Path, weights: Path, records):
    kept = files(tmp_path, weights, records)
    with pytest.raises(InputError, match="4 of 4 records have none.*workflow `evidence`.*train --anatomy"):
        kept.made(records)


class Half(torch.nn.Module):
    """In place of stage 1: half of what its X-rays are on average, everywhere."""

    def forward(self, xrays: torch.Tensor, **arguments: Any) -> list[torch.Tensor]:
        return [xrays.mean((1, 2, 3)).view(-1, 1, 1, 1, 1).expand(-1, 1, 6, 6, 6) / 2]


def evaluator(kept: EvidenceFiles, records: list[dict[str, str]]) -> SupervisedEvaluator:
    geometry = {"views": ("PA", "LL"), "source_to_isocentre_mm": 1600.0, "source_to_detector_mm": 1800.0}

    def load(record: dict[str, Any]) -> dict[str, Any]:
        loaded = {**record, "ct": torch.as_tensor(LoadCTd("ct")({"ct": record["ct"]})["ct"])}
        return {**loaded, "xrays": torch.zeros(2, 2 * SIZE, 2 * SIZE), "has_radiographs": False, "geometry": geometry}

    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(kept.missing(records), load), batch_size=1),
        network=Half(),
        prepare_batch=PrepareBiplanarBatch(1, IMAGING),
        decollate=False,
        val_handlers=[EvidenceWriter(kept)],
    )


def test_files_that_are_there_are_not_made_again(tmp_path: Path, weights: Path, records):
    kept = files(tmp_path, weights, records)
    evaluator(kept, records[:3]).run()
    assert [record["name"] for record in kept.missing(records)] == ["case_3"]
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "anatomy").iterdir()}
    evaluator(kept, records).run()
    assert len(kept.made(records)) == 4
    assert first.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "anatomy").iterdir()}.items()


def test_a_file_holds_what_the_other_patients_say_of_stage_1(tmp_path: Path, weights: Path, records):
    kept = files(tmp_path, weights, records)
    evaluator(kept, records[:1]).run()
    xrays = IMAGING.project(LoadCTd("ct")({"ct": records[0]["ct"]})["ct"].as_tensor()[None])
    expected = kept.neighbours("a")(Half()(xrays)[0])[0]
    found = read_evidence(kept.made(records[:1])[0]["anatomy"], IMAGING)
    assert expected[1].max() > 0.01 and (found - expected).abs().max() <= 0.51 / 2048


def test_ct_and_evidence_are_deformed_alike():
    hu = phantom(SIZE, 0.0)[None, None]
    alike = torch.cat([IMAGING.scale(hu)] * 2, dim=1)
    batch = {
        "ct": hu.clamp(-1024, 1024),
        "xrays": torch.zeros(1, 2, 2 * SIZE, 2 * SIZE),
        "has_radiographs": [False],
        "geometry": {
            "views": [("PA",), ("LL",)],
            "source_to_isocentre_mm": torch.tensor([1600.0]),
            "source_to_detector_mm": torch.tensor([1800.0]),
        },
        "anatomy": alike,
    }
    deform = RandDeformd(["ct", "anatomy"], 360.0, 20.0, 30.0, 0.2, [10.0, 20.0], 60.0)
    set_determinism(0)
    _, target, _, arguments = PrepareBiplanarBatch(3, IMAGING, augment=deform)(batch)
    set_determinism(None)
    assert (target["ct"] - IMAGING.scale(hu)).abs().max() > 0.1
    torch.testing.assert_close(arguments["anatomy"], torch.cat([target["ct"]] * 2, dim=1), rtol=0, atol=1e-4)


def test_sources_are_texts_of_the_datalist(tmp_path: Path):
    path = tmp_path / "datalist.json"
    path.write_text('{"training": [], "collections": {"A": "doi", "B": 3}}')
    assert sources_of(str(path)) == {"A": "doi"}
    path.write_text('{"collections": 4}')
    assert sources_of(str(path)) == {}
