"""A bucket on this machine that answers as S3 does: ListObjectsV2 in XML, objects by Range, MD5 as ETag."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from local_server import serving

COLLECTION = {
    "collection": "LIDC-IDRI",
    "doi": "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
    "licence": "CC BY 3.0",
    "licence_url": "https://creativecommons.org/licenses/by/3.0/",
    "attribution": "somebody",
}
"""What a manifest says of where its objects come from, but for the address."""
PAGE = 2
"""Objects on a page of a listing."""


class Bucket(ThreadingHTTPServer):
    """
    Args:
        objects: contents by key.

    Attributes:
        asked: every request: its path, and the first byte of its range.
        cut: key to the number of bytes after which the connection breaks, once.
        stop: key to the number of bytes after which nothing comes any more, once; `stopped` is set then.
        damage: keys of which another content comes, once.
        listing: what is answered instead of a listing.
        redirect: where every request is sent to.
        knows_ranges: whether a range is heeded.
    """

    daemon_threads = True

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.asked: list[tuple[str, int]] = []
        self.cut: dict[str, int] = {}
        self.stop: dict[str, int] = {}
        self.stopped = Event()
        self.damage: set[str] = set()
        self.listing: bytes | None = None
        self.redirect: str | None = None
        self.knows_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def starts_of(self, key: str) -> list[int]:
        """The first bytes of all ranges that were asked of an object."""
        return [start for path, start in self.asked if path == f"/{key}"]


def bucket(objects: dict[str, bytes]) -> AbstractContextManager[Bucket]:
    """Serves objects until the block ends."""
    return serving(Bucket(objects))


@contextmanager
def killed_at_its_stop(server: Bucket, fetch: Callable[[], object]) -> Iterator[None]:
    """Fetches in a process that is killed when the block ends, which begins when the server has stopped answering."""
    child = os.fork()
    if child == 0:
        try:
            fetch()
        finally:
            os._exit(0)
    try:
        assert server.stopped.wait(20)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Bucket

    def do_GET(self) -> None:
        start = int((re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        url = urlsplit(self.path)
        self.server.asked.append((unquote(url.path), start))
        if self.server.redirect:
            self._answer(307, b"", Location=self.server.redirect)
        elif url.path == "/":
            self._answer(200, self.server.listing or self._listing(parse_qs(url.query)))
        elif (key := unquote(url.path)[1:]) in self.server.objects:
            self._object(key, start if self.server.knows_ranges else 0)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        assert query["list-type"] == ["2"]
        keys = [key for key in sorted(self.server.objects) if key.startswith(query["prefix"][0])]
        first = int(query.get("continuation-token", ["0"])[0])
        page, is_last = keys[first : first + PAGE], first + PAGE >= len(keys)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
            f"<ETag>&quot;{hashlib.md5(self.server.objects[key]).hexdigest()}&quot;</ETag></Contents>"
            for key in page
        )
        further = "" if is_last else f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>"
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(not is_last).lower()}</IsTruncated>{further}{contents}</ListBucketResult>"
        ).encode()

    def _object(self, key: str, start: int) -> None:
        content = self.server.objects[key]
        if key in self.server.damage:
            self.server.damage.remove(key)
            content = bytes([content[0] ^ 1]) + content[1:]
        content, size = content[start:], len(content)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if key in self.server.stop:
            self.wfile.write(content[: self.server.stop.pop(key)])
            self.server.stopped.set()
            Event().wait(20)
        elif key in self.server.cut:
            self.wfile.write(content[: self.server.cut.pop(key)])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass
