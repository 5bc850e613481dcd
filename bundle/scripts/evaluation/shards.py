"""An evaluation in parts that know nothing of each other, and what they make together: the files of one evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..data.shards import Shard, dealt_back
from ..errors import InputError, one_line_message
from ..io.atomic_write import remove_earlier, write_text
from ..io.sidecar import sha256_of
from .table_report import TableReport

FOLDER = "shards"
"""Of the rows of each part, in the folder of the results."""


class EvaluationShards:
    """
    The part of an evaluation that this process runs, and the merging of all parts.

    A part writes in place of each report's files its rows, `shards/NAME_2_of_8.json`, and the folders of its own first
    and worst cases; :meth:`merge` makes of them what one evaluation of all records writes.

    Args:
        shard: such as "2/8"; None for the whole, which writes its files itself.
        output_dir: holds the results of all parts.
        weights: that are scored.
        records: of all parts.
        settings: that all parts have in common, of words and numbers.

    Raises:
        InputError: when it is no shard, or there are fewer records than parts.
    """

    def __init__(
        self,
        shard: str | None,
        output_dir: str,
        weights: str,
        records: Sequence[dict[str, Any]],
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.settings = dict(settings)
        self.is_part, self.shard = shard is not None, Shard.of_text(shard)
        self.folder, self.weights = os.path.join(output_dir, FOLDER), weights
        self.records = list(records)
        if len(self.records) < self.shard.count:
            raise InputError(
                f"shard {shard!r}: of {len(self.records)} record(s), expected at most as many shards as records."
            )

    @property
    def part(self) -> list[dict[str, Any]]:
        """The records of this part."""
        return self.shard.of(self.records)

    def attach(self, handlers: Iterable[Any]) -> None:
        """Has the reports among an engine's handlers write their rows alone, where this is a part; before the run."""
        if not self.is_part:
            return
        for report in _reports(handlers):
            report.shard, report.write_rows = self.shard, partial(self.write, report)
            remove_earlier(self._path(report, self.shard))

    def write(self, report: TableReport, samples: Sequence[list[dict[str, Any]]]) -> None:
        """
        Writes the rows of this part.

        Args:
            report: whose they are.
            samples: rows of each sample, as many samples of every record as the report has.
        """
        each = len(samples) // len(self.part)
        content = {
            **self._identity(self.shard),
            "common": report.common(),
            "rows": [
                [row for sample in samples[start : start + each] for row in sample]
                for start in range(0, len(samples), each)
            ],
        }
        write_text(self._path(report, self.shard), json.dumps(content, indent=1))  # with NaN, unlike what users read

    def merge(self, handlers: Iterable[Any]) -> None:
        """
        Writes the files of each report among an engine's handlers from the rows of all parts.

        Raises:
            InputError: when a part is missing or damaged, or was made by other weights, of other records or beside
                others of another number.
        """
        for report in _reports(handlers):
            parts = [self._read(report, shard) for shard in self._shards(report)]
            if any(part["common"] != parts[0]["common"] for part in parts):
                raise self._refusal(report, "were made with other baselines than each other")
            report.merge(dealt_back([part["rows"] for part in parts]), parts[0]["common"])

    def _shards(self, report: TableReport) -> list[Shard]:
        """All parts, of the number that the files say."""
        found = sorted(Path(self.folder).glob(f"{report.name}_*_of_*.json"))
        counts = {path.stem.rpartition("_of_")[2] for path in found}
        if len(counts) != 1 or not (count := next(iter(counts))).isdecimal():
            said = f"of {' and of '.join(sorted(counts))}" if counts else "none"
            raise self._refusal(report, f"are {said}, expected those of one number of shards")
        return [Shard(number, int(count)) for number in range(1, int(count) + 1)]

    def _read(self, report: TableReport, shard: Shard) -> dict[str, Any]:
        path = self._path(report, shard)
        if not os.path.isfile(path):
            raise self._refusal(report, f"lack {shard}")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            is_of_this = all(content[name] == value for name, value in self._identity(shard).items())
            is_whole = len(content["rows"]) == len(shard.of(self.records))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}: cannot be read ({one_line_message(error)}); run `--shard {shard}` again."
            ) from error
        if not (is_of_this and is_whole):
            raise InputError(f"{path}: is of other weights, records or settings; run `--shard {shard}` again.")
        return content

    def _identity(self, shard: Shard) -> dict[str, Any]:
        """What tells a part from one of another evaluation."""
        names = [record["name"] for record in self.records]
        return {
            "weights_sha256": sha256_of(self.weights),
            "records": names,
            "settings": self.settings,
            "shard": str(shard),
        }

    def _refusal(self, report: TableReport, found: str) -> InputError:
        return InputError(
            f"{self.folder}: the shards of '{report.name}' {found}. Run `launch.py evaluate` with each --shard first; "
            f"remove the folder where it has those of an earlier evaluation."
        )

    def _path(self, report: TableReport, shard: Shard) -> str:
        return os.path.join(self.folder, f"{report.name}_{shard.number}_of_{shard.count}.json")


def _reports(handlers: Iterable[Any]) -> list[TableReport]:
    return [handler for handler in handlers if isinstance(handler, TableReport)]
