"""Whether a device trains in mixed precision, and in which."""

from __future__ import annotations

import torch


def mixed_precision(device: torch.device) -> bool:
    """Whether training mixes precisions: on CUDA alone, for which MONAI's engines have it."""
    return torch.device(device).type == "cuda"


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the GPU computes in it (Ampere and newer), else float16, whose gradients MONAI's trainer scales."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return torch.float16
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
