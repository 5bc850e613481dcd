"""Work shared by several processes, one for each GPU (or on the CPU, by gloo, where there is none)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed

from .errors import InputError


def start_process_group() -> None:
    """Joins the process group that `torchrun` describes in the environment; alone, does nothing."""
    if not torch.distributed.is_torchelastic_launched():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def end_process_group() -> None:
    """Leaves the process group, where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local_device() -> torch.device:
    """The device of this process."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def one_for_each(records: Sequence[Any], what: str) -> Sequence[Any]:
    """
    The records, when there is at least one for each process.

    Raises:
        InputError: when there are fewer; `what` names them, such as "validation".
    """
    processes = idist.get_world_size()
    if len(records) < processes:
        raise InputError(
            f"section '{what}' has {len(records)} record(s) for {processes} processes, expected at least one for each. Use "
            f"at most {len(records)} (`--gpus`, `--nproc_per_node`) or add records."
        )
    return records


def gathered(items: Sequence[Any]) -> list[Any]:
    """The items of all processes on each, in the order in which a sampler dealt them out: one of each process in turn."""
    if idist.get_world_size() == 1:
        return list(items)
    shares: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(shares, list(items))
    return [share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share)]
