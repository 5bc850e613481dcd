"""JSON files of numbers that belong to a file of weights and lie beside it: `model_uncertainty.json` by `model.pt`."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .files import write_json


def beside_weights(weights: str, name: str) -> str:
    """Where the numbers of this name for a file of weights lie: `DIR/model.pt` to `DIR/model_<name>.json`."""
    return f"{os.path.splitext(weights)[0]}_{name}.json"


def write_companion(path: str, weights: str, content: dict[str, Any]) -> None:
    """
    Writes the numbers with the SHA-256 of the weights that they belong to.

    Raises:
        OutputError: when the file cannot be written.
    """
    write_json(path, {"weights_sha256": sha256_of(weights), **content})


def read_companion(path: str, weights: str, workflow: str, fields: Sequence[str]) -> dict[str, Any]:
    """
    The numbers that :func:`write_companion` wrote.

    Args:
        path: the JSON file.
        weights: the weights that are in use.
        workflow: name of the config that makes such a file, for the error.
        fields: what the file has to hold.

    Raises:
        CheckpointError: when the file is missing, is no JSON object, or lacks a field.

    Warns:
        UserWarning: when it was made for other weights.
    """
    made_by = (
        f"It is made by: python -m monai.bundle run --config_file \"['bundle/configs/train.json',"
        f"'bundle/configs/{workflow}.json']\" --bundle_root bundle --dataset_dir DIR --weights {weights} (with the overlay "
        f"configs of the training, if it has any). Or set {workflow} to false."
    )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {workflow} is set and needs it. {made_by}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}). {made_by}") from error
    missing = [field for field in fields if not isinstance(content, dict) or field not in content]
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}. {made_by}")
    if os.path.isfile(weights) and content.get("weights_sha256") != sha256_of(weights):
        warnings.warn(f"{path}: was made for other weights than {weights}; its figures need not hold. {made_by}")
    return content


def sha256_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
