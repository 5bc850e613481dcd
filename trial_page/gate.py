"""What of Gradio's server exists: the page, its files, an upload and a reconstruction; and the reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lib.access import Gate
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .results import SHOWN, Results
from .uploads import LARGEST_FILE, MOST_BYTES, bytes_in, is_inside, named_paths

UPLOAD, JOIN, REPORT = "/gradio_api/upload", "/gradio_api/queue/join", "/report/"
ROUTES = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(?:assets|static|svelte)/[\w./-]+"
        r"|/gradio_api/(?:startup-events|app_id|queue/data|upload_progress|heartbeat/\w+)"
    ),
    "POST": re.compile(rf"{UPLOAD}|{JOIN}"),
}
"""What the page asks for. Of Gradio's further routes some read a file, or fetch an address, that a request names."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OWN_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'none'"
)
"""Content Security Policy: what Gradio's page needs of itself; it can reach no other server."""


class OnlyTheseRoutes:
    """
    Args:
        app: Gradio's.
        results: whose files are under `/report/NAME/`.
        uploads: Gradio's folder of uploads.
    """

    def __init__(self, app: ASGIApp, results: Results, uploads: Path) -> None:
        self.app, self.results, self.uploads = app, results, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(send, scope["path"]))
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, route = scope["path"], ROUTES.get(scope["method"])
        if scope["method"] == "GET" and path.startswith(REPORT):
            await self._report(path.removeprefix(REPORT), scope, receive, send)
        elif route is None or not route.fullmatch(path) or ".." in path:
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
        elif path == UPLOAD and bytes_in(self.uploads) > MOST_BYTES:
            await PlainTextResponse("Too many uploads wait; try again later.", 429)(scope, receive, send)
        elif path == JOIN:
            await self._join(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _report(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        file = self.results.file(name)
        if file is None:
            answer = PlainTextResponse("There is no such result, or it has been removed.", 404)
            await answer(scope, receive, send)
            return
        kept = {} if file.suffix == ".html" else {"filename": file.name}  # which asks the browser to save it
        await FileResponse(file, media_type=SHOWN[file.name], **kept)(scope, receive, send)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on when every file that it names is an upload; the gate has bounded its size."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            paths = list(named_paths(json.loads(body)))
            are_uploads = all(isinstance(path, str) and is_inside(Path(path), self.uploads) for path in paths)
        except (ValueError, RecursionError, OSError):
            are_uploads = False
        if not are_uploads:
            await PlainTextResponse("A file of this request is no upload.", 400)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, again, send)


def _with_headers(send: Send, path: str) -> Send:
    """A report has a policy of its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            own = {} if path.startswith(REPORT) else {"Content-Security-Policy": OWN_PAGE}
            headers.update({**HEADERS, **own})
        await send(message)

    return sending


def guarded(app: ASGIApp, results: Results, uploads: Path, host: str) -> ASGIApp:
    """Gradio's app behind both: who may ask, how much, and what there is."""
    return Gate(OnlyTheseRoutes(app, results, uploads), host, None, {UPLOAD: LARGEST_FILE + 2**16})
