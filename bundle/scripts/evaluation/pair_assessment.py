"""How far a reconstruction from radiographs without a CT is to be trusted: consistency, reprojection, checklist."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.transforms import Transform

from ..errors import InputError
from ..io.atomic_write import NOTICE
from ..io.radiograph import XRAY_KEYS
from ..projection.consistency import EpipolarPlanes
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import ImagingModel
from ..radiographs.calibration import CALIBRATION_KEY, Consistency
from ..radiographs.transforms import GEOMETRY_KEY
from .checklist import Finding, check_anatomy
from .lung_fields import contour_distance_mm, dice, lung_fields
from .out_of_distribution import FAMILIARITY_KEY

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

UNCALIBRATED_KEY = "uncalibrated"
"""Field of a record: its X-rays `(2, P, P)` as they would be without the pair's calibration."""
NO_HEART = (
    "The heart is not compared: in a radiograph its border against diaphragm and spine is no edge that a threshold "
    "finds."
)
NO_LATERAL = (
    "Lung fields are compared on the frontal radiograph alone: on a lateral one both lungs and the heart lie on each "
    "other, and what is enclosed and dark is fragments."
)


@dataclass(frozen=True)
class PairAssessment:
    """
    Args:
        content: the figures, for `assessment.json`.
        line_integrals: of the radiographs as they were reconstructed from, `(2, P, P)`.
        reprojection: of the reconstruction, `(2, P, P)`.
        seen: `(2, P, P)`, where the radiographs show anything.
        fields: lung fields of the frontal radiograph and of its reprojection, `(2, P, P)`.
        findings: of the checklist.
        geometry: of the acquisition.
    """

    content: dict[str, Any]
    line_integrals: Float[np.ndarray, "2 P P"]
    reprojection: Float[np.ndarray, "2 P P"]
    seen: Bool[np.ndarray, "2 P P"]
    fields: Bool[np.ndarray, "2 P P"]
    findings: list[Finding]
    geometry: BiplanarGeometry


class KeepUncalibratedd(Transform):
    """
    Adds `uncalibrated`, a record's X-rays `(2, P, P)` as they would be without the pair's calibration.

    Args:
        prepare: what makes X-rays of the record's radiographs, a :class:`~scripts.PrepareXraysd`, whose warnings come
            where the record itself is prepared.

    Raises:
        InputError: when the record has one radiograph alone.
    """

    def __init__(self, prepare: Callable[[Mapping[Hashable, Any]], Mapping[Hashable, Any]]) -> None:
        self.prepare = prepare

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        missing = [key for key in XRAY_KEYS if key not in record]
        if missing:
            raise InputError(
                f"field '{missing[0]}': there is no such radiograph, expected both: an assessment holds the views "
                f"against each other. Name the {missing[0]} one too, or reconstruct by `infer`."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = self.prepare(record)
        return {**record, UNCALIBRATED_KEY: torch.cat([prepared[key] for key in XRAY_KEYS])}


def assess_pair(record: Mapping[Hashable, Any], imaging: ImagingModel) -> PairAssessment:
    """
    Args:
        record: with the reconstruction `pred` in HU, `(1, S, S, S)`, the network's `image`, `(2, P, P)`, and, where it
            has them, `geometry`, `pair_calibration`, `familiarity` and `uncalibrated`.
        imaging: scales and nominal geometry.

    Raises:
        InputError: when the volume is none, see :func:`~scripts.evaluation.checklist.check_anatomy`.
    """
    geometry = replace(imaging.geometry, **record.get(GEOMETRY_KEY, {}))
    hu, read = _plain(record["pred"]), _plain(record["image"]).numpy() * imaging.xray_scale
    reprojection = imaging.project(hu[None], geometry)[0].numpy() * imaging.xray_scale
    kept = record.get(CALIBRATION_KEY)
    seen = np.ones(read.shape, bool) if kept is None else np.asarray(kept["seen"], dtype=bool)
    calibration = None if kept is None else json.loads(kept["content"])
    findings = check_anatomy(hu[0].numpy(), geometry.fov_mm / hu.shape[-1])
    in_body_mm = geometry.pixel_mm / geometry.magnification(0.0)
    fields = np.stack([lung_fields(each[0], in_body_mm) & seen[0] for each in (read, reprojection)])
    before = record.get(UNCALIBRATED_KEY)
    by_stage = {
        "before_calibration": None if before is None else _plain(before).numpy() * imaging.xray_scale,
        "as_reconstructed": read,
        "reprojection": reprojection,
    }
    content = {
        "notice": NOTICE,
        "consistency": _consistency(by_stage, geometry, calibration),
        "reprojection": {view: _reprojection_error(*each) for view, *each in zip(XRAY_KEYS, read, reprojection, seen)},
        "out_of_distribution": record.get(FAMILIARITY_KEY),
        "lung_fields": {"dice": dice(*fields), "contour_distance_mm": contour_distance_mm(*fields, in_body_mm)},
        "not_compared": [NO_LATERAL, NO_HEART],
        "checklist": {"passed": sum(found.passed for found in findings), "rules": list(map(_as_content, findings))},
        "calibration_flags": [] if calibration is None else calibration["flags"],
    }
    return PairAssessment(content, read, reprojection, seen, fields, findings, geometry)


def _consistency(
    by_stage: Mapping[str, np.ndarray | None], geometry: BiplanarGeometry, calibration: Mapping[str, Any] | None
) -> dict[str, float | None]:
    """
    Relative differences of both views, see :class:`~scripts.radiographs.calibration.Consistency`, in planes that count
    as in the pair's calibration, all alike where it has none; `after_calibration` is its own, before what is left of
    the difference is shared out.
    """
    planes = EpipolarPlanes(geometry)
    heights = planes.slopes * planes.isocentre_mm
    weights = np.ones_like(heights)
    if calibration is not None:
        known = calibration["consistency"]
        weights = np.interp(heights, known["heights_mm"], known["weights"])
    found: dict[str, float | None] = {
        name: None if xrays is None else Consistency(heights, planes.integrals(xrays), weights).difference
        for name, xrays in by_stage.items()
    }
    return {**found, "after_calibration": None if calibration is None else calibration["relative_difference"]}


def _reprojection_error(
    read: Float[np.ndarray, "P P"], reprojection: Float[np.ndarray, "P P"], seen: Bool[np.ndarray, "P P"]
) -> dict[str, float | None]:
    """Mean absolute error of the line integrals where the radiograph shows anything, and over their mean."""
    if not seen.any():
        return {"mae": None, "relative": None}
    error = float(np.abs(read - reprojection)[seen].mean())
    return {"mae": error, "relative": error / max(float(read[seen].mean()), np.finfo(np.float32).tiny)}


def _as_content(found: Finding) -> dict[str, Any]:
    rule = found.rule
    said = {"key": rule.key, "sentence": rule.sentence, "unit": rule.unit, "limits": rule.limits, "why": rule.why}
    return {**said, "value": found.value, "passed": found.passed}


def _plain(values: Any) -> torch.Tensor:
    """A tensor without the metadata of a MONAI tensor, on the CPU."""
    return torch.as_tensor(values).as_subclass(torch.Tensor).float().cpu()
