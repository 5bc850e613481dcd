"""
The one factor that a pair cannot tell of itself: common to both radiographs, it makes the whole body denser. The first
stage's volume tells it, since soft tissue has the same HU in everyone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ..projection.imaging import ImagingModel
from .calibration import CALIBRATION_KEY

if TYPE_CHECKING:
    from jaxtyping import Float

SOFT_TISSUE_HU = 30.0
"""Where the HU of soft tissue are most frequent: muscle, blood and liver without contrast agent have 30 to 60."""
SOUGHT_HU = (-400.0, 400.0)
"""Between lung and bone, with what a scale that is 40 % off makes of soft tissue."""
BIN_HU, SMOOTHNESS = 8.0, 4.0
"""Of the histogram: width of a bin, and standard deviation of its blur, in bins."""
LEAST_SHARE = 0.02
"""Fraction of the volume that is soft tissue at least; less is no body."""
ROUNDS = 4
"""How often it is looked at: the first stage's updates follow the X-rays, not quite in proportion."""
LIMITS = (0.6, 1.6)
"""Of the factor."""


class CommonScale:
    """
    An Ignite handler for the evaluator of `inference.json`: multiplies a batch's `image`, the X-rays of calibrated
    pairs neither of which has a unit, until soft tissue in the first stage's volume has its usual HU, and says so in
    the record's `pair_calibration`.

    Args:
        imaging: scale of the volumes.
    """

    def __init__(self, imaging: ImagingModel) -> None:
        self.imaging = imaging

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        kept = engine.state.batch.get(CALIBRATION_KEY)
        contents = [] if kept is None else [json.loads(content) for content in kept["content"]]
        is_open = torch.tensor([not content["scale_known"] for content in contents])
        if not is_open.any():
            return
        factors = torch.where(is_open, self._factors(engine), 1.0)
        engine.state.batch["image"] = engine.state.batch["image"] * factors.reshape(-1, 1, 1, 1)
        for index in is_open.nonzero().flatten().tolist():
            kept["content"][index] = json.dumps(rescaled(contents[index], float(factors[index])))

    def _factors(self, engine: Engine) -> Float[Tensor, " B"]:
        xrays, _, _, arguments = engine.prepare_batch(engine.state.batch, engine.state.device)
        with torch.no_grad(), eval_mode(engine.network):
            return common_factors(
                xrays, lambda scaled: engine.network.first_volume(scaled, arguments["geometry"]), self.imaging
            )


def common_factors(
    xrays: Float[Tensor, "B 2 P P"],
    first_volume: Callable[[Float[Tensor, "B 2 P P"]], Float[Tensor, "B 1 S S S"]],
    imaging: ImagingModel,
) -> Float[Tensor, " B"]:
    """
    What the X-rays of each pair have to be multiplied with for soft tissue to have its usual HU, within :data:`LIMITS`.

    Args:
        xrays: scaled line integrals.
        first_volume: the first stage, X-rays to its scaled volume.
        imaging: scale of the volumes.
    """
    factors = torch.ones(len(xrays))
    for _ in range(ROUNDS):
        volume = first_volume(xrays * factors.to(xrays).reshape(-1, 1, 1, 1))
        found = [scale_of_soft_tissue(each) for each in imaging.to_hu(volume).float().cpu().numpy()[:, 0]]
        factors = (factors * torch.tensor(found)).clamp(*LIMITS)
    return factors


def scale_of_soft_tissue(hu: Float[np.ndarray, "S S S"]) -> float:
    """
    What attenuation in a volume has to be multiplied with for soft tissue to have :data:`SOFT_TISSUE_HU`; 1 where there
    is too little of any.
    """
    counts, edges = np.histogram(hu, np.arange(SOUGHT_HU[0], SOUGHT_HU[1] + BIN_HU, BIN_HU))
    if counts.sum() < LEAST_SHARE * hu.size:
        return 1.0
    most = gaussian_filter1d(counts.astype(float), SMOOTHNESS).argmax()
    return float((1000.0 + SOFT_TISSUE_HU) / (1000.0 + edges[most] + BIN_HU / 2))


def rescaled(content: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """What `calibration.json` says after both radiographs' line integrals were multiplied with a factor."""
    planes = content["consistency"]
    scaled = {view: [factor * each for each in planes[view]] for view in ("frontal", "lateral")}
    sentence = (
        f"All line integrals were multiplied with {factor:.2f}, so that soft tissue in the first stage's volume has "
        f"its usual {SOFT_TISSUE_HU:g} HU."
    )
    return {
        **content,
        "common_factor": factor * content["common_factor"],
        "assumed": [*content["assumed"], sentence],
        "consistency": {**planes, **scaled},
    }
