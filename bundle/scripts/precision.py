"""Which precision mixed precision takes on this GPU."""

from __future__ import annotations

import torch


def autocast_dtype() -> torch.dtype:
    """bfloat16 where the GPU computes in it (Ampere and newer), else float16, whose gradients MONAI's trainer scales."""
    in_hardware = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if in_hardware else torch.float16
