"""A public bucket of an S3 store by plain HTTPS: what it lists, and objects that go on where they stopped."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

from ..errors import InputError, OutputError, one_line_message, shown
from .object_listing import StoredObject, parse_listing

SECONDS = 60.0
"""Without a byte for so long, a connection is given up and opened again."""
ATTEMPTS = 5
"""Connections that may fail one after another before the store is given up."""
PAUSE_SECONDS = 0.5
"""Before the second attempt; twice as long before each further one."""
PART = ".part"
"""Ends the name of a file until it is whole and verified."""
BLOCK = 2**16
MAX_LISTING_BYTES = 2**22
"""Of one answer with at most 1000 objects, whose keys have at most 1024 bytes."""
OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Of this machine: without a certificate."""
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
Answer = TypeVar("Answer")


class ObjectStore:
    """
    Args:
        address: of the bucket, `https://HOST[:PORT]`; `http://` for a server of this machine alone.
        say: is told, in a sentence, what came damaged or broken and is fetched again.

    Raises:
        InputError: when the address is none of these.
    """

    def __init__(self, address: str, say: Callable[[str], object] = print) -> None:
        self.address, self.say = address.rstrip("/"), say
        try:
            parts = urlsplit(self.address)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InputError(f"address {address!r}: {one_line_message(error)}; expected https://HOST.") from error
        is_own = self._host in OWN_HOSTS
        is_host_alone = self._host and "@" not in parts.netloc and self.address == f"{parts.scheme}://{parts.netloc}"
        if not is_host_alone or not (parts.scheme == "https" or parts.scheme == "http" and is_own):
            raise InputError(f"address {address!r}: expected https://HOST, or http://127.0.0.1:PORT of this machine.")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection: http.client.HTTPConnection | None = None

    def objects(self, prefix: str, most: int) -> Iterator[StoredObject]:
        """
        All objects whose keys begin so.

        Args:
            prefix: of the keys.
            most: objects; one more is refused.

        Raises:
            InputError: when the store refuses, answers no listing, lists more objects, or cannot be reached.
        """
        token, count = None, 0
        while True:
            query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
            target = f"/?{urlencode(query)}"
            where = f"{self.address}{target}"
            page = parse_listing(self._whole(target), where)
            for each in page.objects:
                count += 1
                if count > most:
                    raise InputError(f"{where} lists more than {most} objects, expected at most that many.")
                yield each
            token = page.following
            if token is None:
                return
            if not page.objects:
                raise InputError(f"{where} answered an empty page that is not the last; try again.")

    def fetch(self, wanted: StoredObject, path: str, count: Callable[[int], object] = lambda size: None) -> None:
        """
        Writes an object to a file. Until it is whole and verified its name ends in :data:`PART`; what such a file of an
        earlier try holds is not asked for again.

        Args:
            wanted: the object, as it is listed.
            path: the file.
            count: is told of each number of bytes that has come; of a negative one when they come anew.

        Raises:
            InputError: when the store refuses, answers something else, cannot be reached, or the content is not what is
                listed, each time again.
            OutputError: when the file cannot be written.
        """
        part = f"{path}{PART}"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.islink(part):
                os.remove(part)
            done = os.path.getsize(part) if os.path.exists(part) else 0
            count(done)
            self._persist(lambda: self._continue(wanted, part, count), self._where(wanted))
            os.replace(part, path)
        except OSError as error:
            raise OutputError(
                f"{shown(path)}: cannot be written ({error.strerror or one_line_message(error)}); free the place and "
                f"start the same command again, which goes on from there."
            ) from error

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _where(self, wanted: StoredObject) -> str:
        return f"{self.address}/{shown(wanted.key)}"

    def _whole(self, target: str) -> bytes:
        def read() -> bytes:
            answer = self._ask(target, {})
            content = b""
            while len(content) <= MAX_LISTING_BYTES and (block := _read(answer, BLOCK)):
                content += block
            if answer.status != 200 or len(content) > MAX_LISTING_BYTES:
                self.close()
                raise InputError(self._refusal(target, answer, f"at most {MAX_LISTING_BYTES} bytes"))
            return content

        return self._persist(read, f"{self.address}{target}")

    def _persist(self, attempt: Callable[[], Answer], where: str) -> Answer:
        """Tries anew by another connection where one broke; what came before it is kept."""
        for number in range(1, ATTEMPTS + 1):
            try:
                return attempt()
            except _Interrupted as error:
                self.close()
                said = one_line_message(error)
            if number < ATTEMPTS:
                self.say(f"{where}: {said}; try {number + 1} of {ATTEMPTS}")
                time.sleep(PAUSE_SECONDS * 2 ** (number - 1))
        raise InputError(
            f"{where}: cannot be had in {ATTEMPTS} tries, at last: {said}. Start the same command again later; it goes "
            f"on from there."
        )

    def _continue(self, wanted: StoredObject, part: str, count: Callable[[int], object]) -> None:
        """What a part lacks of an object; a whole one is verified."""
        digest, done = _digest(part)
        if done < wanted.size:
            done += self._append(wanted, part, done, digest, count)
        if done != wanted.size or wanted.md5 not in (None, digest.hexdigest()):
            os.remove(part)
            count(-done)
            expected = f"expected {wanted.size}{f' of MD5 {wanted.md5}' if wanted.md5 else ''}"
            raise _Interrupted(f"came damaged: {done} bytes of MD5 {digest.hexdigest()}, {expected}")

    def _append(
        self, wanted: StoredObject, part: str, done: int, digest: hashlib._Hash, count: Callable[[int], object]
    ) -> int:
        target = quote(f"/{wanted.key}")
        answer = self._ask(target, {"Range": f"bytes={done}-"} if done else {})
        found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        is_rest = answer.status == 206 and found and [*map(int, found.groups())] == [done, wanted.size - 1, wanted.size]
        if not is_rest and not (answer.status == 200 and not done):
            self.close()
            if answer.status == 200:  # a server that knows no ranges sends the whole
                os.remove(part)
                count(-done)
                raise _Interrupted("the store knows no ranges")
            raise InputError(self._refusal(target, answer, f"bytes {done} to {wanted.size - 1}"))
        came = 0
        with open(part, "ab") as file:
            while block := _read(answer, min(BLOCK, wanted.size - done - came + 1)):
                came += len(block)
                if done + came > wanted.size:
                    self.close()
                    raise InputError(f"{self._where(wanted)} is longer than the {wanted.size} bytes that are listed.")
                file.write(block)
                digest.update(block)
                count(len(block))
        if done + came < wanted.size:
            raise _Interrupted(f"{done + came} of {wanted.size} bytes came")
        return came

    def _ask(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The answer to a GET, not yet read. Nothing leads to another host: an answer that says so is refused later."""
        if self._connection is None:
            self._connection = self._kind(self._host, self._port, timeout=SECONDS)
        try:
            self._connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers})
            answer = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(one_line_message(error)) from error
        if answer.status >= 500 or answer.status == 429:
            raise _Interrupted(f"status {answer.status} {answer.reason}")
        return answer

    def _refusal(self, target: str, answer: http.client.HTTPResponse, expected: str) -> str:
        to = answer.headers.get("Location")
        leads = f" and leads to {shown(to)}, where nobody follows" if to else ""
        return (
            f"{self.address}{target}: answered status {answer.status} {shown(answer.reason)}{leads}; expected "
            f"{expected}. Correct the address, or see whether the collection has moved."
        )


class _Interrupted(Exception):
    """What another try may mend."""


def _read(answer: http.client.HTTPResponse, size: int) -> bytes:
    """At most so many bytes of an answer; b"" at its end."""
    try:
        return answer.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(one_line_message(error)) from error


def _digest(path: str) -> tuple[hashlib._Hash, int]:
    """MD5, as S3 has it, and size of what a file holds; of nothing where there is none."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    if os.path.exists(path):
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
    return digest, size


def is_whole(path: str, wanted: StoredObject) -> bool:
    """Whether a file holds an object: its size, and its MD5 where that is known."""
    if not os.path.isfile(path) or os.path.getsize(path) != wanted.size:
        return False
    return wanted.md5 in (None, _digest(path)[0].hexdigest())
