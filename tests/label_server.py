"""A MONAI Label server in its own environment, asked by plain HTTP and by MONAI Label's own client."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel
import torch
from monai.bundle import ConfigParser

from bundle_runs import OVERLAY, ROOT
from phantoms import phantom, write_radiographs
from radiograph_files import LATERAL, write_line_integrals
from scripts.io.image_writer import cube_affine, write_ct
from study_files import write_png

PYTHON = ROOT / ".venv-label" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MODEL = "biplanar_xray_ct_reconstruction"
CLIENT = """
import json, sys
from monailabel.client import MONAILabelClient
server, folder, token, method, arguments = sys.argv[1:]
client = MONAILabelClient(server, folder)
client.update_auth({"token_type": "Bearer", "access_token": token} if token else None)
print("answer:", json.dumps(getattr(client, method)(**json.loads(arguments))))
"""


@dataclass
class Part:
    """A field of a form; with a `filename` it is a file."""

    field: str
    data: bytes
    filename: bytes | None = None

    def encoded(self) -> bytes:
        name = f'name="{self.field}"'.encode()
        return name if self.filename is None else name + b'; filename="' + self.filename + b'"'


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert b"Traceback" not in self.body
        return self.json["detail"]


@dataclass
class Server:
    port: int
    log: Path
    temporary: Path
    """Its folder for temporary files."""
    pid: int
    """Of the command that has started it, and of the group of its processes."""
    address: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, timeout_s: float = 120, **headers: str | None
    ) -> Answer:
        """One request as it is; `host="x"` sets the header Host, `sec_fetch_site="x"` Sec-Fetch-Site."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout_s)
        given = {name.replace("_", "-").title(): value for name, value in headers.items() if value is not None}
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)
        finally:
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None = None,
        files: dict[str, Path] | None = None,
        **headers: str | None,
    ) -> Answer:
        """
        One request. Files go in a form, as `{field: path}`, with `params` as its field of JSON. Without files `params`
        is the body.
        """
        if files is None:
            body = None if params is None else json.dumps(params).encode()
            return self.send(method, path, body, content_type="application/json", **headers)
        parts = [Part(field, path.read_bytes(), path.name.encode()) for field, path in files.items()]
        return self.form(method, path, [Part("params", json.dumps(params or {}).encode()), *parts], **headers)

    def form(self, method: str, path: str, parts: Sequence[Part], **headers: str | None) -> Answer:
        boundary = uuid.uuid4().hex
        lines = [
            f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part.encoded() + b"\r\n\r\n" + part.data
            for part in parts
        ]
        body = b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()])
        return self.send(method, path, body, content_type=f"multipart/form-data; boundary={boundary}", **headers)

    def head(self, lines: bytes) -> Answer:
        """The answer to a request's lines, its body not sent, by a socket: no client changes them."""
        with socket.create_connection((self.address, self.port), timeout=60) as connection:
            connection.sendall(lines)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer(response.status, response.read(), response.headers)

    def infer(self, study: str = "", output: str = "image", model: str = MODEL, **given: Any) -> Answer:
        """`given` are the request's parameters; a path among them is uploaded as the file of that name."""
        files = {name: value for name, value in given.items() if isinstance(value, Path)}
        params = {name: value for name, value in given.items() if name not in files}
        query = f"image={quote(study)}&output={output}"
        return self.ask("POST", f"/infer/{model}?{query}", params, files)

    def client(self, folder: Path, method: str, token: str = "", **arguments: Any) -> Any:
        """What a method of `monailabel.client.MONAILabelClient` returns, which puts files into `folder`."""
        line = [PYTHON, "-c", CLIENT, self.url, folder, token, method, json.dumps(arguments)]
        run = subprocess.run(line, capture_output=True, encoding="utf-8", timeout=120)
        assert run.returncode == 0, run.stderr[-2000:]
        return json.loads(run.stdout.split("answer:")[1])


@contextmanager
def running(line: list[Any], port: int, log: Path) -> Iterator[Server]:
    """A server started by a command, with all its processes ended afterwards; temporary files go next to its log."""
    temporary = log.parent / "temporary"
    temporary.mkdir()
    with log.open("wb") as output:
        environment = {"OMP_NUM_THREADS": "2", **os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            list(map(str, line)), cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        server = Server(port, log, temporary, process.pid)
        _wait(process, server)
        yield server
    finally:
        _end(process)


def _end(process: subprocess.Popen, timeout_s: float = 20) -> None:
    """Ends a process and those that it has started, by a signal first."""
    deadline = time.monotonic() + timeout_s
    with suppress(ProcessLookupError):  # when none of them is left
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, server: Server, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if server.send("GET", "/info/", timeout_s=10).status in (200, 401):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{server.log.read_text(errors='replace')[-3000:]}")


def write_studies(folder: Path) -> None:
    """
    Three phantoms with a CT and radiographs by name, one with radiographs by DICOM tags, one whose radiographs say
    nothing, and a bad one; and a link to a radiograph that lies outside.
    """
    for number in range(3):
        hu = phantom(24, 0.03 * number)
        write_ct(str(folder / f"p{number}_ct.nii.gz"), hu, cube_affine(24, 360.0))
        write_radiographs(folder, f"p{number}", hu)
    for name, view in (("one", "frontal"), ("two", "lateral")):
        shutil.copyfile(folder / f"p0_{view}.nii.gz", folder / f"{name}.nii.gz")
    (folder / "tags").mkdir()
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "tagged"}
    for name, series, tags in (("1.dcm", "1.2.3.1", {}), ("2.dcm", "1.2.3.2", LATERAL)):
        radiograph = nibabel.load(folder / f"p0_{'lateral' if tags else 'frontal'}.nii.gz").get_fdata()[..., 0].T
        write_line_integrals(folder / "tags" / name, radiograph, **study, SeriesInstanceUID=series, **tags)
    (folder / "bad_frontal.png").write_bytes(b"no image")
    write_png(folder / "bad_lateral.png")
    (folder.parent / "outside.nii.gz").write_bytes((folder / "p0_lateral.nii.gz").read_bytes())
    (folder / "link.nii.gz").symlink_to(folder.parent / "outside.nii.gz")


def write_weights(path: Path) -> None:
    """Random weights of the sizes of :data:`OVERLAY`, none of them zero, whose volume lies within the window."""
    torch.manual_seed(0)
    config = ConfigParser()
    config.read_config(str(ROOT / "bundle" / "configs" / "inference.json"))
    config.update(OVERLAY)
    model = config.get_parsed_content("network_def")
    for name, parameter in model.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01 if "correction" in name else 0.1)
    torch.nn.init.constant_(model.stages[0].to_volume.conv.bias, 0.5)  # neither all air nor all bone
    torch.save(model.state_dict(), path)
