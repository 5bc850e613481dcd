"""
The MONAI Label app, by a real server in its own environment, started by its one command, and asked by plain HTTP and by
MONAI Label's own client.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from bundle_runs import OVERLAY, ROOT, bundle_run, bundle_run_here
from label_server import MODEL, PYTHON, Answer, Server, free_port, running, write_studies, write_weights
from scripts import sidecar_path
from scripts.io.shared_overlay import shared_part

INFERENCE = "bundle/configs/inference.json"


@pytest.fixture(scope="module")
def environment(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--without-label"):
        pytest.skip("--without-label: MONAI Label's own environment was not wanted")
    assert PYTHON.is_file(), f"{PYTHON}: no such environment; `python launch.py test` makes it."


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write_studies(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server looks for weights; only their overlay config is there yet."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "overlay.json").write_text(json.dumps(shared_part(OVERLAY)))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def server(
    environment: None, studies: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server without weights, started by the launcher. No upload or result may be left when it has ended."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "server.log"
    training = weights.parent / "training.json"
    training.write_text(json.dumps(OVERLAY))
    line = [sys.executable, "launch.py", "label", "--studies", studies, "--weights", weights, "--port", port]
    with running([*line, "--overlay", training], port, log) as started:
        yield started
    assert not list(started.temporary.glob("monailabel_*"))


@pytest.fixture(scope="module")
def without_weights(server: Server) -> tuple[Answer, Answer]:
    """What the server says of itself, and to a request, before it has weights."""
    return server.ask("GET", "/info/"), server.infer("p0_frontal.nii.gz")


@pytest.fixture(scope="module")
def served(server: Server, weights: Path, without_weights) -> Server:
    """The server with weights."""
    write_weights(weights)
    return server


@pytest.fixture(scope="module")
def first(served: Server) -> bytes:
    """The reconstruction of the first phantom, from radiographs that are paired by their names."""
    return served.infer("p0_frontal.nii.gz").body


def reconstructed(weights: Path, studies: Path, number: int, output: Path, **asked: bool) -> nibabel.Nifti1Image:
    """What `python -m monai.bundle run` makes of a phantom's radiographs."""
    radiographs = {view: studies / f"p{number}_{view}.nii.gz" for view in ("frontal", "lateral")}
    configs = [INFERENCE, str(weights.parent / "overlay.json")]
    run = bundle_run("run", configs, weights=weights, output_dir=output, **radiographs, **asked)
    assert run.returncode == 0, run.stdout[-3000:]
    return nibabel.load(output / "ct.nii.gz")


def image_of(body: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(body))


def assert_same(found: nibabel.Nifti1Image, expected: nibabel.Nifti1Image) -> None:
    assert found.get_data_dtype() == expected.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(expected.dataobj))
    np.testing.assert_array_equal(found.affine, expected.affine)


def assert_nothing_is_kept(server: Server) -> None:
    """No file of a request that has been answered."""
    (folder,) = server.temporary.glob("monailabel_*")
    assert not list(folder.iterdir())


def test_a_server_without_weights_says_so(without_weights: tuple[Answer, Answer], weights: Path, server: Server):
    about, answer = without_weights
    assert "NO WEIGHTS YET: model.pt does not exist" in about.json["models"][MODEL]["description"]
    assert answer.status == 503
    assert answer.detail.startswith("model.pt: no such checkpoint; expected the weights of the cascade")
    assert f"{weights}: no such weights." in server.log.read_text()


def test_it_listens_to_this_machine_alone_unless_told_otherwise(server: Server):
    assert "Uvicorn running on http://127.0.0.1:" in server.log.read_text()


def test_a_page_of_another_site_gets_no_answer_and_one_of_its_own_does(server: Server):
    listing = "/datastore/?output=all"
    for method, path in (("GET", listing), ("POST", f"/train/{MODEL}")):
        answer = server.ask(method, path, origin="https://elsewhere.org")
        assert answer.status == 403 and answer.detail == "pages of https://elsewhere.org may not ask this server."
    assert server.ask("GET", "/train/").status == 404
    assert server.ask("GET", listing, origin=server.url).status == 200


def test_studies_with_both_radiographs_are_listed_with_what_belongs_to_them(served: Server, tmp_path: Path):
    listed = served.client(tmp_path, "datastore")["objects"]
    found = {name: entry["image"]["info"] for name, entry in listed.items()}
    expected = {f"p{n}_frontal.nii.gz": {"lateral": f"p{n}_lateral.nii.gz", "ct": f"p{n}_ct.nii.gz"} for n in range(3)}
    expected["tags/1.dcm"] = {"lateral": "tags/2.dcm", "ct": None}
    expected["bad_frontal.png"] = {"lateral": "bad_lateral.png", "ct": None}
    assert found == expected


def test_the_client_gets_the_voxels_and_affine_of_a_bundle_run_whatever_type_it_asks_for(
    served: Server, studies: Path, weights: Path, first: bytes, tmp_path: Path
):
    asked = {"result_dtype": "uint8", "result_extension": ".nrrd"}
    path, answer = served.client(tmp_path, "infer", model=MODEL, image_id="p0_frontal.nii.gz", params=asked)
    expected = reconstructed(weights, studies, 0, tmp_path / "run")
    assert expected.shape == (64, 64, 64) and np.asanyarray(expected.dataobj).std() > 10
    assert_same(nibabel.load(path), expected)
    assert_same(image_of(first), expected)
    assert answer["unit"] == "HU" and "Research use only" in answer["notice"]


def test_radiographs_are_paired_by_their_dicom_tags_and_the_client_receives_their_warnings(served: Server):
    answer = served.infer("tags/1.dcm", output="json")
    assert answer.status == 200 and answer.json["warnings"] == []
    swapped = served.infer("tags/2.dcm", output="json", lateral="tags/1.dcm").json["warnings"]
    assert any("their tags say that they are swapped" in warning for warning in swapped)


def test_radiographs_that_do_not_say_what_they_are_need_the_parameter_lateral(served: Server, first: bytes):
    alone = served.infer("one.nii.gz")
    assert alone.status == 400
    assert "image 'one.nii.gz' has no lateral radiograph" in alone.detail and "parameter 'lateral'" in alone.detail
    assert_same(image_of(served.infer("one.nii.gz", lateral="two.nii.gz").body), image_of(first))


def test_uploaded_radiographs_give_the_same_ct(served: Server, studies: Path, first: bytes):
    radiographs = [studies / f"p0_{view}.nii.gz" for view in ("frontal", "lateral")]
    together = served.infer(file=radiographs[0], label=radiographs[1])
    listed = served.infer("one.nii.gz", label=radiographs[1])
    for answer in (together, listed, served.infer(file=radiographs[0], lateral="two.nii.gz")):
        assert answer.status == 200
        assert_same(image_of(answer.body), image_of(first))
    assert served.infer(file=radiographs[0]).status == 400
    assert_nothing_is_kept(served)


def test_radiographs_are_uploaded_into_the_studies_and_replace_nothing(
    served: Server, studies: Path, first: bytes, tmp_path
):
    new = {"frontal": "new_pa.nii.gz", "lateral": "new_ll.nii.gz"}
    try:
        for view, name in new.items():
            radiograph = str(studies / f"p0_{view}.nii.gz")
            answer = served.client(tmp_path, "upload_image", image_in=radiograph, image_id=name.removesuffix(".nii.gz"))
            assert answer == {"image": name}
        assert_same(image_of(served.infer("new_pa.nii.gz").body), image_of(first))
        again = served.ask("PUT", "/datastore/image?image=new_pa", files={"file": studies / "p1_frontal.nii.gz"})
        assert again.status == 409 and "is there already" in again.detail
        assert_nothing_is_kept(served)
        assert (studies / "new_pa.nii.gz").read_bytes() == (studies / "p0_frontal.nii.gz").read_bytes()
    finally:
        for name in new.values():
            (studies / name).unlink(missing_ok=True)


def test_two_requests_at_once_get_each_its_own_ct(served: Server, first: bytes):
    names = ["p0_frontal.nii.gz", "p1_frontal.nii.gz"]
    with ThreadPoolExecutor(len(names)) as pool:
        found, other = (image_of(answer.body) for answer in pool.map(served.infer, names))
    assert_same(found, image_of(first))
    assert_same(other, image_of(served.infer("p1_frontal.nii.gz").body))
    assert (np.asanyarray(found.dataobj) != np.asanyarray(other.dataobj)).any()


@pytest.mark.parametrize("field", ["image", "lateral"])
@pytest.mark.parametrize(
    "name",
    ["nobody", "../outside.nii.gz", "../../../../../etc/passwd", "/etc/passwd", "link.nii.gz", "a\0b", "a" * 300, "$1"],
)
def test_what_is_not_in_the_studies_is_not_found(served: Server, studies: Path, field: str, name: str):
    answer = served.infer(name) if field == "image" else served.infer("p0_frontal.nii.gz", lateral=name)
    assert answer.status == 404
    assert answer.detail == f"{field} {name!r} is not in the studies; GET /datastore/?output=all lists them."


@pytest.mark.parametrize("name", ["../escaped", "sub/../../escaped", "/tmp/escaped"])
def test_an_upload_does_not_leave_the_studies(served: Server, studies: Path, name: str):
    answer = served.ask("PUT", f"/datastore/image?image={name}", files={"file": studies / "p0_frontal.nii.gz"})
    assert answer.status == 400 and "cannot be the name of a file here" in answer.detail
    assert not (studies.parent / "escaped.nii.gz").exists() and not Path("/tmp/escaped.nii.gz").exists()
    assert_nothing_is_kept(served)


def test_nothing_in_the_studies_is_deleted_and_no_label_is_kept(served: Server, studies: Path):
    label = {"label": studies / "p0_ct.nii.gz"}
    deletion = served.ask("DELETE", "/datastore/image?id=p0_frontal.nii.gz")
    saving = served.ask("PUT", "/datastore/label?image=p0_frontal.nii.gz&tag=../x", files=label)
    for answer in (deletion, saving):
        assert answer.status in (404, 405) and "deletes nothing" in answer.detail
    assert_nothing_is_kept(served)
    assert (studies / "p0_frontal.nii.gz").is_file()
    assert not any(path.name in ("labels", "datastore_v2.json", ".lock") for path in studies.iterdir())


@pytest.mark.parametrize(
    ("image", "given", "message"),
    [
        ("bad_frontal.png", {}, "bad_frontal.png: field 'frontal' cannot be read as an image"),
        ("p0_frontal.nii.gz", {"lateral": "p0_ct.nii.gz"}, "p0_ct.nii.gz: field 'lateral' has shape (24, 24, 24)"),
        ("p0_frontal.nii.gz", {"device": "$exit()"}, "device is '$exit()', expected one of"),
    ],
)
def test_bad_input_is_params_in_a_sentence(served: Server, image: str, given: dict, message: str):
    answer = served.infer(image, **given)
    assert answer.status == 400
    assert message in answer.detail


@pytest.fixture(scope="module")
def sidecars(served: Server, weights: Path, dataset: Path, overlay: Path, tmp_path_factory) -> dict[Path, bytes]:
    """What `familiarity.json`, `uncertainty.json` and `calibration.json` of the configs make, by where it belongs."""
    augmentations = ("augment", "augment_geometry", "geometry_error", "augment_xrays")
    plain = {f"drawn_batch#{name}": "$None" for name in augmentations}
    sections = [f"scripts.load_records(@datalist, '{section}', @dataset_dir)" for section in ("training", "validation")]
    five = {"training_records#dataset#data": f"${' + '.join(sections)}", "section": "test"}
    output, made = tmp_path_factory.mktemp("sidecars"), {}
    one = {"training_records#dataset#data": five["training_records#dataset#data"], "draws": 8, "crops": 2}
    makers = {"uncertainty": ("uncertainty", {"draws": 1, **plain}), "familiarity": ("familiarity", five)}
    makers["projections"] = ("calibration", one)
    for name, (config, given) in makers.items():
        configs = ["bundle/configs/train.json", f"bundle/configs/{config}.json", str(overlay)]
        places = {"dataset_dir": dataset, "ckpt_dir": output, "output_dir": output, "weights": weights}
        bundle_run_here("run", configs, **places, **given)
        path = Path(sidecar_path(str(weights), name))
        made[path] = path.read_bytes()
        path.unlink()
    return made


@pytest.fixture
def assessed(sidecars: dict[Path, bytes]) -> Iterator[None]:
    """With the weights lies what tells of familiarity and uncertainty, and what a pair is calibrated by."""
    for path, content in sidecars.items():
        path.write_bytes(content)
    yield
    for path in sidecars:
        path.unlink(missing_ok=True)


def test_the_answer_says_what_a_bundle_run_says_of_familiarity_and_uncertainty(
    served: Server, studies: Path, weights: Path, assessed: None, tmp_path: Path
):
    expected = reconstructed(weights, studies, 0, tmp_path / "run", familiarity=True, uncertainty=True)
    answer = served.infer("p0_frontal.nii.gz", output="all")
    params = json.loads(part_of(answer.body, b'name="params"'))
    half_width = nibabel.load(tmp_path / "run" / "uncertainty.nii.gz")
    for name, volume in ((b"ct", expected), (b"uncertainty", half_width)):
        assert_same(image_of(part_of(answer.body, b'filename="%s.nii.gz"' % name)), volume)
    for name in ("familiarity", "uncertainty"):
        written = json.loads((tmp_path / "run" / f"{name}.json").read_text())
        assert params[name].items() >= {"assessed": True, **written}.items()
    width = params["uncertainty"]["mean_half_width_hu"]
    assert abs(width - np.asanyarray(half_width.dataobj).mean()) <= 0.05
    flag = "flagged" if params["familiarity"]["flagged"] else "not flagged"
    assert answer.headers["X-Out-Of-Distribution"] == flag
    assert answer.headers["X-Uncertainty"] == f"mean half-width {width} HU"


def test_a_pair_of_unknown_size_is_calibrated_and_the_answer_says_how(
    served: Server, studies: Path, assessed: None, tmp_path: Path
):
    pair = [studies / f"png_{view}.png" for view in ("frontal", "lateral")]
    try:
        for path in pair:
            values = nibabel.load(studies / f"p0_{path.stem.removeprefix('png_')}.nii.gz").get_fdata().squeeze().T
            Image.fromarray((values / values.max() * 255).astype(np.uint8)).save(path)
        answer = served.infer("png_frontal.png", output="all", lateral="png_lateral.png")
    finally:
        for path in pair:
            path.unlink()
    found = json.loads(part_of(answer.body, b'name="params"'))["calibration"]
    assert found["calibrated"] and found["frontal"]["scale"] > 0 and found["assumed"]
    assert answer.headers["X-Calibration"] == ("flagged" if found["flagged"] else "not flagged")
    of_known_size = served.infer("p0_frontal.nii.gz", "json")
    assert of_known_size.json["calibration"] == {
        "calibrated": False,
        "reason": "the files say the size of both radiographs.",
    }


def part_of(body: bytes, header: bytes) -> bytes:
    """Content of a part of a multipart body."""
    boundary = body.split(b"\r\n", 1)[0]
    (part,) = (part for part in body.split(boundary) if header in part)
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")


def test_the_weights_are_neither_given_nor_taken_nor_deleted(served: Server, weights: Path, studies: Path):
    before = weights.read_bytes()
    answers = [served.ask("GET", f"/model/{MODEL}"), served.ask("DELETE", f"/model/{MODEL}")]
    answers += [served.ask("PUT", f"/model/{MODEL}", files={"file": studies / "p0_ct.nii.gz"})]
    assert all(answer.status >= 400 for answer in answers)
    assert weights.read_bytes() == before


def test_another_model_is_not_found(served: Server):
    answer = served.infer("p0_frontal.nii.gz", model="spleen")
    assert answer.status == 404 and answer.detail == f"model 'spleen' does not exist, expected {MODEL}."


def test_a_training_that_cannot_run_tells_why_and_keeps_the_weights(served: Server, weights: Path):
    """One that starts from weights which are none."""
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:1000])
        assert served.ask("POST", f"/train/{MODEL}", {"max_epochs": 1}).status == 200
        ended = end_of_training(served)
        assert ended["status"] == "ERROR"
        assert any(line.startswith("error: training_") and "/before.pth: " in line for line in ended["details"])
        assert not any("Traceback" in line for line in ended["details"])
        assert weights.read_bytes() == before[:1000]
    finally:
        weights.write_bytes(before)
        for folder in weights.parent.glob("training_*"):
            shutil.rmtree(folder)


def test_a_training_on_the_cts_is_served_when_it_has_ended_and_requests_are_answered_meanwhile(
    served: Server,
    studies: Path,
    weights: Path,
    assessed: None,
    sidecars: dict[Path, bytes],
    first: bytes,
    tmp_path: Path,
):
    """What tells of the old weights' familiarity and uncertainty, and of the pairs they know, goes with them."""
    before = weights.read_bytes()
    try:
        asked = {"max_epochs": 1, "val_split": 0.34}
        served.client(tmp_path, "train_start", model=MODEL, params=asked)
        wait_for(lambda: list(weights.parent.glob("training_*")))
        assert served.ask("POST", f"/train/{MODEL}", asked).status == 429
        assert_same(image_of(served.infer("p0_frontal.nii.gz").body), image_of(first))
        assert weights.read_bytes() == before
        ended = end_of_training(served)
        assert ended["status"] == "DONE", "\n".join(ended["details"])
        (folder,) = weights.parent.glob("training_*")
        assert (folder / "before.pth").read_bytes() == before
        assert weights.read_bytes() == (folder / "stage3_best.pth").read_bytes() != before
        for name in ("familiarity", "uncertainty", "projections"):
            assert (folder / f"before_{name}.json").read_bytes() == sidecars[Path(sidecar_path(str(weights), name))]
        assert served.infer("p0_frontal.nii.gz", "json").json["familiarity"]["assessed"] is False
        sections = json.loads((folder / "datalist.json").read_text())
        records = [record for name in ("training", "validation") for record in sections[name]]
        assert sorted(Path(record["ct"]).name for record in records) == [f"p{n}_ct.nii.gz" for n in range(3)]
        found = image_of(served.infer("p0_frontal.nii.gz").body)
        assert_same(found, reconstructed(weights, studies, 0, tmp_path / "run"))
        assert (np.asanyarray(found.dataobj) != np.asanyarray(image_of(first).dataobj)).any()
    finally:
        weights.write_bytes(before)


def test_the_stock_app_reconstructs_radiographs_stacked_in_one_file(
    environment: None, studies: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory, first: bytes
):
    """MONAI Label's `monaibundle` app, with this bundle in its folder of models, at the tests' sizes."""
    folder = tmp_path_factory.mktemp("stock")
    app, bundle = folder / "monaibundle", folder / "monaibundle" / "model" / MODEL
    shutil.copytree(PYTHON.parents[1] / "monailabel" / "sample-apps" / "monaibundle", app)
    shutil.copytree(ROOT / "bundle", bundle, ignore=shutil.ignore_patterns("*.pt", "*.pth", "output", "__pycache__"))
    shutil.copyfile(weights, bundle / "models" / "model.pt")
    config = ConfigParser(ConfigParser.load_config_files([str(ROOT / INFERENCE), str(weights.parent / "overlay.json")]))
    ConfigParser.export_config_file(config.get(), str(bundle / "configs" / "inference.json"))
    stack = [nibabel.load(studies / f"p0_{view}.nii.gz") for view in ("frontal", "lateral")]
    radiographs = np.stack([radiograph.get_fdata(dtype=np.float32)[..., 0] for radiograph in stack], -1)
    stacked = nibabel.Nifti1Image(radiographs, stack[0].affine)
    stacked.header.set_xyzt_units("mm")
    (folder / "stacked").mkdir()
    nibabel.save(stacked, folder / "stacked" / "p0.nii.gz")
    port = free_port()
    line = [PYTHON, "-m", "monailabel.main", "start_server", "--app", app, "--studies", folder / "stacked"]
    line += ["--host", "127.0.0.1", "--port", port, "--conf", "models", MODEL, "--conf", "zoo_source", "local"]
    with running([*line, "--conf", "sam2", "false"], port, folder / "server.log") as server:
        answer = server.infer("p0")
        assert answer.status == 200, server.log.read_text()[-3000:]
        found, expected = image_of(answer.body), image_of(first)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=0.51)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    assert not (bundle / "output").exists()


def end_of_training(server: Server) -> dict:
    wait_for(lambda: server.ask("GET", "/train/").json["status"] not in ("SUBMITTED", "RUNNING"))
    return server.ask("GET", "/train/").json


def wait_for(done, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not come in time"
        time.sleep(0.5)
