"""How a batch of records becomes the network's input and the loss's target, and how the network is run on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.inferers import Inferer


class PrepareBiplanarBatch(PrepareBatch):
    """
    Gives the engine the X-rays as input, `{"ct", "xrays"}` as target, and the network's `stages` argument.

    Args:
        stages: the stage to stop after.
    """

    def __init__(self, stages: int) -> None:
        self.stages = stages

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple, dict[str, int]]:
        target = {
            key: torch.as_tensor(batchdata[key]).as_subclass(torch.Tensor).to(device, non_blocking=non_blocking, **kwargs)
            for key in ("ct", "xrays")
        }
        return target["xrays"], target, (), {"stages": self.stages}


class FinalVolumeInferer(Inferer):
    """
    Runs the cascade and gives the last volume only, for tools that expect one prediction.

    Args:
        stages: the stage to stop after.
    """

    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        self.stages = stages

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """X-rays `(B, 2, P, P)` to the scaled volume `(B, 1, S, S, S)`."""
        return network(inputs, *args, stages=self.stages, **kwargs)[-1]
