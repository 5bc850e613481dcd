"""The dictionary transform that calibrates a pair of radiographs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
from monai.transforms import Transform

from ..io.radiograph import XRAY_KEYS, Radiograph
from ..projection.geometry import BiplanarGeometry
from .calibration import CALIBRATION_KEY, calibrate_pair, needs_calibration
from .pair_check import appearance_flags, calibration_flags
from .pair_statistics import read_statistics
from .transforms import GEOMETRY_KEY


class CalibratePaird(Transform):
    """
    Brings two radiographs, of which one has no known size, to the detector's pixels and the model's scale, each
    `(1, P, P)`, as :func:`~scripts.radiographs.calibration.calibrate_pair` finds them, and adds the record's
    `pair_calibration`. A record without such a pair is left as it is, for :class:`~scripts.PrepareXraysd`.

    Args:
        path: a sidecar that `calibration.json` wrote for these weights.
        weights: the weights in use.
        geometry: the acquisition geometry. A record's own `geometry` overrides it.
        xray_scale: line integral that is scaled to 1.

    Raises:
        CheckpointError: when the sidecar is missing or cannot be used.

    Warns:
        UserWarning: why the reconstruction should not be relied on; or when a radiograph of no known size is given
            alone, which cannot calibrate itself.
    """

    def __init__(self, path: str, weights: str, geometry: BiplanarGeometry, xray_scale: float) -> None:
        self.statistics = read_statistics(path, weights)
        self.geometry, self.xray_scale = geometry, xray_scale

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        pair = [record.get(key) for key in XRAY_KEYS]
        if not all(isinstance(each, Radiograph) for each in pair) or not needs_calibration(pair):
            _warn_of_one_view({key: each for key, each in zip(XRAY_KEYS, pair) if isinstance(each, Radiograph)})
            return dict(record)
        geometry = replace(self.geometry, **record.get(GEOMETRY_KEY, {}))
        found = calibrate_pair(pair, geometry, self.statistics)
        flags = appearance_flags(dict(zip(XRAY_KEYS, pair))) + calibration_flags(found)
        if flags:
            warnings.warn(
                f"{pair[0].path}: field 'frontal', with field 'lateral': {' '.join(flags)} Do not rely on the "
                f"reconstruction.",
                stacklevel=2,
            )
        found = replace(found, flags=tuple(flags))
        xrays = torch.from_numpy(found.line_integrals / self.xray_scale).float()
        prepared = {key: xray[None] for key, xray in zip(XRAY_KEYS, xrays)}
        as_read = {key: torch.from_numpy(image) for key, image in zip(XRAY_KEYS, (each.image for each in pair))}
        kept = {"content": json.dumps(found.as_content()), "seen": torch.from_numpy(found.seen), **as_read}
        return {**record, **prepared, CALIBRATION_KEY: kept}


def _warn_of_one_view(radiographs: Mapping[str, Radiograph]) -> None:
    if len(radiographs) == 1 and needs_calibration(list(radiographs.values())):
        ((field, radiograph),) = radiographs.items()
        warnings.warn(
            f"{radiograph.path}: field '{field}' is a radiograph of unknown size, given alone, expected a pair, which "
            f"calibrates itself, or a pixel spacing. Its longer side is taken for the detector's, its values by their "
            f"percentiles. Do not rely on sizes and densities of the reconstruction.",
            stacklevel=3,
        )
