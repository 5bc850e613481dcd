"""Dictionary transforms of the X-rays in a record: from files to the network's input."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from ..errors import InputError, shown
from ..io.former_ids import with_present_fields
from ..io.radiograph import DISPLAY_ORIENTATION, XRAY_KEYS, Radiograph, Scale, check_orientations, check_scale
from ..io.radiograph_reader import read_radiograph, read_stacked_radiographs
from ..projection.geometry import BiplanarGeometry
from .detector_placement import Area, exposed_area, place_on_detector
from .pair import check_plane, geometry_from_radiographs, in_order, warn_of_other_geometry
from .view_check import as_it_looks, warn_of_appearance

LARGEST_SATURATED = 0.4
GEOMETRY_KEY = "geometry"
"""Field of a record: values of the acquisition geometry by its own radiographs, in plain words and numbers."""
GEOMETRY_FIELDS = ("views", "source_to_isocentre_mm", "source_to_detector_mm")


class LoadRadiographsd(Transform):
    """
    Reads a record's `frontal` and `lateral` files as :class:`~scripts.io.radiograph.Radiograph`; swaps the two
    where their tags say so, inverts and mirrors what nothing declares where their images leave no doubt, see
    :func:`~scripts.radiographs.view_check.as_it_looks`, and warns where they leave some, see
    :func:`~scripts.radiographs.view_check.warn_of_appearance`. A record of one file with both, its `image`, gets them
    from there, see :func:`~scripts.io.radiograph_reader.read_stacked_radiographs`. What is a radiograph already is not
    read, and a record without any is left as it is.

    Args:
        scale: what the files hold, "line_integral", "transmission" or "presentation"; by default the files say, see
            :func:`~scripts.io.radiograph_reader.read_radiograph`.
        orientations: where rows and columns run to on a `frontal` and a `lateral` radiograph that does not say, in the
            letters of DICOM's Patient Orientation: `{"frontal": ["L", "F"], "lateral": ["P", "F"]}` for the display
            orientation, "A" for a lateral radiograph that has anterior on the right.

    A record's own `radiograph_scale` and `radiograph_orientation` override these.

    Raises:
        InputError: when an argument is not one of these, a file cannot be used, the two do not belong together, or one
            that is given alone says that it is the other.
    """

    def __init__(
        self, scale: Scale | None = None, orientations: Mapping[str, Sequence[str]] = DISPLAY_ORIENTATION
    ) -> None:
        check_scale(scale)
        check_orientations(orientations)
        self.scale, self.orientations = scale, orientations

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = with_present_fields(record, "A record")
        scale = record.get("radiograph_scale", self.scale)
        orientations = {**self.orientations, **record.get("radiograph_orientation", {})}
        if isinstance(record.get("image"), str) and not set(XRAY_KEYS) & set(record):
            stacked = read_stacked_radiographs(record["image"], scale, orientations)
            return {**record, **dict(zip(XRAY_KEYS, stacked))}
        given = {key: record[key] for key in XRAY_KEYS if key in record}
        radiographs = {
            key: each if isinstance(each, Radiograph) else read_radiograph(each, key, scale, orientations)
            for key, each in given.items()
        }
        if len(radiographs) == len(XRAY_KEYS):
            ordered = zip(XRAY_KEYS, in_order(*radiographs.values()))
            radiographs = {key: as_it_looks(key, radiograph) for key, radiograph in ordered}
            warn_of_appearance(radiographs)
        elif radiographs:
            ((key, radiograph),) = radiographs.items()
            check_plane(key, radiograph)
            radiographs = {key: as_it_looks(key, radiograph)}
            warn_of_appearance(radiographs)
        return {**record, **radiographs}


class GeometryFromRadiographsd(Transform):
    """
    Puts views and distances by the radiographs, two or one, into the record's `geometry`, see
    :func:`~scripts.radiographs.pair.geometry_from_radiographs`. A record without radiographs gets those of the nominal
    geometry.

    Args:
        geometry: what is taken where the radiographs do not say. A record's own `geometry` overrides it.
    """

    def __init__(self, geometry: BiplanarGeometry) -> None:
        self.geometry = geometry

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        radiographs = {key: record[key] for key in XRAY_KEYS if key in record}
        geometry = replace(self.geometry, **record.get(GEOMETRY_KEY, {}))
        geometry = geometry_from_radiographs(radiographs, geometry) if radiographs else geometry
        return {**record, GEOMETRY_KEY: {name: getattr(geometry, name) for name in GEOMETRY_FIELDS}}


class PrepareXraysd(MapTransform):
    """
    Brings radiographs to the detector's pixels and the model's scale: `(1, P, P)`.

    Line integrals, also those of transmission images, are divided by `xray_scale`. Presentation images are
    uncalibrated: their `percentiles`, of what is left when the borders are cropped, are brought to `standard_range`.
    What :class:`~scripts.CalibratePaird` has brought there is left as it is.

    Args:
        keys: `frontal`, `lateral` or both, each a :class:`~scripts.io.radiograph.Radiograph`.
        geometry: the acquisition geometry. A record's own `geometry` overrides it.
        xray_scale: line integral that is scaled to 1.
        percentiles: see above.
        standard_range: see above.
        allow_missing_keys: as in every MONAI transform.

    Raises:
        InputError: when the result is not finite.

    Warns:
        UserWarning: when a radiograph is saturated, or was taken from another side or distance than the geometry says.
    """

    def __init__(
        self,
        keys: KeysCollection,
        geometry: BiplanarGeometry,
        xray_scale: float,
        percentiles: Sequence[float],
        standard_range: Sequence[float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.geometry, self.xray_scale = geometry, xray_scale
        self.percentiles, self.standard_range = tuple(percentiles), tuple(standard_range)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        geometry = replace(self.geometry, **record.get(GEOMETRY_KEY, {}))
        for key in self.key_iterator(record):
            if isinstance(record[key], Radiograph):
                record[key] = self._prepare(str(key), record[key], geometry)
        return record

    def _prepare(self, field: str, radiograph: Radiograph, geometry: BiplanarGeometry) -> torch.Tensor:
        warn_of_other_geometry(radiograph, geometry.views[XRAY_KEYS.index(field)], geometry, field)
        area = exposed_area(radiograph)
        _warn_of_saturation(radiograph, area, field)
        scaled = np.where(radiograph.exposed, self._scaled(radiograph, area), 0).astype(np.float32)
        sizes = radiograph.pixel_mm, radiograph.magnification, geometry, radiograph.pixel_aspect
        placed = place_on_detector(scaled, area, *sizes)[None]
        if not torch.isfinite(placed).all():
            raise InputError(
                f"{shown(radiograph.path)}: field '{field}' becomes NaN or infinite on the detector, expected values "
                f"and distances of a radiograph; correct the scale of its values, its pixel spacing or its distances."
            )
        return placed

    def _scaled(self, radiograph: Radiograph, area: Area) -> np.ndarray:
        if radiograph.scale != "presentation":
            return radiograph.image / self.xray_scale
        low, high = np.percentile(radiograph.image[area][radiograph.exposed[area]], self.percentiles)
        bottom, top = self.standard_range
        return (radiograph.image - low) / max(high - low, 1e-6) * (top - bottom) + bottom


def _warn_of_saturation(radiograph: Radiograph, area: Area, field: str) -> None:
    if radiograph.scale == "line_integral":
        return
    values = radiograph.image[area][radiograph.exposed[area]]
    share = max(float((values == extreme).mean()) for extreme in (values.min(), values.max()))
    if share > LARGEST_SATURATED:
        warnings.warn(
            f"{shown(radiograph.path)}: field '{field}' is saturated: {share:.0%} of its pixels have the lowest or the "
            f"highest value, expected at most {LARGEST_SATURATED:.0%}; export it with a wider window."
        )
