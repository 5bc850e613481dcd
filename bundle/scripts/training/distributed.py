"""Work shared by several processes, one for each GPU (or on the CPU, by gloo, where there is none)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch.distributed

from ..data.shards import dealt_back
from ..errors import InputError
from .devices import choose_device


def start_process_group(device: torch.device | None = None) -> None:
    """
    Joins the process group that `torchrun` describes in the environment; alone, does nothing.

    Args:
        device: of this process, by default that of :func:`~scripts.training.devices.choose_device`: by NCCL on a GPU of
            CUDA, else by gloo.
    """
    if not torch.distributed.is_torchelastic_launched():
        return
    device = choose_device() if device is None else torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def end_process_group(trained: torch.nn.parallel.DistributedDataParallel | None = None) -> None:
    """
    Leaves the process group, where there is one, when every process has come here.

    Args:
        trained: what has been trained by it. It would keep the group, whose threads would run on while Python ends and
            may abort it (`pytorch#179291 <https://github.com/pytorch/pytorch/pull/179291>`_); so it gives up its own.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if trained is not None:
        trained.reducer = trained.logger = trained.process_group = None


def device_ids(device: torch.device) -> list[torch.device] | None:
    """As `DistributedDataParallel` wants them: the GPU of CUDA on which a module is, None for one on another device."""
    return [torch.device(device)] if torch.device(device).type == "cuda" else None


def one_for_each(records: Sequence[Any], what: str) -> Sequence[Any]:
    """
    The records, when there is at least one for each process.

    Raises:
        InputError: when there are fewer; `what` names them, such as "validation".
    """
    processes = idist.get_world_size()
    if len(records) < processes:
        raise InputError(
            f"section '{what}' has {len(records)} record(s) for {processes} processes, expected at least one for each. "
            f"Use at most {len(records)} (`--gpus`, `--nproc_per_node`) or add records."
        )
    return records


def gathered(items: Sequence[Any]) -> list[Any]:
    """
    The items of all processes on each, in the order in which a sampler dealt them out: one of each process in turn.
    """
    if idist.get_world_size() == 1:
        return list(items)
    shares: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(shares, list(items))
    return dealt_back(shares)
