"""
MONAI Label's server for its own pages and for programs: a page of another site that is open in a browser here gets
nothing from it, and no upload outlives it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.utils.app import app_instance
from starlette.middleware.base import BaseHTTPMiddleware


async def refuse_other_sites(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """MONAI Label lets every site read its answers, and its settings for that cannot be used in this release."""
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"detail": f"pages of {origin} may not ask this server."}, status_code=403)
    return await answer(request)


run_as_before = app.router.lifespan_context


@asynccontextmanager
async def run_and_remove_uploads(application: FastAPI) -> AsyncIterator[Any]:
    """A server that is told to end by a signal does not come to what Python runs at its exit."""
    async with run_as_before(application) as state:
        yield state
    app_instance().remove_uploads()


app.router.lifespan_context = run_and_remove_uploads
app.add_middleware(BaseHTTPMiddleware, dispatch=refuse_other_sites)
