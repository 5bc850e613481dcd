"""Reconstructions from Python: `inference.json`, built once, and called for each pair."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from ..errors import BundleError, InputError, root_cause
from ..evaluation.measured_volume import MEASUREMENTS_KEY
from ..evaluation.out_of_distribution import FAMILIARITY_KEY
from ..evaluation.prediction_intervals import UNCERTAINTY_KEY
from ..io.config_text import as_literal
from ..io.radiograph import XRAY_KEYS, Scale
from ..io.radiograph_reader import radiograph_of_array
from ..io.shared_overlay import NAME as OVERLAY
from ..io.shared_overlay import read_shared_overlay
from ..io.sidecar import sidecar_path
from ..projection.geometry import BiplanarGeometry
from ..radiographs.calibration import CALIBRATION_KEY
from ..radiographs.transforms import GEOMETRY_FIELDS, GEOMETRY_KEY
from ..training.devices import choose_device
from .reconstruction import ToHUd, note_of_record

if TYPE_CHECKING:
    from jaxtyping import Num

BUNDLE = Path(__file__).resolve().parents[2]
SIDECARS = {"uncertainty": "uncertainty", "familiarity": "familiarity", "calibration": "projections"}
"""Ids of `inference.json` that are set where the weights have this sidecar file."""
INFERENCE = "inference.json"


@dataclass(frozen=True)
class Reconstruction:
    """
    Attributes:
        volume: `(1, S, S, S)` in HU, RAS+, its affine centred on the isocentre; rounded it is `ct.nii.gz`.
        stages: each stage's volume in HU with its affine, coarsest first; the last is `volume`.
        half_width: `(1, S, S, S)`, half-width of the prediction interval in HU; None without its sidecar file.
        measurements: what `measurements.json` holds, but for its notice.
        calibration: what `calibration.json` holds, but for its notice; None where the pair needed none, or without its
            sidecar file.
        out_of_distribution: what `familiarity.json` holds; None without its sidecar file.
        geometry: the acquisition geometry that was taken.
        xrays: `(2, P, P)`, both X-rays as the network has read them; zeros for one that was not given.
        note: what pictures of the result say of it, such as that the body is wider than the volume, or that it is of
            one view; "" for nothing.
    """

    volume: MetaTensor
    stages: tuple[MetaTensor, ...]
    half_width: MetaTensor | None
    measurements: dict[str, Any]
    calibration: dict[str, Any] | None
    out_of_distribution: dict[str, Any] | None
    geometry: BiplanarGeometry
    xrays: torch.Tensor
    note: str


class Reconstructor:
    """
    Reconstructs CTs by the workflow of `inference.json`. Its objects are built, and weights and sidecar files read,
    once. Research use only, not for diagnosis.

    Args:
        weights: default `models/model.pt` of the bundle. An `overlay.json` next to it has its sizes, as for `infer`.
        device: such as "cuda:1"; by default a GPU where there is one.
        ids: other values of ids of `inference.json`, such as `uncertainty=False`; by default what the weights have a
            sidecar file for is set. A text that begins with `$` is evaluated, as in a config.

    Raises:
        CheckpointError: when weights or sidecar files are missing or do not fit.
        InputError: when there is no such device.
    """

    def __init__(
        self, weights: str | os.PathLike[str] = BUNDLE / "models" / "model.pt", device: str | None = None, **ids: Any
    ) -> None:
        path = os.path.abspath(weights)
        self._parser = ConfigParser()
        self._parser.read_config(str(BUNDLE / "configs" / INFERENCE))
        overlay = Path(path).with_name(OVERLAY)
        there = {name: os.path.isfile(sidecar_path(path, sidecar)) for name, sidecar in SIDECARS.items()}
        changed = {
            "bundle_root": as_literal(str(BUNDLE)),
            "weights": as_literal(path),
            "device": choose_device(device),
            "evaluator#postprocessing": "$monai.transforms.Compose([@postprocessing, @assessment]).flatten()",
            "inferer#_target_": "scripts.AllVolumesInferer",
        }
        self._parser.update({**(read_shared_overlay(overlay) if overlay.is_file() else {}), **changed, **there, **ids})
        self.geometry: BiplanarGeometry = self._of("geometry")
        self._dataset, self._evaluator, self._inferer = (self._of(name) for name in ("dataset", "evaluator", "inferer"))
        self._to_hu = ToHUd(self._of("imaging"))
        self._evaluator.fire_event(Events.STARTED)

    def __call__(
        self,
        frontal: str | os.PathLike[str] | Num[np.ndarray, "H W"] | None = None,
        lateral: str | os.PathLike[str] | Num[np.ndarray, "H W"] | None = None,
        geometry: BiplanarGeometry | None = None,
        scale: Scale | None = None,
        pixel_mm: float | None = None,
    ) -> Reconstruction:
        """
        Args:
            frontal: a file as for `infer`, or its pixels in display orientation: rows to inferior, columns to the
                patient's left; None for none, of weights that were trained with `view_dropout`.
            lateral: the same, columns to posterior.
            geometry: of the acquisition, for what the files do not say: views and distances. By default that of the
                config.
            scale: "line_integral" (attenuation ∫μ dl), "transmission" or "presentation"; by default the files say, and
                floating-point numbers are line integrals, integers a presentation image.
            pixel_mm: side of an array's pixel at the detector; None where unknown, as of an image file.

        Raises:
            InputError: when there is no radiograph, or one alone, on which the weights were not trained; when one
                cannot be used, or `geometry` has another field of view or detector.
        """
        record: dict[str, Any] = {}
        for field, given in zip(XRAY_KEYS, (frontal, lateral)):
            if given is None:
                continue
            is_path = isinstance(given, (str, os.PathLike))
            record[field] = os.fspath(given) if is_path else self._radiograph(given, field, scale, pixel_mm)
        if scale is not None:
            record["radiograph_scale"] = scale
        self._dataset.data = [{**record, GEOMETRY_KEY: self._checked(geometry)}]
        try:
            return self._reconstructed()
        except Exception as error:
            cause = root_cause(error)  # MONAI wraps what a transform raises
            raise cause if isinstance(cause, BundleError) else error from None

    def _reconstructed(self) -> Reconstruction:
        """One iteration of the evaluator: a run of it that has failed would go on with the next pair."""
        engine = self._evaluator
        engine.state.batch = next(iter(self._of("dataloader")))
        engine.fire_event(Events.GET_BATCH_COMPLETED)
        engine._iteration(engine, engine.state.batch)
        return self._result(engine.state.batch[0], engine.state.output[0])

    def _of(self, name: str) -> Any:
        return self._parser.get_parsed_content(name)

    def _radiograph(self, pixels: Any, field: str, scale: Scale | None, pixel_mm: float | None) -> Any:
        orientations = self._of("preprocessing#transforms#0#orientations")
        return radiograph_of_array(np.asarray(pixels), field, scale, pixel_mm, orientations)

    def _checked(self, geometry: BiplanarGeometry | None) -> dict[str, Any]:
        """Those fields of a geometry that a pair may have of its own."""
        if geometry is None:
            return {}
        for each in fields(geometry):
            found, expected = getattr(geometry, each.name), getattr(self.geometry, each.name)
            if each.name not in GEOMETRY_FIELDS and found != expected:
                raise InputError(
                    f"geometry: {each.name} is {found}, expected {expected}, that of the config; only "
                    f"{', '.join(GEOMETRY_FIELDS)} may differ."
                )
        return {name: getattr(geometry, name) for name in GEOMETRY_FIELDS}

    def _result(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> Reconstruction:
        found = {**record, **output}
        earlier = [self._to_hu({"pred": volume[0]})["pred"] for volume in self._inferer.volumes[:-1]]
        return Reconstruction(
            volume=found["pred"],
            stages=(*earlier, found["pred"]),
            half_width=found.get(UNCERTAINTY_KEY),
            measurements=found[MEASUREMENTS_KEY],
            calibration=json.loads(found[CALIBRATION_KEY]["content"]) if CALIBRATION_KEY in found else None,
            out_of_distribution=found.get(FAMILIARITY_KEY),
            geometry=replace(self.geometry, **found[GEOMETRY_KEY]),
            xrays=torch.as_tensor(found["image"]).float().cpu(),
            note=note_of_record(found),
        )
