"""The task that answers `/infer/`."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device
from scripts.errors import InputError

from lib.workflows import BUNDLE, overlay_beside, run_workflow

logger = logging.getLogger(__name__)


class ReconstructionTask(InferTask):
    """
    Runs `inference.json` on a pair of films. The result is its `ct.nii.gz`, HU as 16-bit integers, whatever type or
    format a client asks for: labels fit into 8 bits, HU do not.

    Args:
        weights: the file that is served, read anew by each request.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__(InferType.OTHERS, labels=[], dimension=3, description="", config={"device": device_list()})
        self.weights = weights
        self._one_at_a_time = threading.Lock()

    def info(self) -> dict[str, Any]:
        is_there = self.weights.is_file()
        found = f"weights: {self.weights}" if is_there else f"NO WEIGHTS YET: {self.weights} does not exist"
        description = f"CT in HU from a frontal and a lateral X-ray. Research use only; {found}"
        return {**super().info(), "description": description}

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Paths `image` and `lateral` to the path of the CT, and what is known of it."""
        films = {"frontal": request["image"], "lateral": request["lateral"]}
        device = {"device": checked_device(request["device"])} if request.get("device") else {}
        with self._one_at_a_time, tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                configs = [BUNDLE / "configs" / "inference.json", *overlay_beside(self.weights)]
                run_workflow("run", configs, weights=str(self.weights), output_dir=folder, **films, **device)
            result = shutil.move(Path(folder) / "ct.nii.gz", tempfile.NamedTemporaryFile(suffix=".nii.gz").name)
        told = [str(warning.message) for warning in caught if "field '" in str(warning.message)]
        for message in told:
            logger.warning(message)
        return str(result), {"unit": "HU", "notice": "Research use only, not for diagnosis", "warnings": told}


def checked_device(name: Any) -> torch.device:
    """A device by PyTorch's name of it, or by the one that MONAI Label tells its clients."""
    try:
        return torch.device(name_to_device(name))
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"device is {name!r}, expected one of {', '.join(device_list())}.") from error
