"""Fixtures of the whole suite: the bundle on the path, a fixed seed, a small geometry and a small cascade."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts import BiplanarGeometry, ProgressiveCascadeModel  # noqa: E402


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def geometry() -> BiplanarGeometry:
    """The default set-up read out with 128 pixels: a cascade of 16, 32 and 64 voxels."""
    return BiplanarGeometry(detector_pixels=128)


@pytest.fixture
def small_cascade(geometry: BiplanarGeometry) -> Callable[..., ProgressiveCascadeModel]:
    """Builds a 16/32/64 cascade of tiny widths from a fixed seed; arguments override."""

    def build(**arguments) -> ProgressiveCascadeModel:
        torch.manual_seed(0)
        sizes = {
            "tokens": 4,
            "num_layers": (1, 1, 1),
            "num_heads": (2, 2, 2),
            "hidden_size": 16,
            "mlp_dim": 32,
            "feature_channels": (8, 8, 8),
            "context_channels": (8, 16),
            "channels": ((8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8, 8)),
            "detail_channels": 4,
        }
        return ProgressiveCascadeModel(**{"geometry": geometry, **sizes, **arguments})

    return build


@pytest.fixture
def awaken() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Gives random values to what is initialised with zeros, so that every branch takes part in the output."""

    def fill(module: torch.nn.Module) -> torch.nn.Module:
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        return module

    return fill
