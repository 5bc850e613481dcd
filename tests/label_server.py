"""A MONAI Label server in its own environment, asked by plain HTTP and by MONAI Label's own client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bundle_runs import ROOT

PYTHON = ROOT / ".venv-label" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MODEL = "biplanar_xray_ct_reconstruction"
CLIENT = """
import json, sys
from monailabel.client import MONAILabelClient
server, folder, method, arguments = sys.argv[1:]
print("answer:", json.dumps(getattr(MONAILabelClient(server, folder), method)(**json.loads(arguments))))
"""


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert b"Traceback" not in self.body
        return self.json["detail"]


@dataclass
class Server:
    url: str
    log: Path
    temporary: Path
    """Its folder for temporary files."""

    def ask(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None = None,
        files: dict[str, Path] | None = None,
        origin: str | None = None,
        timeout_s: float = 120,
    ) -> Answer:
        """
        One request. Files go in a form, as `{field: path}`, with `params` as its field of JSON; a number after a field
        tells files of one field apart. Without files `params` is the body. `origin` is the site of the page that asks.
        """
        form = files is not None
        body, kind = _form(params or {}, files) if form else (json.dumps(params).encode(), "application/json")
        request = urllib.request.Request(self.url + path, None if params is None and not form else body, method=method)
        request.add_header("Content-Type", kind)
        if origin:
            request.add_header("Origin", origin)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())

    def infer(
        self, study: str = "", output: str = "image", model: str = MODEL, session: str = "", **given: Any
    ) -> Answer:
        """`given` are the request's parameters; a path among them is uploaded as the file of that name."""
        files = {name: value for name, value in given.items() if isinstance(value, Path)}
        params = {name: value for name, value in given.items() if name not in files}
        query = f"image={quote(study)}&output={output}&session_id={session}"
        return self.ask("POST", f"/infer/{model}?{query}", params, files)

    def client(self, folder: Path, method: str, **arguments: Any) -> Any:
        """What a method of `monailabel.client.MONAILabelClient` gives, which puts files into `folder`."""
        line = [PYTHON, "-c", CLIENT, self.url, folder, method, json.dumps(arguments)]
        run = subprocess.run(line, capture_output=True, encoding="utf-8", timeout=120)
        assert run.returncode == 0, run.stderr[-2000:]
        return json.loads(run.stdout.split("answer:")[1])


@contextmanager
def running(line: list[Any], port: int, log: Path) -> Iterator[Server]:
    """A server started by a command, with all its processes ended afterwards; temporary files go beside its log."""
    temporary = log.parent / "temporary"
    temporary.mkdir()
    with log.open("wb") as output:
        environment = {"OMP_NUM_THREADS": "2", **os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            list(map(str, line)), cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", log, temporary)
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
            if server.ask("GET", "/info/", timeout_s=10).status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{server.log.read_text(errors='replace')[-3000:]}")


def _form(params: dict[str, Any], files: dict[str, Path]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [('name="params"', json.dumps(params).encode())]
    for field, path in files.items():
        parts.append((f'name="{field.rstrip("0123456789")}"; filename="{path.name}"', path.read_bytes()))
    lines = [f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + data for name, data in parts]
    return b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"
