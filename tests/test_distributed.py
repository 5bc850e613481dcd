from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from scripts import InputError
from scripts.distributed import gathered, one_for_each


@pytest.fixture
def four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)


def test_fewer_records_than_processes_are_refused_by_both_numbers(four_processes):
    with pytest.raises(InputError, match=r"section 'validation' has 3 record\(s\) for 4 processes.*at most 3"):
        one_for_each([1, 2, 3], "validation")


def test_as_many_records_as_processes_are_enough(four_processes):
    assert one_for_each([1, 2, 3, 4], "validation") == [1, 2, 3, 4]


def test_items_come_back_in_the_order_in_which_they_were_dealt_out(four_processes, monkeypatch):
    def exchange(shares: list, own: list) -> None:
        shares[:] = [list(range(rank, 10, 4)) for rank in range(4)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    assert gathered([0, 4, 8]) == list(range(10))


def test_alone_a_process_has_all():
    assert gathered([3, 1]) == [3, 1]
    assert one_for_each([1], "test") == [1]
