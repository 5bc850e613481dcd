"""The factor common to both radiographs is found by the soft tissue of the first stage's volume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from scripts import BiplanarGeometry, CommonScale, ImagingModel
from scripts.radiographs.calibration import CALIBRATION_KEY
from scripts.radiographs.common_scale import LIMITS, SOFT_TISSUE_HU, rescaled, scale_of_soft_tissue

GEOMETRY = BiplanarGeometry(detector_pixels=32)
IMAGING = ImagingModel(GEOMETRY, [-1024, 1024], 8.0)


def chest(soft_hu: float) -> np.ndarray:
    """Soft tissue with noise, lungs, some bone, air around."""
    hu = np.full((24, 24, 24), -1000.0)
    hu[4:20, 6:18] = soft_hu + 15 * np.random.default_rng(0).normal(size=(16, 12, 24))
    hu[6:10, 8:16, 4:20] = hu[14:18, 8:16, 4:20] = -800
    hu[11:13, 7:9] = 700
    return hu


@pytest.mark.parametrize("soft_hu", [-150.0, 0.0, 30.0, 220.0])
def test_attenuation_is_brought_to_that_of_soft_tissue(soft_hu: float):
    factor = scale_of_soft_tissue(chest(soft_hu))
    assert factor * (1000 + soft_hu) == pytest.approx(1000 + SOFT_TISSUE_HU, abs=12)


def test_a_volume_without_a_body_says_nothing():
    assert scale_of_soft_tissue(np.full((16, 16, 16), -1000.0)) == 1.0


class Proportional(nn.Module):
    """A first stage that is as dense as its X-rays are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Buffer(IMAGING.scale(torch.from_numpy(chest(30.0)).float()))

    def first_volume(self, xrays: Tensor, geometry: BiplanarGeometry) -> Tensor:
        density = xrays.mean((1, 2, 3)) / 0.5
        hu = IMAGING.to_hu(self.body[None, None])
        return IMAGING.scale((hu + 1000) * density[:, None, None, None, None] - 1000)


def content(scale_known: bool) -> str:
    planes = {"heights_mm": [0.0], "frontal": [1.0], "lateral": [1.1], "weights": [1.0]}
    return json.dumps({"scale_known": scale_known, "common_factor": 1.0, "assumed": ["Views."], "consistency": planes})


def handled(xrays: Tensor, *contents: str) -> dict:
    """The batch as the evaluator's step receives it."""
    batch = {"image": xrays, CALIBRATION_KEY: {"content": list(contents)}} if contents else {"image": xrays}
    received: list[dict] = []
    engine = Engine(lambda engine, batch: received.append(batch))
    engine.network = Proportional()
    engine.prepare_batch = lambda batch, device: (batch["image"], None, (), {"geometry": GEOMETRY})
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "device", "cpu"))
    CommonScale(IMAGING).attach(engine)
    engine.run([batch], max_epochs=1)
    return received[0]


def test_only_pairs_without_a_unit_are_multiplied():
    xrays = torch.stack([torch.full((2, 32, 32), 0.6), torch.full((2, 32, 32), 0.6)])
    batch = handled(xrays, content(False), content(True))
    assert batch["image"][0].mean() == pytest.approx(0.5, rel=0.02)
    torch.testing.assert_close(batch["image"][1], xrays[1])
    found, kept = (json.loads(each) for each in batch[CALIBRATION_KEY]["content"])
    assert found["common_factor"] == pytest.approx(float(batch["image"][0].mean()) / 0.6)
    assert found["consistency"]["lateral"][0] == pytest.approx(1.1 * found["common_factor"])
    assert len(found["assumed"]) == 2 and f"{found['common_factor']:.2f}" in found["assumed"][1]
    assert kept == json.loads(content(True))


def test_a_factor_stays_within_its_limits():
    batch = handled(torch.full((1, 2, 32, 32), 0.3), content(False))
    assert json.loads(batch[CALIBRATION_KEY]["content"][0])["common_factor"] == pytest.approx(LIMITS[1])


def test_pairs_that_need_no_calibration_stay_as_they_are():
    xrays = torch.full((1, 2, 32, 32), 0.6)
    batch = handled(xrays)
    assert set(batch) == {"image"}
    torch.testing.assert_close(batch["image"], xrays)


def test_two_factors_are_one():
    once = rescaled(rescaled(json.loads(content(False)), 0.9), 1.2)
    assert once["common_factor"] == pytest.approx(1.08)
    assert once["consistency"]["frontal"][0] == pytest.approx(1.08)
