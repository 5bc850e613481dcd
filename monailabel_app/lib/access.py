"""Who may ask: programs and pages of this machine, under its own names; others with a token."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.answers import printable
from scripts.errors import InputError

HOST = re.compile(r"(\[[\da-f:.]+\]|[\w.-]+)(?::\d{1,5})?", re.I | re.A)
TOKEN = re.compile(r"[!-~]{16,}")
ANY_ADDRESS = {"0.0.0.0", "::"}
SAME_SITE = (None, "same-origin", "none")
"""What a browser says of its own pages, of what a user has typed, and what a program says."""
LARGEST_JSON = 2**16


class Refusal(Exception):
    """A status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Gate:
    """
    Refuses a request before its body is read:

    - of another name than this machine's (421): a page whose site's name was made to lead here (DNS rebinding) has that
      name in its request;
    - of a page of another site (403), told by Origin, and by Sec-Fetch-Site where there is no Origin;
    - without the token, where there is one (401);
    - with a body that is too large (413) or does not say how large it is (411).

    Args:
        app: what answers the others.
        host: on which the server listens.
        token: that requests have to bring, as `Authorization: Bearer TOKEN`; None where this machine alone can ask.
        largest: by the beginning of a path, how many bytes a body may have; elsewhere :data:`LARGEST_JSON`.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None, largest: Mapping[str, int]) -> None:
        self.app, self.token, self.largest = app, token, largest
        self.names = {"localhost", host.lower()} - ANY_ADDRESS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_site(headers, self._checked_host(headers, scope))
            self._check_token(headers)
            if scope["method"] in ("POST", "PUT"):  # no other body is read
                self._check_size(headers, scope["path"])
        except Refusal as refusal:
            named = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
            answer = JSONResponse(
                {"detail": printable(refusal.reason)}, refusal.status, {**named, "Connection": "close"}
            )
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _checked_host(self, headers: Headers, scope: Scope) -> str:
        given = headers.getlist("host")
        match = HOST.fullmatch(given[0]) if len(given) == 1 else None
        name = match[1].strip("[]").lower() if match else ""
        local = scope["server"][0]  # the address at which this request has come in, which no name stands for
        if not (is_loopback(name) or name in self.names or name == local):
            expected = ", ".join(sorted({*self.names, local}))
            raise Refusal(
                421, f"this server is not {' and '.join(map(repr, given)) or 'without a name'}, expected {expected}."
            )
        return given[0]

    def _check_site(self, headers: Headers, host: str) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Refusal(403, f"pages of {origin or 'no name'} may not ask this server.")
        if site not in SAME_SITE:
            raise Refusal(
                403, f"the browser calls this request {site!r}; pages of other sites may not ask this server."
            )

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self.token is None:
            return
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("latin-1"), self.token.encode()):
            raise Refusal(
                401, "this server answers who has its token, expected the header Authorization: Bearer TOKEN."
            )

    def _check_size(self, headers: Headers, path: str) -> None:
        largest = next((size for start, size in self.largest.items() if path.startswith(start)), LARGEST_JSON)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers:
            raise Refusal(411, "the body does not say how large it is, expected the header Content-Length.")
        if not re.fullmatch(r"\d{1,18}", length, re.A):
            raise Refusal(400, f"Content-Length is {length[:40]!r}, expected a number of bytes.")
        if int(length) > largest:
            raise Refusal(413, f"the body has {length} bytes, expected at most {largest}.")


def is_loopback(name: str) -> bool:
    """Whether a name or address is this machine's for itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_token(path: str | None, host: str) -> str | None:
    """
    The token that requests have to bring; None where a server listens to this machine alone and names no file of one.

    Args:
        path: a file that holds it alone.
        host: on which the server listens.

    Raises:
        InputError: when others could ask and there is no token, or the file holds none.
    """
    if path is None:
        if is_loopback(host.lower()):
            return None
        raise InputError(
            f"--host {host}: others than this machine can ask there, which needs a token; name a file that holds one "
            f"by --conf token_file FILE (make one with: openssl rand -hex 32 > FILE), or listen on 127.0.0.1."
        )
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the token cannot be read from it ({error}); name a file that holds one.") from error
    if not TOKEN.fullmatch(token):
        raise InputError(
            f"{path}: holds no token, expected one line of at least 16 printable ASCII characters without blanks."
        )
    return token
