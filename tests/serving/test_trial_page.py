"""The page to try it: the reconstruction is that of `infer`, and what a stranger sends can do nothing else."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from browser import Page, chromium
from bundle_runs import ROOT, bundle_run_here
from label_server import free_port
from phantoms import phantom, write_radiographs
from scripts import InputError
from scripts.io.shared_overlay import shared_part

sys.path.append(str(ROOT))

from trial_page import uploads, worker  # noqa: E402
from trial_page.results import KEPT_SECONDS, MOST_RESULTS, SHOWN, Results  # noqa: E402

PYTHON = ROOT / ".venv-page" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def weights(tiny_bundle: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of small sizes, with the overlay that a training leaves next to them."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "overlay.json").write_text(json.dumps(shared_part(json.loads(overlay.read_text()))))
    return Path(shutil.copy(tiny_bundle / "models" / "model.pt", folder))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The radiographs of a phantom."""
    paths = write_radiographs(tmp_path_factory.mktemp("pair"), "phantom", phantom(24, 0.0))
    return {view: Path(path) for view, path in paths.items()}


@pytest.fixture(scope="module")
def inferred(weights: Path, pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `infer` makes of them."""
    folder = tmp_path_factory.mktemp("inferred")
    configs = ["bundle/configs/inference.json", str(weights.parent / "overlay.json")]
    bundle_run_here("run", configs, **pair, weights=weights, output_dir=folder)
    return folder


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_the_reconstruction_is_that_of_infer(weights: Path, pair: dict[str, Path], inferred: Path, tmp_path: Path):
    said = worker.reconstruct_into(tmp_path, pair, weights, "cpu")
    assert said and all(text.startswith("phantom_") for text in said)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in inferred.iterdir()}
    assert np.array_equal(voxels(tmp_path / "ct.nii.gz"), voxels(inferred / "ct.nii.gz"))
    assert (tmp_path / "measurements.json").read_text() == (inferred / "measurements.json").read_text()
    np.save(tmp_path / "frontal.npy", np.zeros(3))
    with pytest.raises(InputError, match="frontal"):
        worker.reconstruct_into(tmp_path, {**pair, "frontal": tmp_path / "frontal.npy"}, weights, "cpu")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of uploads, and that of a reconstruction."""
    folders = tmp_path / "uploads", tmp_path / "result"
    for folder in folders:
        folder.mkdir()
    return folders


def test_an_upload_gets_a_name_of_ours_and_leaves_nothing(places: tuple[Path, Path]):
    folder, result = places
    for name, expected in (("$(touch a);#@%.PNG", "frontal.png"), ("a b.nii.gz", "frontal.nii.gz")):
        (folder / "own").mkdir()
        (folder / "own" / name).write_bytes(b"content")
        target = uploads.taken(str(folder / "own" / name), "frontal", folder, result)
        assert target == result / expected and target.read_bytes() == b"content" and not any(folder.iterdir())
        uploads.remove_upload(folder / "own" / name, folder)  # which is gone


def test_nothing_but_an_upload_of_a_known_kind_is_taken(places: tuple[Path, Path], tmp_path: Path):
    folder, result = places
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder.png").mkdir()
    outside = [tmp_path / "secret.png", folder / ".." / "secret.png", folder / "link.png", folder, folder / "no.png"]
    for path in [*map(str, outside), "secret.png", str(folder / "folder.png"), ""]:
        with pytest.raises(InputError, match="lateral: no such upload"):
            uploads.taken(path, "lateral", folder, result)
    (folder / "run.py").write_bytes(b"import os")
    with pytest.raises(InputError, match="of no kind that is read"):
        uploads.taken(str(folder / "run.py"), "lateral", folder, result)
    assert not (folder / "run.py").exists() and not any(result.iterdir())
    uploads.remove_upload(tmp_path / "secret.png", folder)
    assert (tmp_path / "secret.png").read_bytes() == b"secret"


def test_an_upload_that_nothing_was_made_of_is_removed(places: tuple[Path, Path]):
    folder, _ = places
    for name, age_s in (("old", uploads.KEPT_SECONDS + 60), ("new", 0)):
        (folder / name).mkdir()
        for file in (folder / name / "a.png", folder / f"{name}_part"):
            file.write_bytes(b"content")
            os.utime(file, (time.time() - age_s,) * 2)
    uploads.forget_old(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["new", "new_part"]
    assert uploads.bytes_in(folder) == 2 * len(b"content")


def test_every_file_that_a_request_names_is_found():
    request = {"data": [{"path": "/a", "meta": {}}, [{"x": {"path": ["/b"]}}], None, "path"], "path": 3}
    assert list(uploads.named_paths(request)) == ["/a", ["/b"], 3]


def test_a_result_is_had_by_its_name_alone_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    results = Results(tmp_path)
    name, folder = results.new()
    for file in ("ct.nii.gz", "frontal.png"):
        (folder / file).write_bytes(b"content")
    (tmp_path / "ct.nii.gz").write_bytes(b"of no result")
    assert results.file(f"{name}/ct.nii.gz") == folder / "ct.nii.gz"
    hostile = ["", "ct.nii.gz", "/ct.nii.gz", "./ct.nii.gz", f"{name}/../ct.nii.gz", f"{name}/frontal.png", f"{name}/"]
    assert [results.file(path) for path in hostile] == [None] * len(hostile)
    further = [results.new() for _ in range(MOST_RESULTS)]
    assert not folder.exists() and results.file(f"{name}/ct.nii.gz") is None and further[0][1].exists()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + KEPT_SECONDS + 1)
    results.forget_old()
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


class Served:
    """The page's server, and what can be asked of it without a browser."""

    def __init__(self, port: int, temporary: Path) -> None:
        self.port, self.temporary = port, temporary
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def files(self) -> list[str]:
        """All that it holds of uploads and results; Gradio leaves empty files, which go later."""
        return sorted(path.name for path in self.temporary.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture(scope="module")
def served(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Ended by SIGTERM, after which nothing is left."""
    if not PYTHON.is_file():
        pytest.skip("`python launch.py install page` makes the environment of the page")
    temporary, port = tmp_path_factory.mktemp("temporary"), free_port()
    line = [PYTHON, "-m", "trial_page", "--host", "127.0.0.1", "--port", str(port), "--weights", weights]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([*map(str, line), "--device", "cpu"], cwd=ROOT, env=environment) as process:
        found = Served(port, temporary)
        while process.poll() is None:
            try:
                found.ask("GET", "/")
                break
            except OSError:
                time.sleep(0.2)
        yield found
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert not list(temporary.glob("trial_page_*"))


@pytest.mark.slow
def test_what_is_no_part_of_the_page_does_not_exist(served: Served):
    assert served.ask("GET", "/")[0] == 200
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/info",
        "/docs",
        "/openapi.json",
        "/gradio_api/run-history/records",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/report/../../etc/passwd",
        "/report/a/view.html",
    ):
        assert served.ask("GET", path)[0] == 404, path
    for path in ("/gradio_api/run/report", "/gradio_api/call/report", "/login", "/gradio_api/component_server"):
        assert served.ask("POST", path, b"{}")[0] == 404, path
    assert served.ask("PUT", "/")[0] == 404


@pytest.mark.slow
def test_strangers_and_what_is_too_large_get_nothing(served: Served):
    assert served.ask("GET", "/", Host="evil.example")[0] == 421
    assert served.ask("POST", "/gradio_api/upload", b"a", Origin="http://evil.example")[0] == 403
    headers = {"Content_Length": str(uploads.LARGEST_FILE + 2**17)}
    assert served.ask("POST", "/gradio_api/upload", **headers)[0] == 413
    for path in ("/etc/passwd", "http://127.0.0.1/a.png", f"{served.temporary}/../a.png", 3):
        body = json.dumps({"data": [{"path": path}, {"path": path}], "fn_index": 0, "session_hash": "a"}).encode()
        assert served.ask("POST", "/gradio_api/queue/join", body, Content_Type="application/json")[0] == 400, path
    assert served.files() == []


@pytest.mark.slow
def test_two_radiographs_become_the_report_in_a_browser(served: Served, pair, inferred: Path, tmp_path: Path):
    if chromium() is None:
        assert os.environ.get("CI") != "true", "CI has to have a browser"
        pytest.skip("there is no Chromium here")
    bad = tmp_path / "<img src=a onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    report, alert = (f"document.querySelector('#report {part}')" for part in ("iframe", "[role=alert]"))
    with Page(f"{served.address}/", tmp_path / "profile", (1200, 1400)) as page:

        def reconstruct(files: list[Path]) -> None:
            for left in (2, 1):
                page.wait_for(f"document.querySelectorAll('input[type=file]').length == {left}")
                page.choose_file("document.querySelector('input[type=file]')", files[2 - left])
            page.wait_for("document.querySelectorAll('input[type=file]').length == 0")
            page.value("document.querySelector('#reconstruct').click()")

        page.wait_for("document.body.innerText.includes('Research use only')")
        reconstruct([bad, pair["lateral"]])
        page.wait_for(f"!!{alert}", 200)
        assert "frontal.png" in page.text("#report") and "<img" not in page.value(f"{alert}.innerHTML")
        assert served.files() == []
        reconstruct(list(pair.values()))
        address = page.wait_for(f"{report}?.src", 200)
        page.wait_for("document.querySelectorAll('input[type=file]').length == 2")
        name = re.fullmatch(rf"{served.address}/report/([\w-]+)/view\.html", address)[1]
        assert page.value("document.querySelectorAll('#report a').length") >= 4
        status, content = served.ask("GET", f"/report/{name}/ct.nii.gz")
        (tmp_path / "ct.nii.gz").write_bytes(content)
        assert status == 200
        assert np.array_equal(voxels(tmp_path / "ct.nii.gz"), voxels(inferred / "ct.nii.gz"))
        assert b"NiiVue" in served.ask("GET", f"/report/{name}/view.html")[1]
        assert all(url.startswith((f"{served.address}/", "data:", "blob:")) for url in page.requests)
    assert set(served.files()) <= set(SHOWN) | {"calibration.png"}
