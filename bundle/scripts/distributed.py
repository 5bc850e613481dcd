"""Training by several processes, one for each GPU (or on the CPU, by gloo, where there is none)."""

from __future__ import annotations

import os

import torch
import torch.distributed


def start_process_group() -> None:
    """Joins the process group that `torchrun` describes in the environment."""
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())


def local_device() -> torch.device:
    """The device of this process."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
