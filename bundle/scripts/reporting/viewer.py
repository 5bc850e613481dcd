"""A page that shows X-rays and volumes in a browser, by NiiVue: one HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from ..errors import InputError
from ..io.atomic_write import NOTICE, remove_earlier, write_text
from ..io.image_writer import as_greyscale
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import BOTH_VIEWS
from .measurement_table import MeasurementTable

PACKAGE = "ipyniivue"
INSTALL = "run `pip install --no-deps 'ipyniivue>=2.4.4,<2.5'`"
NIIVUE_MODULE = re.compile(r'"([^"\s]*export%7B[^"\s]*%2CNiivue%2C[^"\s]*)"')
"""The string literal of the widget's JavaScript that holds NiiVue, percent-encoded, for pages that the widget saves."""
VIEWS_DO_NOT = {1: "One view does not determine", 2: "Two views do not determine"}
EDGES = {"frontal": ("R", "L"), "lateral": ("A", "P")}
"""Where the left and the right edge of an X-ray lie, see :class:`~scripts.BiplanarGeometry`."""


def write_view(
    path: str,
    title: str,
    volumes: Mapping[str, str],
    xrays: torch.Tensor,
    geometry: BiplanarGeometry,
    isocentre_mm: Sequence[float] = (0.0, 0.0, 0.0),
    scores: Sequence[Mapping[str, str]] = (),
    note: str = "",
    figures: Mapping[str, bytes] = MappingProxyType({}),
    measurements: MeasurementTable = MeasurementTable([], []),
    given: Sequence[int] = BOTH_VIEWS,
) -> None:
    """
    Writes the page. It holds everything that it shows, the files of the volumes included, and fetches nothing.

    NiiVue is taken from the package `ipyniivue`, which needs none of its own dependencies for that. Where it is not
    installed there is no page, neither a new one nor that of an earlier result.

    Args:
        path: where to, `.html`.
        title: heading of the page.
        volumes: NIfTI files in HU by the name to show. The page begins with the first and the last.
        xrays: `(2, H, W)`, frontal and lateral.
        geometry: the acquisition geometry of the X-rays, of one case, by which the page projects the cross-hair.
        isocentre_mm: the isocentre in the space of the volumes.
        scores: rows of a table under the volumes, all with the same columns.
        note: a further line under the heading.
        figures: PNG files under the X-rays and the volumes, by their headings.
        measurements: a table under the volumes, where it has rows.
        given: the views whose X-rays are shown.

    Warns:
        UserWarning: when NiiVue is missing.
    """
    try:
        module, licence = niivue_module()
    except InputError as error:
        remove_earlier(path)
        warnings.warn(f"{path} is not written: {error}")
        return
    view = {
        "title": title,
        "note": note,
        "notice": f"{NOTICE}. {VIEWS_DO_NOT[len(given)]} a volume: structures can be invented or erased.",
        "xrays": [_xray(xrays, geometry, isocentre_mm, index) for index in given],
        "volumes": [{"name": name, "file": _base64(Path(file).read_bytes())} for name, file in volumes.items()],
        "measurements": measurements._asdict(),
        "scores": list(scores),
        "figures": [{"title": heading, "image": _png(content)} for heading, content in figures.items()],
        "niivue": module,
    }
    write_text(path, _page(view, licence))


@lru_cache(maxsize=1)
def niivue_module() -> tuple[str, str]:
    """
    NiiVue as the installed package brings it: its JavaScript module, compressed by gzip, in base64; and its licence.

    Raises:
        InputError: when the package is missing, or does not hold the module where version 2.4.4 has it.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        message = f"the page's NiiVue comes in the package {PACKAGE}, which is not installed; {INSTALL}."
        raise InputError(message) from error
    widget, licence = Path(package.locate_file(f"{PACKAGE}/static/widget.js")), package.read_text("licenses/LICENSE")
    found = NIIVUE_MODULE.search(widget.read_text(encoding="utf-8")) if widget.is_file() else None
    if found is None or licence is None:
        raise InputError(f"{widget}: {PACKAGE} {package.version} does not hold NiiVue as expected; {INSTALL}.")
    return _base64(gzip.compress(unquote(found.group(1)).encode("utf-8"), mtime=0)), licence


def projection_matrix(geometry: BiplanarGeometry, isocentre_mm: Sequence[float], view: int) -> np.ndarray:
    """
    :meth:`BiplanarGeometry.projected_point` as a `(3, 4)` matrix: `(X, Y, Z, 1)` in mm to `(u w, v w, w)`, where `u`
    and `v` are fractions of the detector's side, from its left and its upper edge.
    """
    rotated = np.array(geometry.rotation(view), dtype=float).T
    across, depth, up = (rotated[view], rotated[1 - view] * geometry.depth_sign(view), rotated[2])
    weight = np.zeros(4)
    weight[3] = 1.0
    if not geometry.is_parallel:
        weight = np.array([*-depth, geometry.source_to_isocentre_mm]) / geometry.source_to_detector_mm
    matrix = np.zeros((3, 4))
    matrix[:2, :3] = -np.stack([across, up]) / geometry.detector_size_mm
    matrix[:2] += weight / 2
    matrix[2] = weight
    matrix[:, 3] -= matrix[:, :3] @ np.asarray(isocentre_mm, dtype=float)
    return matrix


def _xray(xrays: torch.Tensor, geometry: BiplanarGeometry, isocentre_mm: Sequence[float], index: int) -> dict[str, Any]:
    name, edges = list(EDGES.items())[index]
    image = io.BytesIO()
    as_greyscale(xrays[index]).save(image, format="png")
    return {
        "name": f"{name.capitalize()} X-ray, {geometry.views[index]}",
        "edges": edges,
        "image": _png(image.getvalue()),
        "projection": projection_matrix(geometry, isocentre_mm, index).tolist(),
    }


def _page(view: Mapping[str, Any], licence: str) -> str:
    """The template filled in. What comes from outside is in JSON, which the page's script reads as text."""
    files = (Path(__file__).with_name(f"viewer.{kind}") for kind in ("html", "css", "js"))
    template, style, script = (file.read_text(encoding="utf-8") for file in files)
    hashed = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    parts = {
        "script-hash": f"sha256-{hashed}",
        "style": style,
        "script": script,
        "licence": licence.replace("--", "- -"),
        "view": json.dumps(view, ensure_ascii=False).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda place: parts[place.group(1)], template)


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{_base64(content)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
