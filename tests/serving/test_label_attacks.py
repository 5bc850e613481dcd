"""
What strangers send to the server: nothing of it runs, writes, deletes or leads out of the studies, ends the server, or
is answered with 500. Each attack goes to a real server; what it would have left is looked for after each of them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from bundle_runs import OVERLAY, ROOT
from ct_series_files import write_series
from label_server import MODEL, PYTHON, Answer, Part, Server, free_port, running, write_studies, write_weights
from radiograph_files import LATERAL, write_line_integrals
from scripts.io.shared_overlay import shared_part

INFER, TRAIN, UPLOAD = f"/infer/{MODEL}", f"/train/{MODEL}", "/datastore/image"
LONGEST_LISTING = 10_000
PLACES = [re.escape(f"{place}/") for place in (tempfile.gettempdir(), Path.home(), ROOT)]
MACHINE = re.compile(rf"(?:{'|'.join(PLACES)}|site-packages).{{0,80}}")
"""Paths of this machine, which no answer tells."""
TOKEN = "a-token-of-the-tests-0123456789"

ROUTES = [
    *(("PUT", f"/session/{query}") for query in ("", "?uncompress=true", "?expiry=99999999")),
    *((method, "/session/00000000-0000-0000-0000-000000000000") for method in ("GET", "DELETE")),
    *((method, "/session/..%2f..%2fetc") for method in ("GET", "DELETE")),
    *((method, f"/scoring/{name}") for method in ("GET", "POST", "DELETE") for name in ("", "dice")),
    *((method, f"/batch/infer/{name}") for method in ("GET", "POST", "DELETE") for name in ("", MODEL)),
    *((method, "/reload") for method in ("GET", "POST")),
    *(("GET", path) for path in ("/logs/", "/logs/?lines=9", "/logs/gpu", "/proxy/dicom/studies", "/proxy/http://x/")),
    *((method, f"/model/{MODEL}") for method in ("GET", "PUT", "DELETE", "HEAD")),
    *(("GET", f"/model/{path}") for path in (f"info/{MODEL}", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd")),
    *(
        ("POST", path)
        for path in (f"/infer/wsi/{MODEL}", f"/infer/wsi_v2/{MODEL}", "/infer/", "/activelearning/random")
    ),
    *(("GET", path) for path in ("/", "/docs", "/openapi.json", "/favicon.ico", "/ohif/", "/static/", "/auth/")),
    *(
        ("GET", path)
        for path in ("/static/ohif/index.html", "/static/..%2f..%2fapp.py", "/static/%2e%2e/%2e%2e/app.py")
    ),
    *(("POST", path) for path in ("/auth/token", "/auth/token/valid", "/train/", "/info/", "/datastore/")),
    *((method, "/datastore/label?image=p0_frontal.nii.gz&tag=..%2fx") for method in ("PUT", "GET", "HEAD")),
    *((method, "/datastore/label?id=p0_frontal.nii.gz&tag=final") for method in ("DELETE",)),
    *((method, "/datastore/image?image=p0_frontal.nii.gz") for method in ("GET", "HEAD", "POST", "PATCH")),
    *(("DELETE", path) for path in ("/datastore/image?id=p0_frontal.nii.gz", "/datastore/?id=p0_frontal.nii.gz")),
    *((method, "/datastore/image/info?image=p0_frontal.nii.gz") for method in ("GET", "PUT")),
    *((method, "/datastore/label/info?label=a&tag=b") for method in ("GET", "PUT")),
    *((method, "/datastore/dataset") for method in ("GET", "PUT")),
    ("PUT", "/datastore/updatelabelinfo?label=a&tag=b"),
    *((method, "/info/") for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
    *((method, INFER) for method in ("GET", "PUT", "DELETE", "OPTIONS")),
]
NAMES = [
    "nobody",
    "..",
    ".",
    "../outside.nii.gz",
    "../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "\\etc\\passwd",
    "..\\outside.nii.gz",
    "C:\\Windows\\win.ini",
    "file:///etc/passwd",
    "link.nii.gz",
    "tags/../../outside.nii.gz",
    "p0_frontal.nii.gz/..",
    "a\0b",
    "p0_frontal.nii.gz\0.png",
    "a" * 300,
    "a/" * 2000,
    "$1",
    "$import os",
    "@weights",
    "%weights",
    "~root",
    "%2e%2e%2foutside.nii.gz",
    "\u202ep0_frontal",
    "p0_frontal.nii.gz\n",
]


class Place:
    """The folders of the server under attack, and what must not come to be."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.studies, self.weights = folder, folder / "studies", folder / "weights" / "model.pt"
        self.marker = folder / "was_run"
        self.evil = folder / "evil"
        for path in (self.studies, self.weights.parent, self.evil, folder / "log"):
            path.mkdir()
        write_studies(self.studies)
        write_weights(self.weights)
        (self.weights.parent / "overlay.json").write_text(json.dumps(shared_part(OVERLAY)))
        (folder / "training.json").write_text(json.dumps(OVERLAY))
        (self.evil / "sitecustomize.py").write_bytes(self.code)
        (self.evil / "gs").write_text(f"#!/bin/sh\ntouch {self.marker}\n")
        (self.evil / "gs").chmod(0o755)

    @property
    def code(self) -> bytes:
        return f"open({str(self.marker)!r}, 'w').close()\n".encode()

    def content(self) -> dict[str, str]:
        """Every file, save those of the server's own log, with the sum of its bytes."""
        files = [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and "log" not in path.relative_to(self.folder).parts
        ]
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def place(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if pytestconfig.getoption("--without-label"):
        pytest.skip("--without-label: MONAI Label's own environment was not wanted")
    assert PYTHON.is_file(), f"{PYTHON}: no such environment; `python launch.py test` makes it."
    return Place(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    """A server with weights, on whose path a false Ghostscript comes first."""
    port = free_port()
    line = [
        sys.executable,
        "launch.py",
        "label",
        "--studies",
        place.studies,
        "--weights",
        place.weights,
        "--port",
        port,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{place.evil}{os.pathsep}{os.environ['PATH']}")
        with running(line, port, place.folder / "log" / "server.log") as started:
            yield started


@pytest.fixture(autouse=True)
def unharmed(server: Server, place: Place) -> Iterator[None]:
    """After each attack: the files are as they were, nothing has run, no upload is left, and the server answers."""
    before = place.content()
    yield
    end_of_training(server)
    has_run = place.marker.exists()
    place.marker.unlink(missing_ok=True)
    assert not has_run, "code of the attack has run"
    assert place.content() == before
    assert not [path for path in server.temporary.glob("monailabel_*/*") if path.name != "sessions"]
    assert server.send("GET", "/info/", timeout_s=10).status == 200


def end_of_training(server: Server) -> None:
    def has_ended() -> bool:
        server.send("DELETE", "/train/")
        answer = server.send("GET", "/train/")
        return answer.status == 404 or answer.json["status"] not in ("SUBMITTED", "RUNNING")

    wait_for(has_ended)


def assert_refused(answer: Answer, *statuses: int, says: str = "") -> None:
    """A status of the client's fault, and one sentence, which tells no place of this machine."""
    assert answer.status in (statuses or range(400, 500)), answer.body[:500]
    detail = answer.detail
    assert isinstance(detail, str) and detail.endswith(".") and says in detail
    assert not any(folder in detail for folder in (str(ROOT), "/tmp/", "site-packages", "Traceback"))
    assert detail.isprintable()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_what_clients_do_not_need_does_not_exist(server: Server, method: str, path: str):
    answer = server.ask(method, path, {} if method in ("POST", "PUT") else None)
    assert answer.status in (404, 405)
    if method != "HEAD":
        assert_refused(answer)


@pytest.mark.parametrize("path", [TRAIN, "/scoring/x", f"/batch/infer/{MODEL}"])
@pytest.mark.parametrize("key", ["bundle_path", "PYTHONPATH"])
def test_no_request_puts_a_folder_on_the_path_of_a_process(server: Server, place: Place, path: str, key: str):
    answer = server.ask("POST", path, {key: str(place.evil), "max_epochs": 1})
    time.sleep(0.5 if answer.status >= 400 else 15)
    assert not place.marker.exists(), "code of the attack has run"
    assert_refused(answer, 400, 404)


def test_a_tar_is_not_unpacked(server: Server, place: Place):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in (str(place.folder / "absolute.txt"), "../" * 12 + str(place.folder / "upwards.txt")[1:]):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    answer = server.form("PUT", "/session/?uncompress=true", [Part("files", archive.getvalue(), b"radiographs.tar")])
    assert_refused(answer, 404)


def test_no_session_id_deletes_a_folder(server: Server, place: Place):
    """A session's record is `meta.info` in the folder that its id names; one whose image is missing is removed."""
    note = Part("file", b'{"image": "/nonexistent", "ts": 1, "expiry": 1}', b"meta.info")
    try:
        uploaded = server.form("PUT", f"{UPLOAD}?image=meta", [note])
        answer = server.form("POST", f"{INFER}?session_id={quote(str(place.studies), safe='')}", [])
        assert place.studies.is_dir(), "the studies are gone"
    finally:
        if not place.studies.is_dir():
            place.studies.mkdir()
            write_studies(place.studies)
        (place.studies / "meta.info").unlink(missing_ok=True)
    assert_refused(uploaded, 400, says="meta.info")
    assert_refused(answer, 400, says="session_id")


HOSTS = [
    "evil.org",
    "evil.org:{port}",
    "localhost.evil.org:{port}",
    "127.0.0.1.evil.org",
    "0.0.0.0:{port}",
    "evil.org.:80",
]
HOSTS += [
    "127.0.0.1@evil.org",
    "evil.org@127.0.0.1",
    "127.0.0.1:{port}@evil.org",
    "10.0.0.1:{port}",
    "[::2]:{port}",
    "[::1",
]
HOSTS += ["127.0.0.1:x", "127.0.0.1:{port}:1", "localhost, evil.org", "2130706433", "0x7f000001"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_was_bound_to_this_machine_is_none_of_its_own(server: Server, host: str):
    """What a page of another site sends after its name has been made to lead here, when Host and Origin agree."""
    host = host.format(port=server.port)
    for origin in (None, f"http://{host}"):
        answer = server.send("GET", "/datastore/?output=all", host=host, origin=origin)
        assert_refused(answer, 421)
        assert "access-control-allow-origin" not in answer.headers
    assert_refused(server.send("POST", TRAIN, b"{}", host=host, content_type="application/json"), 421)


@pytest.mark.parametrize(
    "lines", [b"Host: 127.0.0.1\r\nHost: evil.org\r\n", b"Host: evil.org\r\nHost: 127.0.0.1\r\n", b""]
)
def test_one_host_is_named(server: Server, lines: bytes):
    answer = server.head(b"GET /info/ HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
    assert answer.status in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.0.0.1:{port}"])
def test_the_names_of_this_machine_are_its_own(server: Server, host: str):
    host = host.format(port=server.port)
    assert server.send("GET", "/info/", host=host, origin=f"http://{host}", sec_fetch_site="same-origin").status == 200


CROSS = [{"origin": "https://evil.org"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": "file://"}]
CROSS += [{"origin": ""}, {"origin": "http://[::1"}, {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}]
CROSS += [{"sec_fetch_site": "anything"}, {"sec_fetch_site": "none", "origin": "http://localhost.evil.org"}]


@pytest.mark.parametrize("headers", CROSS)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/info/"), ("POST", TRAIN), ("PUT", f"{UPLOAD}?image=x"), ("DELETE", "/train/")]
)
def test_pages_of_other_sites_get_nothing(server: Server, method: str, path: str, headers: dict[str, str]):
    answer = server.send(method, path, **headers)
    assert_refused(answer, 403)
    assert not any(name.lower().startswith("access-control") for name in answer.headers)


def test_a_page_is_told_nothing_before_it_asks(server: Server):
    headers = {"origin": "https://evil.org", "access_control_request_method": "POST"}
    answer = server.send("OPTIONS", TRAIN, **headers)
    assert answer.status in (403, 405)
    assert not any(name.lower().startswith("access-control") for name in answer.headers)


TRAINING = [
    *(
        {key: value}
        for key in ("gpus", "run_id", "dataset_dir", "weights", "local_rank", "model", "$x")
        for value in ("a", 1)
    ),
    *({"max_epochs": value} for value in (10**9, -1, 1.5, "1", "$exit()", True, None, [1], {"a": 1}, 10**400)),
    *({"val_split": value} for value in (0, 1, -1, 2, "0.2", None, [0.2], True)),
    *({"pretrained": value} for value in (1, "yes", None, [])),
    *({"device": value} for value in ("$exit()", 1, ["cpu"], None, "cuda:99", "meta", "cpu\n", "a" * 10**4)),
    *({"client_id": value} for value in (1, "a" * 10**4, {"a": 1})),
]


@pytest.mark.parametrize("body", TRAINING)
def test_a_training_takes_the_documented_keys_within_their_bounds(server: Server, body: dict):
    assert_refused(server.ask("POST", TRAIN, body), 400, says=next(iter(body)))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"max_epochs": NaN}',
        b'{"val_split": NaN}',
        b'{"val_split": 1e999}',
        b'{"max_epochs": ' + b"9" * 5000 + b"}",
        b'{"device": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"max_epochs": 1, "max_epochs": 2}',
        b"\0",
    ],
)
def test_a_body_that_is_no_such_object_is_refused(server: Server, body: bytes):
    assert_refused(server.send("POST", TRAIN, body, content_type="application/json"), 400)
    assert_refused(server.form("POST", f"{INFER}?image=p0_frontal.nii.gz", [Part("params", body)]), 400)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a" * 1000]
)
def test_a_body_of_another_type_is_refused(server: Server, kind: str | None):
    assert_refused(server.send("POST", TRAIN, b'{"max_epochs": 1}', content_type=kind), 400, 415)


QUERIES = [
    *((TRAIN, f"{key}=true") for key in ("enqueue", "run_sync", "max_epochs", "x")),
    *(
        (INFER, f"image=p0_frontal.nii.gz&{pair}")
        for pair in ("session_id=x", "output=dicom_seg", "output=", "output=%00")
    ),
    *(
        (INFER, f"image=p0_frontal.nii.gz&{pair}")
        for pair in ("image=p1_frontal.nii.gz", "params={}", "x=1", "=", "a&b")
    ),
    *((INFER, query) for query in ("", "image=", "output=json", "image", "image=%ff%fe", "image=%ed%a0%80")),
]


@pytest.mark.parametrize(("path", "query"), QUERIES)
def test_a_query_takes_the_documented_keys_once(server: Server, path: str, query: str):
    assert_refused(server.form("POST", f"{path}?{query}", []), 400, 404, 415)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/?x=1"),
        ("GET", "/datastore/?output=train"),
        ("GET", "/datastore/?output=%00"),
        ("GET", "/datastore/?output=all&output=all"),
        ("GET", "/train/?all=maybe"),
        ("GET", "/train/?check_if_running=%ff"),
        ("DELETE", "/train/?id=x"),
    ],
)
def test_reading_takes_the_documented_keys(server: Server, method: str, path: str):
    assert_refused(server.send(method, path), 400)


def test_a_listing_is_bounded_and_few_at_once_are_made(server: Server, place: Place):
    folder, count = place.studies / "many", LONGEST_LISTING + 50
    before = server.send("GET", "/datastore/?output=all").json
    assert before["total"] == len(before["objects"])
    folder.mkdir()
    try:
        for number in range(count):
            for view in ("pa", "ll"):
                (folder / f"s{number}_{view}.png").touch()
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: server.send("GET", "/datastore/?output=all"), range(6)))
    finally:
        shutil.rmtree(folder)
    assert {answer.status for answer in answers} == {200, 429}
    listed = next(answer.json for answer in answers if answer.status == 200)
    assert len(listed["objects"]) == LONGEST_LISTING and listed["total"] == before["total"] + count
    assert server.send("GET", "/datastore/?output=all").json == before


def test_a_name_that_is_no_text_is_passed_over_and_named_in_the_log(server: Server, place: Place):
    """A system that takes any bytes for a name can hold it; an answer in UTF-8 cannot."""
    before = server.send("GET", "/datastore/?output=all").json
    paths = [os.fsencode(place.studies) + b"/odd\xff_" + view + b".png" for view in (b"pa", b"ll")]
    try:
        for path in paths:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        answer = server.send("GET", "/datastore/?output=all")
        assert answer.status == 200 and answer.json == before
    finally:
        for path in paths:
            os.unlink(path)
    assert "odd\\udcff_pa.png: its name is no UTF-8" in server.log.read_text()


PARAMETERS = [
    *(
        {key: "x"}
        for key in ("image", "model_path", "session_id", "weights", "output_dir", "bundle_path", "timeout", "logging")
    ),
    *({key: True} for key in ("save_label", "result_write_to_file", "largest_cc", "cache_transforms")),
    *({"lateral": value} for value in (1, None, ["p0_lateral.nii.gz"], {"a": 1}, True)),
    *({"device": value} for value in ("$exit()", 1, ["cpu"], "cuda:99", "cpu;ls", "\ud800")),
    *({"result_compress": value} for value in ("maybe", 2, [True], None)),
    *({"result_dtype": value} for value in (1, None, "a" * 10**4)),
    *({"result_extension": value} for value in ([".nrrd"], "a" * 10**4)),
]


@pytest.mark.parametrize("params", PARAMETERS)
def test_an_inference_takes_the_documented_parameters(server: Server, params: dict):
    assert_refused(server.infer("p0_frontal.nii.gz", **params), 400, says=next(iter(params)))


@pytest.mark.parametrize(
    "parts",
    [
        [Part("x", b"1")],
        [Part("params", b"{}"), Part("params", b"{}")],
        [Part("params", b"{}", b"params.json")],
        [Part("file", b"no file")],
        [Part("label", b"x", b"a.nii.gz")],
        [Part("file", b"x", b"a.nii.gz"), Part("file", b"x", b"b.nii.gz")],
        [Part("label", b"x" * 1000, b"a.bin")],
        [Part("file", b"x", b"a.bin"), Part("label", b"x", b"b.bin")],
        [Part(f"f{number}", b"x", b"a.png") for number in range(50)],
        [Part("params", b" " * 2_000_000 + b"{}")],
    ],
)
def test_a_form_takes_the_documented_fields(server: Server, parts: list[Part]):
    assert_refused(server.form("POST", f"{INFER}?output=json", parts), 400)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x", "x/y"]
)
@pytest.mark.parametrize(
    "body", [b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--", b"\xff" * 99]
)
def test_a_broken_form_is_refused(server: Server, kind: str, body: bytes):
    assert_refused(server.send("POST", f"{INFER}?output=json", body, content_type=kind), 400, 415)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_studies(server: Server, name: str):
    query = f"{INFER}?output=json&image={quote(name, safe='')}"
    assert_refused(server.form("POST", query, []), 400, 404)
    assert_refused(server.infer("p0_frontal.nii.gz", lateral=name), 400, 404)


@pytest.mark.parametrize(
    "name", ["..", ".", *NAMES[3:9], *NAMES[15:20], "spleen", "%ff", "\ud800".encode("utf-8", "surrogatepass")]
)
def test_no_name_of_a_model_leads_anywhere(server: Server, name: str | bytes):
    for method, door in (("POST", "infer"), ("POST", "train")):
        assert_refused(server.form(method, f"/{door}/{quote(name, safe='')}?image=p0_frontal.nii.gz", []), 404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/infer/../info/",
        "/infer/%2e%2e/info/",
        "/..%2finfo/",
        "//info/",
        "/infer\\x",
        "/%00",
        "http://127.0.0.1/info/",
        "/" + "a" * 5000,
    ],
)
def test_no_path_is_another(server: Server, path: str):
    answer = server.head(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert_refused(answer, 404, 405)


def radiograph(studies: Path, view: str = "frontal") -> bytes:
    return (studies / f"p0_{view}.nii.gz").read_bytes()


FILES = ["sitecustomize.py", "usercustomize.pth", "evil.so", "meta.info", "page.html", "page.svg", "datalist.json"]
FILES += [
    "overlay.json",
    "model.pt",
    "run.sh",
    "x.exe",
    "x.pkl",
    "x.zip",
    "x.tar.gz",
    "x.nhdr",
    "x.mhd",
    "x.nrrd.py",
    "noname",
]
FILES += [
    ".hidden.nii.gz",
    "-rf.nii.gz",
    "..nii.gz",
    "=1+1_frontal.nii.gz",
    "+1.nii.gz",
    "@a.nii.gz",
    "CON.nii.gz",
    "nul.nii.gz",
]
FILES += [
    "com1_x.nii.gz.py",
    "COM1.nii.gz",
    "a\\b.nii.gz",
    "a:b.nii.gz",
    "a*b.nii.gz",
    "a?b.nii.gz",
    'a"b.nii.gz',
    "a|b.nii.gz",
]
FILES += [
    "a\nb.nii.gz",
    "a\x1b[31mb.nii.gz",
    "a\tb.nii.gz",
    "a\rb.nii.gz",
    "a\x7fb.nii.gz",
    "a\0b.nii.gz",
    "a\u202eb.nii.gz",
]
FILES += ["a" * 300 + ".nii.gz", "ä" * 120 + ".nii.gz", "a b .nii.gz", " a.nii.gz", "a..nii.gz", "a\u2028b.nii.gz"]
FILES += [
    "../escaped.nii.gz",
    "sub/../../escaped.nii.gz",
    "sub/inner.nii.gz",
    "/tmp/escaped.nii.gz",
    "..\\escaped.nii.gz",
]
FILES += [
    "a/" * 20 + "x.nii.gz",
    "%2e%2e%2fescaped.nii.gz",
    "$x.nii.gz",
    "a#b.nii.gz",
    "a;b.nii.gz",
    "<b>.nii.gz",
    "\ufffd.nii.gz",
]


@pytest.mark.parametrize("name", FILES)
def test_an_upload_of_such_a_name_is_refused(server: Server, place: Place, name: str):
    """By the query, and by the file's own name."""
    content = place.code if name.endswith(".py") else radiograph(place.studies)
    suffix = next((suffix for suffix in (".nii.gz", ".py") if name.endswith(suffix)), "".join(Path(name).suffixes))
    part = Part("file", content, b"radiograph" + suffix.encode())
    assert_refused(server.form("PUT", f"{UPLOAD}?image={quote(name, safe='')}", [part]), 400)
    if not {"/", "\\", '"', "\n", "\r", "\0"} & set(name):  # a file's own name loses its folders
        assert_refused(server.form("PUT", UPLOAD, [Part("file", content, name.encode())]), 400)


@pytest.mark.parametrize("raw", [b"\xff\xfe.nii.gz", b"\xed\xa0\x80.nii.gz", b"\x80\x1b.nii.gz", b""])
def test_a_file_name_that_is_no_text_is_refused(server: Server, place: Place, raw: bytes):
    assert_refused(server.form("PUT", UPLOAD, [Part("file", radiograph(place.studies), raw)]), 400)


@pytest.mark.parametrize(
    "query", ["image=%ff", "image=%ed%a0%80", "image=a&image=b", "image=a&user=b", "params={}", "tag=x"]
)
def test_an_upload_takes_the_documented_keys(server: Server, place: Place, query: str):
    assert_refused(server.form("PUT", f"{UPLOAD}?{query}", [Part("file", radiograph(place.studies), b"a.nii.gz")]), 400)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.nii.gz", b"<html><script>alert(1)</script></html>"),
        ("x.nii.gz", gzip.compress(b"<html></html>", mtime=0)),
        ("x.nii.gz", b""),
        ("x.nii", b"\0" * 352),
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"),
        ("x.png", b"GIF89a\1\0\1\0\0\0\0;"),
        ("x.tif", b"\x89PNG\r\n\x1a\n"),
        ("x.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("x.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 99),
        ("x.dcm", b"no DICOM"),
        (
            "x.nrrd",
            b"NRRD0004\ntype: short\ndimension: 3\nsizes: 1 1 1\nbyte skip: -1\ndata file: /etc/passwd\n",
        ),
        ("x.mha", b"ObjectType = Image\nNDims = -1\nElementDataFile = LIST\n"),
    ],
)
def test_an_upload_that_is_not_what_its_name_says_is_refused(server: Server, name: str, content: bytes):
    part = Part("file", content, name.encode())
    assert_refused(server.form("PUT", UPLOAD, [part]), 400)
    assert_refused(server.form("POST", f"{INFER}?output=json", [part, Part("label", content, name.encode())]), 400)


@pytest.mark.parametrize("is_uploaded", [True, False])
def test_no_image_starts_ghostscript(server: Server, place: Place, is_uploaded: bool):
    """Pillow chooses the decoder by what a file holds; for PostScript it starts the first `gs` of the path."""
    lateral = {"label": place.studies / "p0_lateral.nii.gz"}
    path = place.studies / "one.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    try:
        answer = server.infer("", file=path, **lateral) if is_uploaded else server.infer("one.png", **lateral)
    finally:
        path.unlink()
    assert not place.marker.exists(), "code of the attack has run"
    assert_refused(answer, 400)


@pytest.mark.parametrize("name", ["p0_pa.nii.gz", "p0_ap_2.png", "p0_ll.nii.gz", "p0_frontal.png", "p0_ct_2.nii.gz"])
def test_an_upload_takes_no_study_out_of_the_list(server: Server, place: Place, name: str):
    """A second radiograph of a view, or a second CT, leaves open which belongs to the study."""
    content = image_file("PNG", 8) if name.endswith("png") else (place.studies / "p0_ct.nii.gz").read_bytes()
    content = content if "ct" in name or name.endswith("png") else radiograph(place.studies)
    before = server.send("GET", "/datastore/?output=all").json
    try:
        answer = server.form("PUT", UPLOAD, [Part("file", content, name.encode())])
        assert server.send("GET", "/datastore/?output=all").json == before
    finally:
        (place.studies / name).unlink(missing_ok=True)
    assert_refused(answer, 409)


@pytest.mark.parametrize(
    "name", ["alone_ct.nii.gz", "Alone_CT.nii.gz", "alone_ct.nii", "alone.nii.gz", "alone_ct_2.nii.gz"]
)
def test_a_ct_without_radiographs_gets_no_second_one(server: Server, place: Place, name: str):
    ct = (place.studies / "p0_ct.nii.gz").read_bytes()
    (place.studies / "alone_ct.nii.gz").write_bytes(ct)
    content, before = ct if name.endswith(".gz") else gzip.decompress(ct), place.content()
    try:
        answer = server.form("PUT", UPLOAD, [Part("file", content, name.encode())])
        assert place.content() == before
    finally:
        for path in place.studies.glob("[aA]lone*"):
            path.unlink()
    assert_refused(answer, 409)


def test_a_radiograph_that_waits_for_its_partner_gets_no_second_one(server: Server, place: Place):
    first, second = place.studies / "waits_pa.nii.gz", place.studies / "waits_frontal.nii.gz"
    try:
        for path, status in ((first, 200), (second, 409)):
            part = Part("file", radiograph(place.studies), path.name.encode())
            assert server.form("PUT", UPLOAD, [part]).status == status
        assert first.is_file() and not second.exists()
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def test_no_upload_takes_a_ct_without_radiographs_out_of_the_training(server: Server, place: Place, tmp_path: Path):
    """A series without a Patient ID is of the patient of its study's other files. Two such would make it nobody's."""

    def without_name(image: Dataset, index: int) -> None:
        image.PatientID, image.StudyInstanceUID = "", "1.2.3.4"

    write_series(place.studies / "series", without_name)
    try:
        for number, status in enumerate((200, 409)):
            path = tmp_path / f"{number}.dcm"
            names = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": f"1.2.3.5.{number}", "PatientID": f"P{number}"}
            write_line_integrals(path, np.eye(16), **names, **(LATERAL if number else {}))
            answer = server.form("PUT", UPLOAD, [Part("file", path.read_bytes(), path.name.encode())])
            assert answer.status == status, answer.body
        assert_refused(answer, 409, says="series")
        assert not (place.studies / "1.dcm").exists()
    finally:
        shutil.rmtree(place.studies / "series")
        (place.studies / "0.dcm").unlink(missing_ok=True)
        (place.studies / "1.dcm").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["p0_frontal.nii.gz", "P0_FRONTAL.NII.GZ", "p0_CT.nii.gz"])
def test_an_upload_replaces_nothing_whatever_its_case(server: Server, place: Place, name: str):
    assert_refused(server.form("PUT", UPLOAD, [Part("file", radiograph(place.studies), name.encode())]), 409)


def image_file(kind: str, side: int) -> bytes:
    options = {"PNG": {"compress_level": 1}, "TIFF": {"compression": "tiff_adobe_deflate"}, "JPEG": {}}[kind]
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, kind, **options)
    return file.getvalue()


def nifti(*shape: int, kind: type = np.uint8) -> bytes:
    """A header of this shape, and a few voxels."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return gzip.compress(header.binaryblock + bytes(4) + bytes(1000))


def nifti_of_a_large_header(size: int) -> bytes:
    """An extension of zeros before the voxels, of 1 pixel."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((1, 1))
    header["magic"], header["vox_offset"] = b"n+1", 352 + size
    start = header.binaryblock + b"\1\0\0\0" + struct.pack("<ii", size, 6)
    return gzip.compress(start + bytes(size - 7), compresslevel=1)


def dicom(side: int, deflated: bool, preamble: bytes = b"\0" * 128 + b"DICM") -> bytes:
    """A radiograph of zeros."""
    syntax = b"1.2.840.10008.1.2.1.99" if deflated else b"1.2.840.10008.1.2.1\0"
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    size = b"".join(struct.pack("<HH2sHH", 0x28, tag, b"US", 2, side) for tag in (0x10, 0x11))
    body = size + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, side * side)
    body += bytes(side * side) if deflated else b""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return preamble + meta + (deflate.compress(body) + deflate.flush() if deflated else body)


BOMBS = {
    "PNG of 13000²": ("a.png", lambda: image_file("PNG", 13_000), "13000 x 13000 = 169000000 values"),
    "TIFF of 13000²": ("a.tif", lambda: image_file("TIFF", 13_000), "13000 x 13000 = 169000000 values"),
    "deflated DICOM of 12000²": ("a.dcm", lambda: dicom(12_000, deflated=True), "is deflated as a whole"),
    "deflated DICOM of 20000², no preamble": (
        "a.dcm",
        lambda: dicom(20_000, deflated=True, preamble=b""),
        "is deflated as a whole",
    ),
    "DICOM of 60000²": ("a.dcm", lambda: dicom(60_000, deflated=False), "60000 x 60000 = 3600000000 values"),
    "NIfTI of 30000²": ("a.nii.gz", lambda: nifti(30_000, 30_000), "30000 x 30000 = 900000000 values"),
    "NIfTI of 8000² × 64 × 8": (
        "a.nii.gz",
        lambda: nifti(8000, 8000, 64, 8, kind=np.float64),
        "8000 x 8000 x 64 x 8 =",
    ),
    "NIfTI of a header of 512 MiB": (
        "a.nii.gz",
        lambda: nifti_of_a_large_header(2**29),
        "bytes (vox_offset), expected at most 16777216",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_that_asks_for_much_memory_is_refused_before_it_is_decoded(
    server: Server, place: Place, bomb: str
):
    name, make, found = BOMBS[bomb]
    files = [Part("file", make(), name.encode()), Part("label", radiograph(place.studies, "lateral"), b"b.nii.gz")]
    before = memory_mb(server)
    assert_refused(server.form("POST", f"{INFER}?output=json", files), 400, says=found)
    assert_refused(server.form("PUT", f"{UPLOAD}?image=new", files[:1]), 400, says=found)
    assert memory_mb(server) < before + 200


@pytest.mark.parametrize("name", ["pipe.png", "pipe.dcm", "pipe.nii.gz"])
def test_no_pipe_in_the_studies_is_waited_for(server: Server, place: Place, name: str):
    """As an archive can bring one: who opens it waits for somebody who writes."""
    folder = place.studies / ".pipes"  # not searched either
    folder.mkdir()
    try:
        os.mkfifo(folder / name)
        query = f"{INFER}?output=json&image={quote(f'.pipes/{name}')}"
        parts = [Part("params", b'{"lateral": "p0_lateral.nii.gz"}')]
        assert_refused(server.form("POST", query, parts, timeout_s=20), 400, says="names a pipe")
    finally:
        with suppress(OSError), open(os.open(folder / name, os.O_WRONLY | os.O_NONBLOCK), "wb"):
            pass  # who waits is let go
        shutil.rmtree(folder)


def memory_mb(server: Server) -> float:
    """The most that any process that listens or computes for the server has taken so far."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, encoding="utf-8").stdout.splitlines()
    pids = [line.split()[0] for line in found if f"--port {server.port}" in line and "monailabel" in line]
    peaks = [Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0] for pid in pids]
    return max(map(int, peaks)) / 1024


@pytest.mark.parametrize(
    ("method", "path", "size"), [("POST", TRAIN, 10**6), ("POST", INFER, 10**10), ("PUT", UPLOAD, 10**12)]
)
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Server, method: str, path: str, size: int):
    lines = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
    assert_refused(server.head(lines.encode()), 413)


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 400, "0x10"])
def test_a_length_that_is_none_is_refused(server: Server, length: str):
    answer = server.head(f"POST {TRAIN} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode())
    assert 400 <= answer.status < 500


def test_a_body_has_to_say_its_length(server: Server):
    answer = server.head(
        f"POST {TRAIN} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".encode()
    )
    assert_refused(answer, 411)


def test_a_second_training_is_not_queued(server: Server):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask("POST", TRAIN, {"max_epochs": 1}), range(30)))
    assert sorted(answer.status for answer in answers) == [200] + [429] * 29
    assert len(server.send("GET", "/train/?all=true").json) < 5


def test_of_many_reconstructions_at_once_some_are_sent_away_and_others_are_answered(server: Server):
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(server.infer, "p0_frontal.nii.gz", "json") for _ in range(20)]
        time.sleep(0.3)
        started = time.monotonic()
        assert server.send("GET", "/info/").status == 200
        assert time.monotonic() - started < 2
        statuses = [answer.result().status for answer in waiting]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4


@pytest.mark.parametrize(
    "name", ["x\n[2030-01-01 00:00:00] [INFO] all is well", "x\x1b[31mred", "x\r\nforged", "x\x9b31m"]
)
def test_no_name_forges_a_line_of_the_log_or_colours_it(server: Server, name: str):
    server.infer(name)
    server.infer("p0_frontal.nii.gz", lateral=name)
    server.ask("POST", TRAIN, {name: name})
    server.form("PUT", f"{UPLOAD}?image={quote(name)}", [Part("file", b"x", b"a.nii.gz")])
    server.form("POST", f"/train/{quote(name, safe='')}", [])
    logged = server.log.read_text(encoding="utf-8", errors="replace")
    assert not any(line.startswith(("[2030", "forged")) for line in logged.splitlines())
    assert "\x1b[31mred" not in logged and "\x9b" not in logged


def test_weights_that_are_damaged_end_no_process_and_tell_no_place(server: Server, place: Place):
    whole = place.weights.read_bytes()
    try:
        place.weights.write_bytes(whole[:1000])
        for _ in range(2):
            answer = server.infer("p0_frontal.nii.gz")
            assert answer.status == 503 and answer.detail.startswith("model.pt: ") and "/tmp/" not in answer.detail
    finally:
        place.weights.write_bytes(whole)
    assert server.infer("p0_frontal.nii.gz", "json").status == 200


@pytest.mark.parametrize(
    "overlay", ["{", '{"run": ["$__import__(\'sys\').exit(3)"]}', '{"network_def": {"_target_": "nowhere"}}']
)
def test_a_failure_of_the_server_is_one_sentence_and_not_its_end(server: Server, place: Place, overlay: str):
    path = place.weights.parent / "overlay.json"
    whole = path.read_text()
    try:
        path.write_text(overlay)
        answer = server.infer("p0_frontal.nii.gz")
    finally:
        path.write_text(whole)
    assert answer.status in (500, 503)
    assert len(answer.detail.splitlines()) == 1 and "/tmp/" not in answer.detail


def test_what_is_told_of_the_server_and_its_training_names_no_place(server: Server, place: Place):
    """A training that cannot start from the served weights says so, with their path."""
    whole = place.weights.read_bytes()
    try:
        place.weights.write_bytes(whole[:1000])
        assert server.ask("POST", TRAIN, {"max_epochs": 1}).status == 200
        wait_for(lambda: server.send("GET", "/train/").json["status"] not in ("SUBMITTED", "RUNNING"))
        answer = server.send("GET", "/train/").json
    finally:
        place.weights.write_bytes(whole)
        for folder in place.weights.parent.glob("training_*"):
            shutil.rmtree(folder)
    assert answer["status"] == "ERROR" and any("before.pth" in line for line in answer["details"])
    text = json.dumps([answer, server.send("GET", "/info/").json, server.send("GET", "/datastore/?output=all").json])
    assert not MACHINE.search(text)


@pytest.mark.parametrize("output", ["json", "all", "image"])
def test_every_answer_says_that_it_was_not_assessed(server: Server, output: str):
    """There is neither `model_familiarity.json` nor `model_uncertainty.json` next to these weights."""
    answer = server.infer("p0_frontal.nii.gz", output)
    assert answer.status == 200
    assert answer.headers["X-Out-Of-Distribution"] == "not assessed"
    assert answer.headers["X-Uncertainty"] == "not assessed"
    if output == "json":
        for name in ("familiarity", "uncertainty"):
            assert answer.json[name]["assessed"] is False
            assert answer.json[name]["reason"].startswith(f"there is no model_{name}.json next to the weights")


def command(place: Place, port: int, *further: str) -> list[str]:
    line = [
        str(PYTHON),
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        "monailabel_app",
        "--studies",
        str(place.studies),
    ]
    line += ["--conf", "weights", str(place.weights), "--uvicorn_app", "monailabel_app.server:app", "--port", str(port)]
    return [*line, *further]


def test_strangers_need_a_token_or_there_is_no_server(place: Place):
    """MONAI Label's own default is every address."""
    line = command(place, free_port())
    run = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=180)
    assert run.returncode != 0
    assert "needs a token" in run.stderr and "Traceback" not in run.stderr


def test_a_name_that_only_looks_like_this_machine_needs_a_token_and_a_short_one_is_none(tmp_path: Path):
    (tmp_path / "token").write_text("short")
    code = """
import sys
from lib.access import read_token
from scripts.errors import InputError
for path, host in ((None, "127.0.0.1.evil.org"), (sys.argv[1], "127.0.0.1")):
    try:
        print(read_token(path, host))
    except InputError as error:
        print(error)
"""
    where = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("monailabel_app", "bundle"))}
    line = [PYTHON, "-c", code, str(tmp_path / "token")]
    said = subprocess.check_output(line, env={**os.environ, **where}, encoding="utf-8", timeout=180).splitlines()
    assert "127.0.0.1.evil.org" in said[0] and "needs a token" in said[0]
    assert "expected one line of at least 16" in said[1]


def test_who_has_the_token_is_answered_and_nobody_else_and_the_end_of_the_server_is_that_of_its_training(
    place: Place, tmp_path: Path
):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    line = command(place, port, "--host", "0.0.0.0", "--conf", "token_file", str(tmp_path / "token"))
    with running(line, port, tmp_path / "server.log") as started:
        for given in (
            None,
            "",
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            "Bearer ä",
            "Bearer",
        ):
            for method, path in (("GET", "/info/"), ("POST", TRAIN), ("GET", "/nowhere")):
                answer = started.send(method, path, authorization=given)
                assert_refused(answer, 401)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert started.send("GET", "/info/", authorization=f"Bearer {TOKEN}").status == 200
        asked = {"model": MODEL, "image_id": "p0_frontal.nii.gz", "params": {}}
        path, _ = started.client(tmp_path, "infer", TOKEN, **asked)
        assert nibabel.load(path).shape == (64, 64, 64)
        assert_refused(started.send("GET", "/info/", authorization=f"Bearer {TOKEN}", host="evil.org"), 421)
        assert TOKEN not in started.log.read_text()
        body, named = b'{"max_epochs": 100}', {"authorization": f"Bearer {TOKEN}", "content_type": "application/json"}
        try:
            assert started.send("POST", TRAIN, body, **named).status == 200
            wait_for(lambda: started.send("GET", "/train/", **named).json["status"] == "RUNNING")
            os.kill(started.pid, signal.SIGTERM)
            wait_for(lambda: not is_running(started.pid))
        finally:
            for folder in place.weights.parent.glob("training_*"):
                shutil.rmtree(folder)


SIGNS = [
    "patient#1",
    "@weights",
    "%weights",
    "$exit()",
    "a@##b",
    "%#c",
    "$'{}'#x",
    "#",
    "'\"\\\\x23",
    "@weights#0",
    "p::1",
]
"""Names of folders in which MONAI's parser of configs reads an id, a reference, a macro or an expression."""


@pytest.fixture(scope="module")
def strange(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Place]]:
    """A server whose studies and weights lie in folders of such names, and so does each study."""
    odd = Place(tmp_path_factory.mktemp("st#ange@weights%x$y"))
    for name in SIGNS:
        (odd.studies / name).mkdir()
        for part in ("ct", "frontal", "lateral"):
            shutil.copyfile(odd.studies / f"p0_{part}.nii.gz", odd.studies / name / f"{name}_{part}.nii.gz")
    port, overlay = free_port(), odd.folder / "training.json"
    line = command(odd, port, "--host", "127.0.0.1", "--conf", "overlay", str(overlay))
    with running(line, port, odd.folder / "log" / "server.log") as started:
        yield started, odd


@pytest.mark.parametrize("name", SIGNS)
def test_a_name_in_the_studies_is_no_sign_of_a_config(strange: tuple[Server, Place], name: str):
    server, odd = strange
    study, lateral = (f"{name}/{name}_{view}.nii.gz" for view in ("frontal", "lateral"))
    listed = server.send("GET", "/datastore/?output=all").json["objects"]
    assert listed[study]["image"]["info"] == {"lateral": lateral, "ct": f"{name}/{name}_ct.nii.gz"}
    before = odd.content()
    expected = gzip.decompress(server.infer("p0_frontal.nii.gz").body)
    for answer in (server.infer(study), server.infer(study, lateral=lateral), server.infer(name)):
        assert answer.status == 200, answer.body
        assert gzip.decompress(answer.body) == expected
    assert odd.content() == before


def test_a_training_on_such_names_writes_into_its_folder_alone(strange: tuple[Server, Place]):
    server, odd = strange
    before = odd.content()
    assert server.ask("POST", TRAIN, {"max_epochs": 1, "val_split": 0.34}).status == 200
    wait_for(lambda: server.send("GET", "/train/").json["status"] not in ("SUBMITTED", "RUNNING"), timeout_s=400)
    answer = server.send("GET", "/train/").json
    assert answer["status"] == "DONE", "\n".join(answer["details"])
    (folder,) = odd.weights.parent.glob("training_*")
    place, after = str(folder.relative_to(odd.folder)), odd.content()
    assert {path for path in after if not path.startswith(f"{place}/")} == set(before)
    assert {path for path in before if before[path] != after[path]} == {"weights/model.pt"}
    sections = json.loads((folder / "datalist.json").read_text())
    cts = {Path(record["ct"]).name for name in ("training", "validation") for record in sections[name]}
    assert cts >= {f"{name}_ct.nii.gz" for name in SIGNS}
    assert not MACHINE.search(json.dumps(answer))


def is_running(group: int) -> bool:
    """Whether any process of a group runs; those that have ended and are not waited for do not count."""
    found = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, encoding="utf-8").stdout.splitlines()
    return any(line.split()[0] == str(group) and not line.split()[1].startswith("Z") for line in found)


def wait_for(done, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not come in time"
        time.sleep(0.2)
