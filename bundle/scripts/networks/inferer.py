"""The cascade as MONAI's evaluator calls a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from .cascade import FinalVolumeModel, ProgressiveCascadeModel

if TYPE_CHECKING:
    from jaxtyping import Float, Float32


class FinalVolumeInferer(Inferer):
    """
    Runs a :class:`~scripts.FinalVolumeModel`, in slabs and in the precision that are wanted.

    Args:
        slabs: in how many slabs the last volume is computed, see
            :class:`~scripts.networks.cascade.ProgressiveCascadeModel`.
        bfloat16: whether to compute in bfloat16 where PyTorch's autocast does, on a CPU too, as MONAI's `amp` does not.
    """

    def __init__(self, slabs: int = 1, bfloat16: bool = False) -> None:
        super().__init__()
        self.slabs, self.bfloat16 = slabs, bfloat16

    def __call__(
        self, inputs: Float[Tensor, "B 2 P P"], network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Float32[Tensor, "B 1 S S S"]:
        """X-rays to the scaled volume."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(inputs, *args, slabs=self.slabs, **kwargs).float()


class AllVolumesInferer(FinalVolumeInferer):
    """
    The same, and keeps every stage's scaled volume of its last call, coarsest first, as `volumes`: `(B, 1, S, S, S)`.
    """

    volumes: tuple[Tensor, ...] = ()

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """X-rays to the scaled volume of a :class:`~scripts.FinalVolumeModel`."""
        return super().__call__(inputs, lambda xrays, **how: self._last_of(network, xrays, **how), *args, **kwargs)

    def _last_of(self, network: FinalVolumeModel, xrays: Tensor, **how: Any) -> Tensor:
        volumes = ProgressiveCascadeModel.forward(network, xrays, stages=network.final_stage, **how)
        self.volumes = tuple(volume.float() for volume in volumes)
        return volumes[-1]
