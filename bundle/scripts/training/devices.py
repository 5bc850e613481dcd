"""Which device computes, and whether it trains in mixed precision, and in which."""

from __future__ import annotations

import os

import torch

from ..errors import InputError


def mixed_precision(device: torch.device) -> bool:
    """Whether training mixes precisions: on CUDA alone, for which MONAI's engines have it."""
    return torch.device(device).type == "cuda"


def autocast_dtype(device: torch.device) -> torch.dtype:
    """
    bfloat16 where the GPU computes in it (Ampere and newer), else float16, whose gradients MONAI's trainer scales.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return torch.float16
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def choose_device(name: str | None = None) -> torch.device:
    """
    The device of this process: CUDA where there is a GPU, then MPS (Apple's GPU), then the CPU.

    Args:
        name: the user's own choice, such as "cpu", "cuda", "cuda:1", "mps" or "xpu"; None chooses. Of several processes
            that `torchrun` starts, each takes the CUDA device of its local rank, unless the name has a number.

    Raises:
        InputError: when the name is no device of PyTorch, or this machine has none of that kind or number, as where
            there are fewer GPUs than processes.
    """
    if name is None:
        name = next((kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()), "cpu")
    device = _device_called(name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type != "cpu" and (device.index or 0) >= _number_of(device.type):
        raise InputError(
            f"device: {device} is to compute, but PyTorch finds {_number_of(device.type)} of the kind '{device.type}' "
            "here; expected cpu, or a device that this machine has. Leave it out to have one chosen, and start at most "
            f"one process for each GPU."
        )
    return device


def _device_called(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device: '{name}' is no device of PyTorch, expected cpu, cuda, cuda:1, mps or xpu."
        ) from error


def _number_of(kind: str) -> int:
    """How many devices of a kind, other than the CPU, PyTorch can use here."""
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return module.device_count()
