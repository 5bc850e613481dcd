"""The cascade as MONAI's evaluator calls a network."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer


class FinalVolumeInferer(Inferer):
    """
    Runs a :class:`~scripts.FinalVolumeModel`, in parts and in the precision that are wanted.

    Args:
        slabs: in how many parts the last volume is computed, see
            :class:`~scripts.networks.cascade.ProgressiveCascadeModel`.
        bfloat16: whether to compute in bfloat16 where PyTorch's autocast does, on a CPU too, as MONAI's `amp` does not.
    """

    def __init__(self, slabs: int = 1, bfloat16: bool = False) -> None:
        super().__init__()
        self.slabs, self.bfloat16 = slabs, bfloat16

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """X-rays `(B, 2, P, P)` to the scaled volume `(B, 1, S, S, S)`, float32."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(inputs, *args, slabs=self.slabs, **kwargs).float()
