"""Random images that show no chest from the front or the side: what a view classifier has to recognise as neither."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..projection.attenuation import hu_to_attenuation
from .presentation import SIDE, places

if TYPE_CHECKING:
    from jaxtyping import Float

STEEPEST = 2.2
"""Exponent of the spectrum of noise: 0 is white, 2 is as smooth as photographs are."""
SHAPES = 8
"""Most shapes in one image."""


def rand_others(count: int, cts: Float[Tensor, "N S S S"]) -> Float[Tensor, "count 1 64 64"]:
    """
    Images of noise, of smooth shapes and cylinders, of slices across the body, and of ramps, from 0 to 1, as likely.

    Args:
        count: how many.
        cts: in HU, axes X, Y, Z, for the slices.
    """
    kinds = (_noise, _shapes, _shapes, lambda: _slice(cts[int(torch.randint(len(cts), ()))]), _ramp)
    images = torch.stack([kinds[int(torch.randint(len(kinds), ()))]() for _ in range(count)])[:, None]
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-6)


def _noise() -> Tensor:
    """Of a spectrum that falls with a random power of the frequency."""
    rows, columns = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    frequency = (rows.square() + columns.square()).sqrt().clamp(min=1 / SIDE)
    spectrum = torch.fft.rfft2(torch.randn(SIDE, SIDE)) * frequency ** (-STEEPEST * torch.rand(()))
    return torch.fft.irfft2(spectrum)


def _shapes() -> Tensor:
    """Line integrals through ellipsoids and cylinders that may overlap; some are cavities."""
    image, (y, x) = torch.zeros(SIDE, SIDE), places()
    for _ in range(int(torch.randint(1, SHAPES + 1, ()))):
        (right, down), angle = torch.rand(2) * 2 - 1, pi * torch.rand(())
        along = (x - right) * angle.cos() + (y - down) * angle.sin()
        across = (y - down) * angle.cos() - (x - right) * angle.sin()
        thick, long = 0.08 + 0.5 * torch.rand(()), 0.1 + 1.2 * torch.rand(())
        squared = 1 - (along / thick) ** 2
        inside = squared - (across / long) ** 2 if torch.rand(()) < 0.5 else squared * (across.abs() < long)
        image = image + torch.rand(()) * (1 if torch.rand(()) < 0.75 else -1) * inside.clamp(min=0).sqrt()
    return image


def _slice(ct: Float[Tensor, "S S S"]) -> Tensor:
    """Across the body, one voxel or a fifth of the CT thick."""
    middle = int(ct.shape[-1] * (0.15 + 0.7 * torch.rand(())))
    thick = 1 if torch.rand(()) < 0.5 else ct.shape[-1] // 5
    attenuation = hu_to_attenuation(ct[..., middle : middle + thick].float()).mean(-1)
    return interpolate(attenuation[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]


def _ramp() -> Tensor:
    """A surface of second degree, or nothing."""
    y, x = places()
    a, b, c, d = torch.randn(4) * (torch.rand(()) < 0.8)
    return a * x + b * y + c * x * y + d * x.square()
