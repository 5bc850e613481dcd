"""
Sidecars: JSON files of numbers that belong to a file of weights and lie next to it, as `model_uncertainty.json` next to
`model.pt`. What cannot be used as it stands is refused, since a wrong number would pass for an assurance.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, one_line_message
from .atomic_write import write_json
from .foreign_files import LONGEST_START, foreign_content

MOST_BYTES = 8 * 2**20
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80


def sidecar_path(weights: str, name: str) -> str:
    """Where the numbers of this name for a file of weights lie: `DIR/model.pt` to `DIR/model_<name>.json`."""
    return f"{os.path.splitext(weights)[0]}_{name}.json"


def write_sidecar(path: str, weights: str, content: dict[str, Any]) -> None:
    """
    Writes the numbers with the SHA-256 of the weights that they belong to.

    Raises:
        OutputError: when the file cannot be written.
    """
    write_json(path, {"weights_sha256": sha256_of(weights), **content})


def made_by(workflow: str, weights: str) -> str:
    """What to do about a sidecar that is made by the config of a name, which is also the id that asks for it."""
    return f"{command_of(workflow, weights)} Or set {workflow} to false, and move this file away."


def command_of(workflow: str, weights: str) -> str:
    """The command that makes a sidecar by the config of a name, in a sentence."""
    return (
        f"It is made by: python -m monai.bundle run --config_file \"['bundle/configs/train.json',"
        f"'bundle/configs/{workflow}.json']\" --bundle_root bundle --dataset_dir DIR --weights {weights} (with the "
        f"overlay configs of the training, if it has any)."
    )


class Sidecar:
    """
    What :func:`write_sidecar` wrote, read for the weights in use. Fields are named by place: `calibration.scores`.

    Args:
        path: the JSON file.
        weights: the weights that are in use; None for a file of numbers that belong to none.
        next_step: how such a file is made, or what else to do, for the errors; see :func:`made_by`.

    Raises:
        CheckpointError: here and in every method, with the file and the field, when the file is missing, is no JSON
            object, was made for other weights, lacks the field, or holds in it what it must not.
    """

    def __init__(self, path: str, weights: str | None, next_step: str) -> None:
        self.path, self.next_step = path, next_step
        self.content = self._read()
        if weights is None:
            return
        if not os.path.isfile(weights):
            raise CheckpointError(f"{weights}: no such weights; {path} belongs to those that it was made for alone.")
        self.require("weights_sha256", sha256_of(weights), f"the SHA-256 of {weights}: it was made for other weights")

    def numbers(
        self,
        field: str,
        shape: Sequence[int | None] = (),
        least: float = -math.inf,
        most: float = math.inf,
        above: float = -math.inf,
        below: float = math.inf,
    ) -> np.ndarray:
        """
        Finite numbers, float64, from nested lists.

        Args:
            field: their place.
            shape: lengths of the lists from the outermost, None for any but 0; () for one number.
            least: lower bound, itself allowed; `most` the upper.
            above: lower bound, itself not allowed; `below` the upper.
        """
        values = np.array(self._nested(field, self._value(field), tuple(shape)))
        if not ((values >= least) & (values <= most) & (values > above) & (values < below)).all():
            bounds = {"at least": least, "at most": most, "above": above, "below": below}
            expected = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if math.isfinite(bound))
            raise self.refusal(field, f"holds numbers from {values.min():g} to {values.max():g}", expected)
        return values

    def number(self, field: str, **bounds: float) -> float:
        """One finite number, see :meth:`numbers`."""
        return float(self.numbers(field, **bounds))

    def lists(self, field: str) -> list[np.ndarray]:
        """Lists of finite numbers, each of a length of its own."""
        return [np.array(each) for each in self._nested(field, self._value(field), (None, None))]

    def rising(self, field: str) -> np.ndarray:
        """A list of finite numbers, each above the one before."""
        values = self.numbers(field, (None,))
        if (np.diff(values) <= 0).any():
            raise self.refusal(field, f"is {values.tolist()}", "numbers that rise")
        return values

    def require(self, field: str, expected: Any, why: str) -> None:
        """That a field holds a certain value, a number to twelve digits."""
        found = self._value(field)
        both_numbers = isinstance(expected, float) and isinstance(found, (int, float))
        if not (math.isclose(found, expected, rel_tol=1e-12) if both_numbers else found == expected):
            raise self.refusal(field, f"is {SHORT.repr(found)}", f"{SHORT.repr(expected)}, {why}")

    def refusal(self, field: str, found: str, expected: str) -> CheckpointError:
        """The error to raise of a field."""
        return CheckpointError(f"{self.path}: field '{field}' {found}, expected {expected}. {self.next_step}")

    def _read(self) -> dict[str, Any]:
        path = Path(self.path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file, expected one next to the weights. {self.next_step}")
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path}: is no file of at most {MOST_BYTES // 2**20} MiB. {self.next_step}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            said = one_line_message(error) if isinstance(error, OSError) else _no_json(path) or one_line_message(error)
            raise CheckpointError(f"{path}: cannot be read as JSON ({said}). {self.next_step}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected an object. {self.next_step}")
        return content

    def _value(self, field: str) -> Any:
        value: Any = self.content
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                raise CheckpointError(f"{self.path}: lacks field '{field}'. {self.next_step}")
            value = value[name]
        return value

    def _nested(self, field: str, value: Any, shape: tuple[int | None, ...]) -> Any:
        if not shape:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not abs(value) <= sys.float_info.max:
                raise self.refusal(field, f"holds {SHORT.repr(value)}", "finite numbers")
            return float(value)
        if not isinstance(value, list) or not value or shape[0] not in (None, len(value)):
            found = f"a list of {len(value)}" if isinstance(value, list) else SHORT.repr(value)
            raise self.refusal(field, f"holds {found}", f"a list of {shape[0] or 'one or more'}")
        return [self._nested(field, each, shape[1:]) for each in value]


def _no_json(path: Path) -> str | None:
    """What lies in the place of a JSON file, where that is known."""
    start = path.read_bytes()[:LONGEST_START]
    return None if start.lstrip().startswith(b"{") else foreign_content(start)


def sha256_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
