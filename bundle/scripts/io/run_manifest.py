"""The manifest of a run: of which files, by what and when a result was made."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from glob import escape, glob
from pathlib import Path
from types import MappingProxyType
from typing import Any

import monai
import torch

from .atomic_write import NOTICE, as_json, write_json
from .metadata import bundle_metadata
from .shared_overlay import NAME as OVERLAY
from .sidecar import sha256_of

RUN = "run.json"
"""The file, written last into a folder of results: where it is, they are complete."""
COMPARED = ("weights", "sidecars", "inputs", "settings")
"""Fields that decide, next to the bundle's version, what a result holds."""


class RunManifest:
    """
    Writes `run.json` next to a result: versions, device, settings, seconds and date, and the name and the SHA-256 of
    the weights, of the sidecar files next to them, and of each input file. Names are those of the files, without their
    folders; of what a file holds, such as a patient's name, nothing is kept but the checksum.

    Args:
        weights: the file of weights in use.
        device: that computes.
        settings: values of config ids, in words and numbers; a data class becomes an object of its fields.
        inputs: files by their fields of the record, such as `frontal`; read now, and again by :meth:`start`.
    """

    def __init__(
        self, weights: str, device: str | torch.device, settings: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> None:
        self.device = torch.device(device)
        beside = [*glob(f"{escape(os.path.splitext(weights)[0])}_*"), os.path.join(os.path.dirname(weights), OVERLAY)]
        self.made_by: dict[str, Any] = {
            "weights": _file(weights),
            "sidecars": [_file(path) for path in sorted(beside) if os.path.isfile(path)],
            "settings": _plain(settings),
        }
        self.start(inputs)

    def start(self, inputs: Mapping[str, str], own: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Begins with the next result: its input files by their fields, its own settings. Seconds count from here."""
        self.started, self.own = time.monotonic(), _plain(own)
        self.inputs = {field: _file(path) for field, path in inputs.items()}

    def content(self) -> dict[str, Any]:
        """What `run.json` would hold now."""
        return {
            "notice": NOTICE,
            "versions": {
                "bundle": bundle_metadata()["version"],
                "torch": torch.__version__,
                "monai": monai.__version__,
                "python": platform.python_version(),
            },
            "device": _name_of(self.device),
            **self.made_by,
            "settings": {**self.made_by["settings"], **self.own},
            "inputs": self.inputs,
            "seconds": round(time.monotonic() - self.started, 2),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def write(self, path: str) -> None:
        """
        Raises:
            OutputError: when it cannot be written.
        """
        write_json(path, self.content())

    def is_of(self, content: Mapping[str, Any]) -> bool:
        """Whether a `run.json` of this content tells of the files and settings of now, and of the bundle's version."""
        now = json.loads(as_json(self.content()))
        versions = content.get("versions")
        of_bundle = versions.get("bundle") if isinstance(versions, dict) else None
        return of_bundle == now["versions"]["bundle"] and all(content.get(name) == now[name] for name in COMPARED)


def read_run(folder: str) -> dict[str, Any] | None:
    """What the `run.json` of a folder of results holds; None where there is none that can be read."""
    try:
        content = json.loads(Path(folder, RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _file(path: str) -> dict[str, str | None]:
    """Name and SHA-256; null for what is no file, of which whoever reads it will say so."""
    return {"name": os.path.basename(path), "sha256": sha256_of(path) if os.path.isfile(path) else None}


def _name_of(device: torch.device) -> str:
    """A device as PyTorch calls it, and a GPU's product name once it is in use."""
    is_known = device.type == "cuda" and torch.cuda.is_initialized()
    return f"{device}, {torch.cuda.get_device_name(device)}" if is_known else str(device)


def _plain(value: Any) -> Any:
    """A value of a config as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
