"""How a batch of records becomes the network's input and the loss's target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.transforms import Randomizable

from ..anatomy.neighbours import Neighbours
from ..anatomy.shapes import SHAPES
from ..errors import InputError
from ..io.radiograph import XRAY_KEYS
from ..projection.geometry import BiplanarGeometry, batched
from ..projection.imaging import ImagingModel
from ..projection.region import Region
from ..radiographs.augmentation import RandGeometry
from ..radiographs.one_view import ONLY_KEY
from .known_views import Views, as_known


class PrepareBiplanarBatch(PrepareBatch):
    """
    Makes a batch of loaded records into X-rays as input, `{"ct", "xrays", "geometry"}` as target, and the network's
    `stages` and `geometry` arguments: deforms the CTs, projects them, and augments the X-rays, each record by itself,
    on the engine's device.

    The target's CT is scaled to [0, 1]. Its X-rays are projections of the CT without augmentation in the geometry that
    the network receives; a record with radiographs keeps them and their geometry, and is not deformed, since nobody can
    acquire them again.

    A batch has `ct` in HU, `(B, 1, S, S, S)`, `xrays`, `has_radiographs` and `geometry`, see
    :class:`~scripts.StackXraysd`. It may have `anatomy`, `(B, 2, s, s, s)`, see :class:`~scripts.LoadEvidenced`, which
    becomes the network's argument and which `augment` has to move as it moves the CT, and `shapes`, see
    :class:`~scripts.LoadShapesd`. The random transforms are seeded for every record by torch's global generator, which
    also draws the crop.

    Args:
        stages: the stage to stop after.
        imaging: projects the CTs and scales them.
        augment: random transform of the record `{"ct"}`, or `{"ct", "shapes"}`; None for none.
        augment_geometry: draws the acquisition geometry of each CT's projections, which the network receives; None for
            the nominal one.
        geometry_error: draws the geometry in which the input's X-rays are acquired in its place, and of which the
            network is not told; None for none.
        augment_xrays: random transform of the record `{"xrays", "exposed"}`, both `(2, P, P)`, `exposed` being the
            exposed area; None for none.
        crop: side, in voxels of that stage, of the random crop of the volume that is decoded and scored, the same for a
            batch and in the target and the network's arguments as `region`; None for the whole volume.
        known_views: the pairs of views that the network has met, see :func:`~scripts.data.known_views.as_known`; with
            None it receives the true ones, as in training.
        anatomy: what the network is given where a batch has no `anatomy`: the neighbours without the CTs of the batch's
            own `patient`; None for none.
        view_dropout: probability that a sample's frontal or lateral X-ray, each as often, is masked, never both: the
            network's argument `only`. With 0 nothing is drawn, and the network has no such argument.
        only: "frontal" or "lateral" to give the network that X-ray alone of every sample; None for both.

    Raises:
        InputError: when the detector would not cover the reconstruction volume's footprint at the smallest distance
            that may be drawn, `view_dropout` is no probability, or `only` names no X-ray.
    """

    def __init__(
        self,
        stages: int,
        imaging: ImagingModel,
        augment: Randomizable | None = None,
        augment_geometry: RandGeometry | None = None,
        geometry_error: RandGeometry | None = None,
        augment_xrays: Randomizable | None = None,
        crop: int | None = None,
        known_views: Views | None = None,
        anatomy: Neighbours | None = None,
        view_dropout: float = 0.0,
        only: str | None = None,
    ) -> None:
        check_view_dropout(view_dropout)
        check_only(only)
        self.anatomy, self.view_dropout, self.only = anatomy, view_dropout, only
        self.stages, self.imaging, self.crop, self.known_views = stages, imaging, crop, known_views
        self.augment, self.augment_xrays = augment, augment_xrays
        self.augment_geometry, self.geometry_error = augment_geometry, geometry_error
        nearest = imaging.geometry
        for drawn in (augment_geometry, geometry_error):
            nearest = nearest if drawn is None else drawn.nearest(nearest)

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
        fields = {"ct": cts}
        if "anatomy" in batchdata:
            fields["anatomy"] = _plain(batchdata["anatomy"]).to(device, non_blocking=non_blocking, **kwargs)
        records = [dict(zip(fields, record)) for record in zip(*fields.values())]
        nominal = geometries_of_records(batchdata["geometry"], self.imaging.geometry)
        shapes = _plain(batchdata[SHAPES]).to(device, non_blocking=non_blocking) if SHAPES in batchdata else ()
        others = [{SHAPES: each} for each in shapes] or [{}] * len(cts)
        *prepared, volumes, geometries = zip(*map(self._record, records, radiographs, has_radiographs, nominal, others))
        xrays, target_xrays = map(torch.stack, prepared)
        cts, *evidence = (torch.stack([record[key] for record in volumes]) for key in fields)
        geometry = batched(geometries)
        received = geometry if self.known_views is None else as_known(geometry, self.known_views)
        target: dict[str, Any] = {"ct": self.imaging.scale(cts), "xrays": target_xrays, "geometry": geometry}
        arguments: dict[str, Any] = {"stages": self.stages, "geometry": received}
        if evidence:
            arguments["anatomy"] = evidence[0]
        elif self.anatomy is not None:
            arguments["anatomy"] = self.anatomy.without(batchdata.get("patient", ()))
        if self.view_dropout or self.only:
            arguments["only"] = [self.only or self._drawn_alone() for _ in records]
        if self.crop is not None:
            region = random_region(self.imaging.volume_size(self.stages), self.crop)
            arguments["region"] = target["region"] = region
        return xrays, target, (), arguments

    def _drawn_alone(self) -> str | None:
        """The X-ray that is left of a sample, None for both."""
        is_dropped = float(torch.rand(())) < self.view_dropout
        return XRAY_KEYS[int(torch.randint(len(XRAY_KEYS), ()))] if is_dropped else None

    def _record(
        self,
        volumes: dict[str, torch.Tensor],
        radiographs: torch.Tensor,
        has_radiographs: bool,
        geometry: BiplanarGeometry,
        others: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], BiplanarGeometry]:
        """
        The X-rays of the input, those of the target, the volumes, which are the CT in HU and what there is beside it,
        and the geometry of the target's X-rays.
        """
        if has_radiographs:
            return self._augmented(radiographs, radiographs != 0), radiographs, volumes, geometry
        if self.augment is not None:
            augmented = _seeded(self.augment)({**volumes, **others})
            volumes = {key: _plain(augmented[key]) for key in volumes}
        hu, geometry = volumes["ct"], self.imaging.geometry
        if self.augment_geometry is not None:
            geometry = _seeded(self.augment_geometry)(geometry)
        target = xrays = self.imaging.project(hu[None], geometry)[0]
        if self.geometry_error is not None:
            xrays = self.imaging.project(hu[None], _seeded(self.geometry_error)(geometry))[0]
        return self._augmented(xrays, torch.ones_like(xrays, dtype=torch.bool)), target, volumes, geometry

    def _augmented(self, xrays: torch.Tensor, exposed: torch.Tensor) -> torch.Tensor:
        if self.augment_xrays is None:
            return xrays
        return _plain(_seeded(self.augment_xrays)({"xrays": xrays, "exposed": exposed})["xrays"])


def check_view_dropout(view_dropout: float) -> None:
    """
    Raises:
        InputError: when it is no probability.
    """
    if not 0 <= view_dropout <= 1:
        raise InputError(f"view_dropout is {view_dropout}, expected a probability from 0 to 1.")


def check_only(only: str | None) -> None:
    """
    Raises:
        InputError: when it is neither "frontal" nor "lateral" nor None.
    """
    if only not in (None, *XRAY_KEYS):
        raise InputError(
            f"only is {only!r}, expected 'frontal' or 'lateral', the X-ray that is given, or null for both."
        )


class PrepareRadiographsBatch(PrepareBatch):
    """
    Makes a batch into the network's input, its X-rays, and the arguments `geometry`, in which they were acquired, and,
    where others' bodies are there to be used, `anatomy`; and `only`, where a record has one X-ray alone, see
    :class:`~scripts.MaskMissingViewd`.

    Args:
        geometry: the nominal one, which each record's `geometry` overrides, see
            :class:`~scripts.GeometryFromRadiographsd`.
        known_views: the pairs of views that the network has met, see :func:`~scripts.data.known_views.as_known`.
        anatomy: the network's argument of that name; None for none.
    """

    def __init__(self, geometry: BiplanarGeometry, known_views: Views, anatomy: Neighbours | None = None) -> None:
        self.geometry, self.known_views, self.anatomy = geometry, known_views, anatomy

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, tuple, dict[str, Any]]:
        xrays = _plain(batchdata["image"]).to(device, non_blocking=non_blocking, **kwargs)
        geometry = batched(geometries_of_records(batchdata["geometry"], self.geometry))
        others: dict[str, Any] = {} if self.anatomy is None else {"anatomy": self.anatomy}
        if any(batchdata.get(ONLY_KEY, ())):
            others["only"] = [only or None for only in batchdata[ONLY_KEY]]
        return xrays, None, (), {"geometry": as_known(geometry, self.known_views), **others}


def geometries_of_records(radiographs: Mapping[str, Any], geometry: BiplanarGeometry) -> list[BiplanarGeometry]:
    """
    The geometry of each of a batch's records.

    Args:
        radiographs: what the radiographs of each record say, collated, see :class:`~scripts.GeometryFromRadiographsd`.
        geometry: all else.
    """
    values = {name: torch.as_tensor(field).tolist() for name, field in radiographs.items() if name != "views"}
    values["views"] = list(zip(*radiographs["views"]))
    return [replace(geometry, **dict(zip(values, record))) for record in zip(*values.values())]


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
