"""Where arithmetic in float64 is done."""

from __future__ import annotations

import torch


def precise_device(device: torch.device) -> torch.device:
    """Where tables in float64 are computed for a device: on itself, or on the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
