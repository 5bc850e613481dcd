"""
The sidecar config of a training's weights, `overlay.json`: what it changed of network, geometry and units, which is all
that evaluation and inference need to know of it.

Weights are tensors only, and what lies next to them runs nothing either: MONAI would evaluate a text that begins with
`$`, and make any object that a `_target_` names. This module needs Python alone, so that the launcher reads it as well.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

NAME = "overlay.json"
SHARED_IDS = (
    "geometry",
    "hu_window",
    "xray_scale",
    "imaging",
    "radiograph_scale",
    "radiograph_orientation",
    "network_def",
)
"""Ids that training shares with evaluation and inference."""
FORMER_IDS = {"film_scale": "radiograph_scale", "film_orientation": "radiograph_orientation"}
"""Ids and record fields of version 0.3, read until version 0.5, and those that took their place."""
TARGETS = (
    "scripts.BiplanarGeometry",
    "scripts.ImagingModel",
    "scripts.ProgressiveCascadeModel",
    "scripts.FinalVolumeModel",
)
REFERENCES = tuple(f"@{name}" for name in SHARED_IDS)
MOST_BYTES = 2**20
ID = re.compile(r"\+?[A-Za-z_]\w*(#\w+)*", re.ASCII)
TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_. -]{0,63}", re.ASCII)


def shared_part(content: dict[str, Any]) -> dict[str, Any]:
    """What an overlay config changes of :data:`SHARED_IDS`, by id, be it by a former one."""
    return {name: value for name, value in content.items() if FORMER_IDS.get(_root(name), _root(name)) in SHARED_IDS}


def with_present_ids(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """
    The content of an overlay config under the present ids.

    Args:
        content: values by id.
        path: the file, for messages.

    Raises:
        ValueError: when an id is there under its former name and its present one.

    Warns:
        FutureWarning: when an id has its former name.
    """
    roots = {_root(name) for name in content}
    for former in FORMER_IDS.keys() & roots:
        now = FORMER_IDS[former]
        if now in roots:
            raise ValueError(f"{path}: has the ids {renaming(former)}, expected '{now}' alone.")
        warnings.warn(f"{path}: id {renaming(former)} has its former name; rename it.", FutureWarning, stacklevel=3)
    return {_with_present_root(name): value for name, value in content.items()}


def renaming(former: str) -> str:
    """A former id and the present one, for messages."""
    return f"'{former}' (now '{FORMER_IDS[former]}')"


def _with_present_root(name: str) -> str:
    root = _root(name)
    return name.replace(root, FORMER_IDS.get(root, root), 1)


def read_shared_overlay(path: Path) -> dict[str, Any]:
    """
    The content of the `overlay.json` of weights, by present ids.

    Raises:
        ValueError: naming the file and the id, when it is no JSON object, or :func:`check_shared_overlay` or
            :func:`with_present_ids` refuses it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
        content = json.loads(text.decode("utf-8-sig")) if len(text) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no object of config ids of at most {MOST_BYTES // 2**20} MiB, expected one.")
    check_shared_overlay(content, path)
    return with_present_ids(content, path)


def check_shared_overlay(content: dict[str, Any], path: Path) -> None:
    """
    Args:
        content: what a training changed, by id.
        path: the file, for messages.

    Raises:
        ValueError: when an id is not one of :data:`SHARED_IDS` or a part of it, or a value is more than numbers, words,
            and references to these ids, or names another object than :data:`TARGETS`.
    """
    for name, value in content.items():
        if not ID.fullmatch(name) or FORMER_IDS.get(_root(name), _root(name)) not in SHARED_IDS:
            raise _refusal(path, name, "is no part", f"of {', '.join(SHARED_IDS)}")
        _check_value(path, name, name.split("#")[-1].lstrip("+"), value)


def _check_value(path: Path, name: str, key: str, value: Any) -> None:
    if key.startswith("_"):
        if key != "_target_" or value not in TARGETS:
            raise _refusal(
                path, name, f"is {value!r}"[:200], f"one of {', '.join(TARGETS)} as _target_, and no other keyword"
            )
    elif isinstance(value, dict):
        for inner, each in value.items():
            _check_value(path, f"{name}#{inner}", inner, each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_value(path, f"{name}#{index}", "", each)
    elif isinstance(value, str) and value not in REFERENCES and not TEXT.fullmatch(value):
        raise _refusal(path, name, f"is {value!r}"[:200], "a plain word or number, which nothing evaluates")


def _root(name: str) -> str:
    return name.split("#")[0].lstrip("+")


def _refusal(path: Path, name: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{path}: id '{name[:100]}' {found}, expected {expected}. This file describes the weights next to it; "
        "write it anew by a training, or take weights from a source that you trust. An --overlay of your own may hold "
        "anything."
    )
