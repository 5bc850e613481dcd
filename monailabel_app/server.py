"""MONAI Label's server, for its own pages and programs: a page of another site in a browser here gets nothing from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from monailabel.app import app
from starlette.middleware.base import BaseHTTPMiddleware


async def refuse_other_sites(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """MONAI Label lets every site read its answers, and its settings for that cannot be used in this release."""
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"detail": f"pages of {origin} may not ask this server."}, status_code=403)
    return await answer(request)


app.add_middleware(BaseHTTPMiddleware, dispatch=refuse_other_sites)
