"""
The Hugging Face Hub on this machine, as far as `huggingface_hub` needs it: a repository is made, its card checked,
files are sent in a commit or, the large ones, by LFS with their SHA-256, and fetched again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from local_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGEST_REGULAR = 100_000
"""Bytes; the hub wants larger files by LFS."""


class Hub(ThreadingHTTPServer):
    """
    Args:
        token: that may write.

    Attributes:
        files: what each repository holds.
        made: the body of each request to make a repository.
        objects: what came by LFS, by its SHA-256.
        cards: what was checked as a card.
        tags: of each repository.
    """

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.files: dict[str, dict[str, bytes]] = {}
        self.made: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.cards: list[str] = []
        self.tags: dict[str, list[str]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def hub(token: str = "hf_of_a_test") -> AbstractContextManager[Hub]:
    """Serves until the block ends."""
    return serving(Hub(token))


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not self._may():
            self._answer({"error": "Invalid username or password."}, 401)
        elif found := re.fullmatch("/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._send(self.server.files[found[1]].get(found[2]))
        elif found := re.fullmatch("/api/models/([^/]+/[^/]+)(/refs|/revision/.+|/tree/.+)?", path):
            self._answer(self._known_of(found[1], (found[2] or "").split("/")[1:]))
        else:
            self._answer({"error": "no such request"}, 404)

    do_HEAD = do_GET

    def _known_of(self, repository: str, asked: list[str]) -> Any:
        files = self.server.files[repository]
        if asked[:1] == ["refs"]:
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": COMMIT} for tag in self.server.tags[repository]
            ]
            return {"branches": [], "converts": [], "tags": tags}
        if asked[:1] == ["tree"]:
            return [{"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT} for name in sorted(files)]
        siblings = [{"rfilename": name} for name in sorted(files)]
        return {
            "id": repository,
            "sha": COMMIT,
            "siblings": siblings,
            "private": True,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }

    def _send(self, content: bytes | None) -> None:
        if content is None:
            self._answer({"error": "Entry not found"}, 404)
            return
        self.send_response(200)
        headers = {
            "ETag": hashlib.sha256(content).hexdigest(),
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_PUT(self) -> None:
        """An address that was given for one object alone, as a store's, which asks for no token."""
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = content
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if not self._may():
            self._answer({"error": "Invalid username or password."}, 401)
            return
        for pattern, answer in _ANSWERS.items():
            if found := re.fullmatch(pattern, self.path):
                self._answer(answer(self.server, body, *found.groups()))
                return
        self._answer({"error": "no such request"}, 404)

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: Any, status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _create(server: Hub, body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    server.made.append(asked)
    name = f"{asked['organization']}/{asked['name']}"
    server.files.setdefault(name, {".gitattributes": b"*.pt filter=lfs"})
    server.tags.setdefault(name, [])
    return {"url": f"{server.address}/{name}"}


def _validate(server: Hub, body: bytes) -> dict[str, Any]:
    server.cards.append(json.loads(body)["content"])
    return {"warnings": [], "errors": []}


def _preupload(server: Hub, body: bytes, repository: str) -> dict[str, Any]:
    def mode(size: int) -> str:
        return "lfs" if size > LARGEST_REGULAR else "regular"

    asked = json.loads(body)["files"]
    return {
        "files": [{"path": each["path"], "uploadMode": mode(each["size"]), "shouldIgnore": False} for each in asked]
    }


def _batch(server: Hub, body: bytes, repository: str) -> dict[str, Any]:
    def place(each: dict[str, Any]) -> dict[str, Any]:
        return {**each, "actions": {"upload": {"href": f"{server.address}/objects/{each['oid']}"}}}

    return {"transfer": "basic", "objects": [place(each) for each in json.loads(body)["objects"]]}


def _commit(server: Hub, body: bytes, repository: str) -> dict[str, Any]:
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            server.files[repository][value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            server.files[repository][value["path"]] = server.objects[value["oid"]]
    return {"commitUrl": f"{server.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}


def _tag(server: Hub, body: bytes, repository: str) -> dict[str, Any]:
    server.tags[repository].append(json.loads(body)["tag"])
    return {}


_ANSWERS = {
    "/api/repos/create": _create,
    "/api/validate-yaml": _validate,
    "/api/models/([^/]+/[^/]+)/preupload/main": _preupload,
    r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": _batch,
    "/api/models/([^/]+/[^/]+)/commit/main": _commit,
    f"/api/models/([^/]+/[^/]+)/tag/(?:{COMMIT}|main)": _tag,
}
