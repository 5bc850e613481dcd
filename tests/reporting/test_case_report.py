from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from scripts.evaluation.worst_cases import WorstCases


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_in_any_order_the_folders_that_are_left_are_those_of_the_worst(order: tuple[int, ...], tmp_path: Path):
    worst, most = WorstCases(2), 0
    for score in order:
        folder = tmp_path / f"case_{score}"
        worst.consider(float(score), str(folder), partial(folder.mkdir))
        most = max(most, len(list(tmp_path.iterdir())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_0", "case_1"]
    assert most <= 3


def test_none_are_written_where_none_are_wanted(tmp_path: Path):
    WorstCases(0).consider(1.0, str(tmp_path / "case"), (tmp_path / "case").mkdir)
    assert not list(tmp_path.iterdir())


def test_a_case_that_is_not_among_the_worst_of_all_processes_is_removed(tmp_path: Path):
    worst = WorstCases(2)
    for score in (1.0, 2.0):
        worst.consider(score, str(tmp_path / f"{score}"), (tmp_path / f"{score}").mkdir)
    worst.keep_only({str(tmp_path / "1.0"), str(tmp_path / "elsewhere")})
    assert [path.name for path in tmp_path.iterdir()] == ["1.0"]
