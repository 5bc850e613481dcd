"""How a batch of records becomes the network's input and the loss's target, and how the network is run on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.inferers import Inferer

from .cascade import NUMBER_OF_STAGES
from .errors import InputError
from .geometry import BiplanarGeometry
from .region import Region


class PrepareBiplanarBatch(PrepareBatch):
    """
    Gives the engine the X-rays as input, `{"ct", "xrays"}` as target, and the network's `stages` argument.

    Args:
        stages: the stage to stop after.
        crop: side, in voxels of that stage, of the random part of the volume that is decoded and scored, the same for a
            batch and in the target and the network's arguments as `region`; None for the whole volume.
    """

    def __init__(self, stages: int, crop: int | None = None) -> None:
        self.stages, self.crop = stages, crop

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any], tuple, dict[str, Any]]:
        target = {
            key: _plain(batchdata[key]).to(device, non_blocking=non_blocking, **kwargs) for key in ("ct", "xrays")
        }
        arguments: dict[str, Any] = {"stages": self.stages}
        if self.crop is not None:
            size = target["ct"].shape[-1] // 2 ** (NUMBER_OF_STAGES - self.stages)
            arguments["region"] = target["region"] = random_region(size, self.crop)
        return target["xrays"], target, (), arguments


class PrepareFilmsBatch(PrepareBatch):
    """
    Gives the engine the X-rays of a batch, and the network the geometry that they were taken in.

    Args:
        geometry: the set-up; each record's `geometry`, see :class:`~scripts.GeometryOfFilmsd`, goes before it.

    Raises:
        InputError: when the views differ within a batch.
    """

    def __init__(self, geometry: BiplanarGeometry) -> None:
        self.geometry = geometry

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, tuple, dict[str, Any]]:
        xrays = _plain(batchdata["image"])
        xrays = xrays.to(device, non_blocking=non_blocking, **kwargs)
        return xrays, None, (), {"geometry": self._of_batch(batchdata["geometry"])}

    def _of_batch(self, films: Mapping[str, Any]) -> BiplanarGeometry:
        views = [sorted(set(cases)) for cases in films["views"]]
        if any(len(found) > 1 for found in views):
            raise InputError(f"X-rays of a batch have the views {views}, expected one pair; use batches of one case.")
        distances = {name: films[name] for name in ("source_to_isocentre_mm", "source_to_detector_mm")}
        return replace(self.geometry, views=tuple(found[0] for found in views), **distances)


def _plain(values: Any) -> torch.Tensor:
    """A tensor without the metadata of a MONAI tensor."""
    return torch.as_tensor(values).as_subclass(torch.Tensor)


def random_region(size: int, side: int) -> Region:
    """
    A cube of `side` voxels at a random even place of a cube of `size`, drawn by torch's generator.

    Raises:
        ValueError: when `side` is larger than the cube.
    """
    if side > size:
        raise ValueError(f"crop is {side} voxels, expected at most the {size} of the stage's volume, or null for all.")
    start = tuple(2 * int(torch.randint((size - side) // 2 + 1, ())) for _ in range(3))
    return Region(size, start, tuple(first + side for first in start))


class FinalVolumeInferer(Inferer):
    """
    Runs a :class:`~scripts.FinalVolumeModel`, in parts and in the precision that are wanted.

    Args:
        slabs: in how many parts the last volume is computed, see :class:`~scripts.cascade.ProgressiveCascadeModel`.
        bfloat16: whether to compute in bfloat16 where PyTorch's autocast does, on a CPU too, as MONAI's `amp` does not.
    """

    def __init__(self, slabs: int = 1, bfloat16: bool = False) -> None:
        super().__init__()
        self.slabs, self.bfloat16 = slabs, bfloat16

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """X-rays `(B, 2, P, P)` to the scaled volume `(B, 1, S, S, S)`, float32."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(inputs, *args, slabs=self.slabs, **kwargs).float()
