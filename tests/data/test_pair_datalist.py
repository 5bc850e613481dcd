"""Fetched patients become a datalist: who makes a pair, whom the weights have met, who is left out and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pytest
import torch

from ct_series_files import write_series
from object_server import COLLECTION, Bucket, bucket, killed_at_its_stop
from radiograph_files import LATERAL, write_line_integrals
from scripts import BiplanarGeometry, InputError, hu_to_attenuation, load_records, project
from scripts.data.chest_ct import check_chest_ct
from scripts.data.datalist_check import check_records, training_transforms
from scripts.fetch import main
from scripts.radiographs.told_view import tell_view
from unwritable import on_posix

SOURCE = {**COLLECTION, "address": "https://bucket.example"}
PA: dict[str, Any] = {}
"""The tags of a frontal radiograph are those that the writer has by itself."""
UNTAGGED = {"ViewPosition": None, "PatientOrientation": None}
PATIENTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "LIDC-IDRI-0001": [("frontal", PA), ("lateral", LATERAL)],
    "LIDC-IDRI-0005": [("lateral", LATERAL), ("frontal", PA)],
    "LIDC-IDRI-0006": [("lateral", PA), ("frontal", LATERAL)],
    "LIDC-IDRI-0007": [("lateral", UNTAGGED), ("frontal", UNTAGGED)],
    "LIDC-IDRI-0008": [("frontal", PA), ("frontal", UNTAGGED)],
    "LIDC-IDRI-0009": [("frontal", PA), ("lateral", LATERAL)],
    "LIDC-IDRI-0010": [("frontal", UNTAGGED), ("frontal", PA), ("frontal", PA), ("lateral", LATERAL)],
}
"""What each radiograph shows, and its tags."""
WHOLE, SHORT = 41, 20
"""Slices of 5 mm: a CT of 205 mm, and that of LIDC-IDRI-0009."""
LAST = "LIDC-IDRI-0010"


def uuid(*parts: object) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(map(str, parts))))


@pytest.fixture(scope="module")
def images(chest_hu: torch.Tensor) -> dict[str, np.ndarray]:
    """A frontal and a lateral projection of a real chest."""
    xrays = project(hu_to_attenuation(chest_hu[None]), BiplanarGeometry(detector_pixels=128))[0]
    return dict(zip(("frontal", "lateral"), xrays.numpy()))


@pytest.fixture(scope="module")
def contents(images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Objects of all patients, by key."""
    folder, objects = tmp_path_factory.mktemp("made"), {}
    for patient, radiographs in PATIENTS.items():
        for i, (shown, tags) in enumerate(radiographs):
            path = folder / "radiograph.dcm"
            write_line_integrals(path, images[shown], **{"PatientID": patient, "InstanceNumber": 9 - i, **tags})
            objects[f"{uuid(patient, 'radiographs')}/{uuid(patient, i)}.dcm"] = path.read_bytes()
        write_ct(folder / patient, patient, SHORT if patient == "LIDC-IDRI-0009" else WHOLE)
        for path in (folder / patient).iterdir():
            objects[f"{uuid(patient, 'ct')}/{uuid(patient, path.name)}.dcm"] = path.read_bytes()
    return objects


def write_ct(folder: Path, patient: str, slices: int, **arguments: Any) -> Path:
    """A series of 252 x 252 mm and so many slices of 5 mm."""
    sizes = {"shape": (21, 21, slices), "spacing": (12.0, 12.0, 5.0), **arguments}
    return write_series(folder, lambda image, index: setattr(image, "PatientID", patient), **sizes)


@pytest.fixture
def server(contents: dict[str, bytes]) -> Iterator[Bucket]:
    with bucket(dict(contents)) as server:
        yield server


def fetch(server: Bucket, folder: Path, *patients: str) -> int:
    """Fetches these patients, by default all, by a manifest of what the server holds."""

    def entry(patient: str, kind: str) -> dict[str, Any]:
        series = uuid(patient, kind)
        sizes = [len(content) for key, content in server.objects.items() if key.startswith(series)]
        return {"series": series, "objects": len(sizes), "bytes": sum(sizes)}

    entries = [
        {"patient": patient, **{kind: entry(patient, kind) for kind in ("radiographs", "ct")}}
        for patient in patients or PATIENTS
    ]
    manifest = folder.parent / "manifest.json"
    manifest.write_text(json.dumps({**SOURCE, "patients": entries}))
    return main(["--manifest", str(manifest), "--dir", str(folder), "--address", server.address])


def datalist(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "datalist.json").read_text(encoding="utf-8"))


def radiograph(patient: str, number: int) -> str:
    return f"{patient}/radiographs/{uuid(patient, number)}.dcm"


@on_posix
def test_a_fetch_that_was_killed_goes_on_and_ends_with_the_datalist(server: Bucket, tmp_path: Path, capsys):
    folder, key = tmp_path / "d", f"{uuid(LAST, 'ct')}/{uuid(LAST, '3.dcm')}.dcm"
    server.stop[key] = 500
    with killed_at_its_stop(server, lambda: fetch(server, folder)):
        pass
    assert not (folder / "datalist.json").exists()
    server.asked.clear()
    assert fetch(server, folder) == 0
    assert (f"/{uuid(LAST, 'radiographs')}/{uuid(LAST, 0)}.dcm", 0) not in server.asked
    made = datalist(folder)
    pairs = {record["patient"]: record for record in made["pairs"]}
    assert list(pairs) == ["LIDC-IDRI-0005", "LIDC-IDRI-0007", "LIDC-IDRI-0010"]
    assert [record["patient"] for record in made["met"]] == ["LIDC-IDRI-0001"]

    ordinary = pairs["LIDC-IDRI-0005"]
    assert (ordinary["frontal"], ordinary["lateral"]) == tuple(radiograph("LIDC-IDRI-0005", i) for i in (1, 0))
    assert ordinary["ct"] == "LIDC-IDRI-0005/ct" and ordinary["licence"] == "CC BY 3.0"
    assert ordinary["source"]["ct"] == f"https://bucket.example/{uuid('LIDC-IDRI-0005', 'ct')}/"
    assert ordinary["view_told"] == {"frontal": "its tags: PA", "lateral": "its tags: LL"}
    by_image = pairs["LIDC-IDRI-0007"]
    assert (by_image["frontal"], by_image["lateral"]) == tuple(radiograph("LIDC-IDRI-0007", i) for i in (1, 0))
    assert by_image["view_told"]["lateral"].startswith("its image: lateral, probability")
    several = pairs["LIDC-IDRI-0010"]
    assert several["frontal"] == radiograph("LIDC-IDRI-0010", 2), "tags before image, then the lower Instance Number"

    reasons = {entry["patient"]: entry["reason"] for entry in made["excluded"]}
    assert reasons["LIDC-IDRI-0006"].startswith("no frontal and no lateral radiograph: of 2 files")
    assert "neither by its tags: PA, against its image: lateral" in reasons["LIDC-IDRI-0006"]
    assert reasons["LIDC-IDRI-0008"].startswith("no lateral radiograph: of 2 files")
    assert reasons["LIDC-IDRI-0009"] == (
        "CT too small for a chest: 20 slices, 252 x 252 x 100 mm, expected at least 200 mm a side."
    )
    assert len(reasons) == 3
    table = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    counts = {name.strip(): number for name, number in (line for line in table if len(line) == 2)}
    assert counts["patients"] == "7" and counts["pairs, in section 'pairs'"] == "3"
    assert counts["no lateral radiograph"] == counts["CT too small for a chest"] == "1"

    damaged = folder / radiograph("LIDC-IDRI-0005", 0)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    assert fetch(server, folder) == 0
    assert f"{damaged}: is damaged, fetched again" in capsys.readouterr().out
    assert datalist(folder) == made


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_datalist_passes_its_check_and_loads(server: Bucket, tmp_path: Path):
    folder = tmp_path / "d"
    assert fetch(server, folder, "LIDC-IDRI-0001", "LIDC-IDRI-0005", "LIDC-IDRI-0007") == 0
    path = str(folder / "datalist.json")
    (first, second), (met,) = load_records(path, "pairs"), load_records(path, "met")
    assert [first["name"], second["name"], met["name"]] == ["LIDC-IDRI-0005", "LIDC-IDRI-0007", "LIDC-IDRI-0001"]
    loads = training_transforms(**{"geometry#detector_pixels": 32})
    problems, count = check_records(path, loads)
    found = [problem.message for problem in problems if "duplicate" not in problem.message]  # one made CT for all
    assert count == 3 and not [message for message in found if not message.startswith("warning: ")]
    assert not {"source", "view_told", "licence"} & set(loads(first))


def test_notes_of_a_pair_that_are_no_texts_are_refused(tmp_path: Path):
    (tmp_path / "ct").mkdir()
    for wrong in ("text", {"ct": 3}, {"ct": "two\nlines"}):
        (tmp_path / "datalist.json").write_text(json.dumps({"pairs": [{"ct": "ct", "source": wrong}]}))
        with pytest.raises(InputError, match=r"pairs\[0\]: field 'source"):
            load_records(str(tmp_path / "datalist.json"), "pairs")


def test_a_datalist_of_somebody_else_is_not_replaced(server: Bucket, tmp_path: Path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "datalist.json").write_text('{"training": []}')
    assert fetch(server, tmp_path / "d", LAST) == 1
    assert "without section 'pairs'" in capsys.readouterr().err and not server.asked


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"ViewPosition": "RAO"}, "oblique"),
        ({"Modality": "CT"}, "expected a radiograph"),
        ({"PatientOrientation": ["P", "F"]}, "expected tags that agree"),
    ],
)
def test_what_is_no_frontal_or_lateral_radiograph_is_neither(images, tmp_path: Path, tags: dict, told: str):
    view = tell_view(write_line_integrals(tmp_path / "a.dcm", images["frontal"], **tags))
    assert view.plane is None and told in view.by


def test_an_image_without_a_chest_is_neither_unless_tags_say_what_it_is(tmp_path: Path):
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0))
    view = tell_view(write_line_integrals(tmp_path / "a.dcm", ramp, **UNTAGGED))
    assert view.plane is None and view.by.startswith("its image")
    assert tell_view(write_line_integrals(tmp_path / "b.dcm", ramp)).plane == "frontal"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"slices": 1}, "^CT cannot be read: .*holds 1 slice"),
        ({"orientation": (1, 0, 0, 0, 0, -1)}, "^CT not axial: its slices are coronal"),
        ({"orientation": (0, 1, 0, 0, 0, -1)}, "^CT not axial: its slices are sagittal"),
        ({"spacing": (12.0, 12.0, 7.0)}, r"^CT too coarse: its slices are 7\.0 mm apart"),
        ({"spacing": (9.0, 12.0, 5.0)}, "^CT too small for a chest: 41 slices, 189 x 252 x 205 mm"),
    ],
)
def test_a_ct_that_can_be_no_truth_is_refused_with_a_reason(tmp_path: Path, arguments: dict, reason: str):
    check_chest_ct(str(write_ct(tmp_path / "sound", "one", WHOLE)))
    with pytest.raises(InputError, match=reason):
        check_chest_ct(str(write_ct(tmp_path / "ct", "one", **{"slices": WHOLE, **arguments})))
