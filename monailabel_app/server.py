"""
MONAI Label's requests for a pair of X-rays, and no others: what is not in :data:`ROUTES` does not exist, and no request
has a key that `lib/request_keys.py` does not have. MONAI Label's own server has some fifty routes; several of them run,
write or delete what a request names.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bundle")]

import psutil  # noqa: E402
from lib.access import Gate, read_token  # noqa: E402
from lib.answers import keep_log_on_lines, printable  # noqa: E402
from lib.request_keys import (  # noqa: E402
    ClientKeys,
    InferenceKeys,
    InferenceParameters,
    Keys,
    ListingKeys,
    StatusKeys,
    TrainingParameters,
    UploadKeys,
    json_keys,
    query_keys,
)
from lib.uploads import (  # noqa: E402
    NIFTI,
    check_size,
    form_of,
    stored,
    stored_for_studies,
)
from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.utils.app import app_instance  # noqa: E402
from monailabel.main import Main  # noqa: E402
from monailabel.utils.async_tasks.task import AsyncTask  # noqa: E402
from requests_toolbelt import MultipartEncoder  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.concurrency import run_in_threadpool  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from scripts.errors import InputError  # noqa: E402
from scripts.io.limits import MAX_RADIOGRAPH_PIXELS, MAX_VOXELS  # noqa: E402

MODEL = "biplanar_xray_ct_reconstruction"
LARGEST_BODY = {"/infer/": 2**28, "/datastore/": 2**30}
RECONSTRUCTIONS = asyncio.Semaphore(4)
"""How many may wait or be computed, which is done one after the other."""
UPLOADS = asyncio.Semaphore(2)
LISTINGS = asyncio.Semaphore(4)
"""Each searches the folder."""

Known = TypeVar("Known", bound=Keys)
Result = TypeVar("Result")


async def about(request: Request) -> Response:
    keys_of(request, Keys)
    return JSONResponse(await worked(app_instance().info))


async def studies(request: Request) -> Response:
    datastore = app_instance().datastore()
    if keys_of(request, ListingKeys).output == "stats":
        return JSONResponse(await worked(datastore.status))
    async with place_in(LISTINGS, "listings"):
        return JSONResponse(await worked(datastore.json))


async def upload(request: Request) -> Response:
    """Adds a radiograph or a CT to the studies; nothing is replaced."""
    asked = keys_of(request, UploadKeys)
    async with place_in(UPLOADS, "uploads"), form_of(request, ["file"]) as form:
        json_keys(form.get("params", ""), ClientKeys, "params")
        if "file" not in form:
            raise InputError("there is no file, expected the radiograph or CT as the field 'file' of a form.")
        with tempfile.TemporaryDirectory() as folder:
            return JSONResponse({"image": await worked(add_to_studies, form["file"], asked.image, Path(folder))})


async def infer(request: Request) -> Response:
    check_model(request)
    asked = keys_of(request, InferenceKeys)
    async with place_in(RECONSTRUCTIONS, "reconstructions"), form_of(request, ["file", "label"]) as form:
        given = json_keys(form.get("params", ""), InferenceParameters, "params")
        if bool(asked.image) == ("file" in form) or (given.lateral and "label" in form):
            raise InputError(
                "expected a frontal radiograph, as 'image' in the query or as the file 'file', and at most one lateral "
                "one, as 'lateral' in params or as the file 'label'."
            )
        with tempfile.TemporaryDirectory() as folder:
            return await worked(reconstructed, asked, given, form, Path(folder))


async def train(request: Request) -> Response:
    check_model(request)
    keys_of(request, Keys)
    body = await request.body()
    if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body is of another type, expected application/json.")
    asked = json_keys(body, TrainingParameters, "the body")
    task, _ = AsyncTask.status("train")
    if task and task["status"] in ("SUBMITTED", "RUNNING"):
        raise HTTPException(429, "a training runs already; GET /train/ tells how far it is, DELETE /train/ ends it.")
    task, _ = AsyncTask.run("train", {"model": MODEL}, asked.model_dump(exclude={"client_id"}))
    return JSONResponse(training_told(task))


async def training(request: Request) -> Response:
    asked = keys_of(request, StatusKeys)
    found, _ = AsyncTask.status("train", asked.all, asked.check_if_running)
    if not found:
        raise HTTPException(404, f"no training {'runs' if asked.check_if_running else 'has been started'}.")
    return JSONResponse([training_told(task) for task in found] if isinstance(found, list) else training_told(found))


async def end_training(request: Request) -> Response:
    keys_of(request, Keys)
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        if task := await worked(AsyncTask.stop, "train"):
            return JSONResponse(training_told(task))
    raise HTTPException(404, "no training runs.")


ROUTES = [
    Route("/info/", about, methods=["GET"]),
    Route("/datastore/", studies, methods=["GET"]),
    Route("/datastore/", upload, methods=["PUT"]),
    Route("/datastore/image", upload, methods=["PUT"]),
    Route("/infer/{model}", infer, methods=["POST"]),
    Route("/train/{model}", train, methods=["POST"]),
    Route("/train/", training, methods=["GET"]),
    Route("/train/", end_training, methods=["DELETE"]),
]


def check_model(request: Request) -> None:
    model = request.path_params["model"]
    if model != MODEL:
        raise HTTPException(404, f"model {model!r} does not exist, expected {MODEL}.")


def keys_of(request: Request, kind: type[Known]) -> Known:
    return query_keys(request.scope["query_string"], kind)


@asynccontextmanager
async def place_in(line: asyncio.Semaphore, what: str) -> AsyncIterator[None]:
    if line.locked():
        raise HTTPException(429, f"as many {what} as this server takes wait already; ask again.", {"Retry-After": "10"})
    async with line:
        yield


async def worked(work: Callable[..., Result], *given: Any) -> Result:
    """What a thread makes of it, while others are answered. No request ends the server."""
    try:
        return await run_in_threadpool(work, *given)
    except SystemExit as error:
        raise RuntimeError(f"a request would have ended the server ({error})") from error


def add_to_studies(file: Any, name: str | None, folder: Path) -> str:
    name, path = stored_for_studies(file, name, folder)
    check_size(path, f"image {name!r}", MAX_VOXELS if path.name.endswith(NIFTI) else MAX_RADIOGRAPH_PIXELS)
    return app_instance().datastore().add_image(name, str(path))


def reconstructed(asked: InferenceKeys, given: InferenceParameters, form: Any, folder: Path) -> Response:
    """The answer to `/infer/`; nothing of `folder` is needed for it afterwards."""
    radiographs: dict[str, Any] = {"image": asked.image, "lateral": given.lateral}
    for field, name in (("file", "image"), ("label", "lateral")):
        if field in form:
            radiographs[name] = stored(form[field], name, folder)
    result = app_instance().infer({**radiographs, "device": given.device, "folder": str(folder)})
    params = {**result["params"], "warnings": list(map(app_instance().without_folders, result["params"]["warnings"]))}
    if asked.output == "json":
        return JSONResponse(params, headers=assessment_headers(params))
    volumes = {name: folder / f"{name}.nii.gz" for name in ("ct", "uncertainty")}
    if asked.output == "image":
        named = {"Content-Disposition": 'attachment; filename="ct.nii.gz"'}
        return Response(
            volumes["ct"].read_bytes(), 200, {**named, **assessment_headers(params)}, "application/octet-stream"
        )
    fields = {"params": (None, JSONResponse(params).body, "application/json")}
    for field, path in zip(("image", "uncertainty"), volumes.values()):
        if path.is_file():
            fields[field] = (path.name, path.read_bytes(), "application/octet-stream")
    parts = MultipartEncoder(fields)
    return Response(parts.to_string(), 200, assessment_headers(params), parts.content_type)


def assessment_headers(params: dict[str, Any]) -> dict[str, str]:
    """In the header of every answer, since a CT alone holds nothing else."""
    familiarity, uncertainty, calibration = (params[name] for name in ("familiarity", "uncertainty", "calibration"))
    flag = "flagged" if familiarity.get("flagged") else "not flagged"
    kept = "flagged" if calibration.get("flagged") else "not flagged"
    width = f"mean half-width {uncertainty.get('mean_half_width_hu')} HU"
    return {
        "X-Out-Of-Distribution": flag if familiarity["assessed"] else "not assessed",
        "X-Uncertainty": width if uncertainty["assessed"] else "not assessed",
        "X-Calibration": kept if calibration["calibrated"] else "not calibrated",
    }


def training_told(task: dict[str, Any]) -> dict[str, Any]:
    """What `/train/` says of a training: its last lines, save those of a traceback, which are in the log."""
    lines = [line for line in list(task.get("details", ())) if not line.startswith((" ", "Traceback"))]
    return {**task, "details": list(map(app_instance().without_folders, lines))}


async def refused(request: Request, error: Exception) -> Response:
    if isinstance(error, InputError):
        return JSONResponse({"detail": printable(app_instance().without_folders(str(error)))}, 400)
    assert isinstance(error, HTTPException)
    is_ours = error.detail != HTTPStatus(error.status_code).phrase
    asked = f"{request.method} {request.url.path!r}"
    unknown = f"{asked} is no request of this server, which keeps no label maps and deletes nothing."
    return JSONResponse({"detail": printable(error.detail if is_ours else unknown)}, error.status_code, error.headers)


async def failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "the server has failed in this request; its log says where."}, 500)


@asynccontextmanager
async def running(_: Starlette) -> AsyncIterator[None]:
    """Temporary files go into a private folder, and with it when the server ends, as a training does."""
    with tempfile.TemporaryDirectory(prefix="monailabel_") as folder:
        tempfile.tempdir = folder
        app_instance().server_mode(True)
        yield
        with suppress(psutil.NoSuchProcess):
            AsyncTask.stop("train")


def served() -> Gate:
    """The server of MONAI Label's command line. Without the token that its host needs it does not start."""
    keep_log_on_lines()
    host = Main().args_parser().parse_args().host
    try:
        token = read_token(settings.MONAI_LABEL_APP_CONF.get("token_file"), host)
    except InputError as error:
        sys.exit(f"error: {error}")
    handlers = {InputError: refused, HTTPException: refused, Exception: failed}
    application = Starlette(routes=ROUTES, exception_handlers=handlers, lifespan=running)
    application.router.redirect_slashes = False
    return Gate(application, host, token, LARGEST_BODY)


app = served()
