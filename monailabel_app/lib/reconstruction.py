"""The task that answers `/infer/`."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from lib.devices import device_called
from lib.workflows import BUNDLE, run_workflow, sidecar_overlay
from scripts import measurement_intervals, sidecar_path

ASSESSMENTS = ("familiarity", "uncertainty")
"""Ids of `inference.json`: whether the pair is out of the training's distribution, and how far off a voxel may be."""

CALIBRATION = "projections"
"""The sidecar that a pair is calibrated by, where one of it has no known size."""
SIDECARS = (*ASSESSMENTS, CALIBRATION, measurement_intervals.NAME)
"""Those that are made for one file of weights, and refused next to another."""

logger = logging.getLogger(__name__)


class ReconstructionTask(InferTask):
    """
    Runs `inference.json` on a pair of radiographs. The result is its `ct.nii.gz`, HU as 16-bit integers, whatever type
    or format a client asks for: labels fit into 8 bits, HU do not.

    Args:
        weights: the file that is served, read anew by each request.
    """

    def __init__(self, weights: Path, device: str) -> None:
        super().__init__(InferType.OTHERS, labels=[], dimension=3, description="", config={"device": device_list()})
        self.weights, self.device = weights, device
        self._one_at_a_time = threading.Lock()

    def info(self) -> dict[str, Any]:
        is_there = self.weights.is_file()
        found = f"weights: {self.weights.name}" if is_there else f"NO WEIGHTS YET: {self.weights.name} does not exist"
        description = f"CT in HU from a frontal and a lateral X-ray. Research use only; {found}"
        return {**super().info(), "description": description}

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """
        Paths `image` and `lateral` to the path of the CT in the folder `folder`, and what is known of it. Where there
        is a sidecar for it, `uncertainty.nii.gz` lies next to it: the half-width of the prediction interval in HU.
        """
        radiographs, folder = {"frontal": request["image"], "lateral": request["lateral"]}, Path(request["folder"])
        device = device_called(request.get("device") or self.device)
        further = {} if device is None else {"device": device}
        further |= {name: True for name in ASSESSMENTS if self._parameters(name).is_file()}
        further |= {"calibration": True} if self._parameters(CALIBRATION).is_file() else {}
        with self._one_at_a_time, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            configs = [BUNDLE / "configs" / "inference.json", *sidecar_overlay(self.weights)]
            run_workflow("run", configs, weights=str(self.weights), output_dir=str(folder), **radiographs, **further)
        said = [str(warning.message) for warning in caught if "field '" in str(warning.message)]
        for message in said:
            logger.warning(message)
        answer = {"unit": "HU", "notice": "Research use only, not for diagnosis", "warnings": said}
        answer |= {name: self._assessment(name, folder) for name in ASSESSMENTS}
        answer["calibration"] = self._calibration(folder)
        return str(folder / "ct.nii.gz"), answer

    def _parameters(self, name: str) -> Path:
        return Path(sidecar_path(str(self.weights), name))

    def _missing(self, name: str, config: str) -> str:
        return f"there is no {self._parameters(name).name} next to the weights, made by {config}.json of the configs."

    def _calibration(self, folder: Path) -> dict[str, Any]:
        """How the pair was calibrated, but for the curves of both views; otherwise why it was not."""
        found = folder / "calibration.json"
        if found.is_file():
            content = json.loads(found.read_text(encoding="utf-8"))
            return {"calibrated": True, **{name: value for name, value in content.items() if name != "consistency"}}
        if self._parameters(CALIBRATION).is_file():
            return {"calibrated": False, "reason": "the files say the size of both radiographs."}
        return {"calibrated": False, "reason": self._missing(CALIBRATION, "calibration")}

    def _assessment(self, name: str, folder: Path) -> dict[str, Any]:
        """What the workflow has written of it; otherwise why there is nothing."""
        found = folder / f"{name}.json"
        if not found.is_file():
            return {"assessed": False, "reason": self._missing(name, name)}
        content = {"assessed": True, **json.loads(found.read_text(encoding="utf-8"))}
        if name == "uncertainty":
            half_width = np.asanyarray(nibabel.load(folder / "uncertainty.nii.gz").dataobj)
            content["mean_half_width_hu"] = round(float(half_width.mean()), 1)
        return content
