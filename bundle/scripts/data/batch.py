"""How a batch of records becomes the network's input and the loss's target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.transforms import Randomizable

from ..projection.geometry import BiplanarGeometry, signs_of_views
from ..projection.imaging import ImagingModel
from ..projection.region import Region
from ..radiographs.augmentation import RandGeometry
from .known_views import Views, as_known


class PrepareBiplanarBatch(PrepareBatch):
    """
    Makes a batch of loaded records into X-rays as input, `{"ct", "xrays", "geometry"}` as target, and the network's
    `stages` and `geometry` arguments: deforms the CTs, projects them, and augments the X-rays, each record by itself,
    on the engine's device.

    The target's CT is scaled to [0, 1]. Its X-rays are projections of the CT in the nominal geometry without
    augmentation; a record with radiographs keeps them and their geometry, and is not deformed, since nobody can acquire
    them again.

    A batch has `ct` in HU, `(B, 1, S, S, S)`, `xrays`, `has_radiographs` and `geometry`, see
    :class:`~scripts.StackXraysd`. The random transforms are seeded for every record by torch's global generator, which
    also draws the crop.

    Args:
        stages: the stage to stop after.
        imaging: projects the CTs and scales them.
        augment: random transform of the record `{"ct"}`; None for none.
        augment_geometry: draws the acquisition geometry of each projection; None for the nominal one.
        augment_xrays: random transform of the record `{"xrays", "exposed"}`, both `(2, P, P)`, `exposed` being the
            exposed area; None for none.
        crop: side, in voxels of that stage, of the random crop of the volume that is decoded and scored, the same for a
            batch and in the target and the network's arguments as `region`; None for the whole volume.
        known_views: the pairs of views that the network has met, see :func:`~scripts.data.known_views.as_known`; with
            None it receives the true ones, as in training.
    """

    def __init__(
        self,
        stages: int,
        imaging: ImagingModel,
        augment: Randomizable | None = None,
        augment_geometry: RandGeometry | None = None,
        augment_xrays: Randomizable | None = None,
        crop: int | None = None,
        known_views: Views | None = None,
    ) -> None:
        self.stages, self.imaging, self.crop, self.known_views = stages, imaging, crop, known_views
        self.augment, self.augment_geometry, self.augment_xrays = augment, augment_geometry, augment_xrays

    @torch.no_grad()
    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any], tuple, dict[str, Any]]:
        cts, radiographs = (
            _plain(batchdata[key]).to(device, non_blocking=non_blocking, **kwargs) for key in ("ct", "xrays")
        )
        has_radiographs = [bool(has) for has in batchdata["has_radiographs"]]
        prepared = [self._record(*record) for record in zip(cts, radiographs, has_radiographs)]
        xrays, target_xrays, cts = (torch.stack(tensors) for tensors in zip(*prepared))
        geometry = geometry_of_batch(batchdata["geometry"], self.imaging.geometry)
        received = geometry if self.known_views is None else as_known(geometry, self.known_views)
        target: dict[str, Any] = {"ct": self.imaging.scale(cts), "xrays": target_xrays, "geometry": geometry}
        arguments: dict[str, Any] = {"stages": self.stages, "geometry": received}
        if self.crop is not None:
            region = random_region(self.imaging.volume_size(self.stages), self.crop)
            arguments["region"] = target["region"] = region
        return xrays, target, (), arguments

    def _record(self, hu: torch.Tensor, radiographs: torch.Tensor, has_radiographs: bool) -> tuple[torch.Tensor, ...]:
        """The X-rays of the input, those of the target, and the CT in HU."""
        if has_radiographs:
            return self._augmented(radiographs, radiographs != 0), radiographs, hu
        if self.augment is not None:
            hu = _plain(_seeded(self.augment)({"ct": hu})["ct"])
        nominal = xrays = self.imaging.project(hu[None])[0]
        if self.augment_geometry is not None:
            xrays = self.imaging.project(hu[None], _seeded(self.augment_geometry)())[0]
        return self._augmented(xrays, torch.ones_like(xrays, dtype=torch.bool)), nominal, hu

    def _augmented(self, xrays: torch.Tensor, exposed: torch.Tensor) -> torch.Tensor:
        if self.augment_xrays is None:
            return xrays
        return _plain(_seeded(self.augment_xrays)({"xrays": xrays, "exposed": exposed})["xrays"])


class PrepareRadiographsBatch(PrepareBatch):
    """
    Makes a batch into the network's input, its X-rays, and the argument `geometry`, in which they were acquired.

    Args:
        geometry: the nominal one, which each record's `geometry` overrides, see
            :class:`~scripts.GeometryFromRadiographsd`.
        known_views: the pairs of views that the network has met, see :func:`~scripts.data.known_views.as_known`.
    """

    def __init__(self, geometry: BiplanarGeometry, known_views: Views) -> None:
        self.geometry, self.known_views = geometry, known_views

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, tuple, dict[str, Any]]:
        xrays = _plain(batchdata["image"]).to(device, non_blocking=non_blocking, **kwargs)
        geometry = geometry_of_batch(batchdata["geometry"], self.geometry)
        return xrays, None, (), {"geometry": as_known(geometry, self.known_views)}


def geometry_of_batch(radiographs: Mapping[str, Any], geometry: BiplanarGeometry) -> BiplanarGeometry:
    """
    The geometry of a batch's entries, in plain words and numbers where they share it.

    Args:
        radiographs: what the radiographs of each record say, collated, see :class:`~scripts.GeometryFromRadiographsd`.
        geometry: all else.
    """
    views = list(zip(*radiographs["views"]))
    values: dict[str, Any] = {"views": views[0] if len(set(views)) == 1 else signs_of_views(views)}
    for name in ("source_to_isocentre_mm", "source_to_detector_mm"):
        distances = radiographs[name]
        values[name] = distances[0].item() if (distances == distances[0]).all() else distances
    return replace(geometry, **values)


def _seeded(transform: Randomizable) -> Randomizable:
    """The transform, its random state drawn by torch's global generator."""
    return transform.set_random_state(seed=int(torch.randint(2**31, ())))


def _plain(values: Any) -> torch.Tensor:
    """A tensor without the metadata of a MONAI tensor."""
    return torch.as_tensor(values).as_subclass(torch.Tensor)


def random_region(size: int, side: int) -> Region:
    """
    A crop of `side` voxels a side at a random even place in a volume of `size`, drawn by torch's generator.

    Raises:
        ValueError: when `side` is larger than the volume.
    """
    if side > size:
        raise ValueError(f"crop is {side} voxels, expected at most the {size} of the stage's volume, or null for all.")
    start = tuple(2 * int(torch.randint((size - side) // 2 + 1, ())) for _ in range(3))
    return Region(size, start, tuple(first + side for first in start))
