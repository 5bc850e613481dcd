"""Random presentation: projections as radiographs are shown, by another machine, operator and program each time."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample, interpolate

if TYPE_CHECKING:
    from jaxtyping import Float

SIDE = 64
"""Pixels along a side of what is shown."""
BODY_LEVEL = 0.24
"""Fraction of the largest line integral above which a pixel counts as body when the frame is drawn."""
LEAST_MARGINS, MOST_MARGINS = (0.0, 0.0, -0.15, -0.15), (0.22, 0.28, 0.15, 0.15)
"""
Of the body's height at the top and the bottom, and of its width at the left and the right, what the frame leaves out at
least and at most. The reconstruction volume ends within the body, at its top and bottom: nothing is added there.
"""
DEGREES = 8.0
"""Largest rotation in the plane of the detector."""
BANDS = (5, 12, 32)
"""Pixels along a side at which an image is split into bands for its local contrast."""
LIMBS, LETTERS = 4, 2
"""Most soft shapes at the border, and most words."""

Images = Tensor
"""`(B, 1, H, W)`."""


def rand_shown(projections: Float[Tensor, "B 1 P P"]) -> Float[Tensor, "B 1 64 64"]:
    """
    Projections as another detector, collimator and program would show each: rotated by up to 8 degrees, framed by a
    random rectangle whose shape is given up, with arms, shoulders or hands at the border, a random gain, curve and
    saturation, local contrast in four bands, uneven exposure, noise, letters, and black or white borders.

    Args:
        projections: line integrals, at least 0, in any unit.

    Returns:
        Grey values, 0 to 1, drawn by torch's global generator.
    """
    images = _with_limbs(_framed(projections))
    images = images / images.flatten(1).amax(1)[:, None, None, None].clamp(min=1e-6)
    return rand_processed((images * uniform(images, 1.0, 1.3)).clamp(0, 1.2))


def rand_processed(images: Images) -> Images:
    """What is done to images of 0 to about 1 behind the detector: see :func:`rand_shown`, from the curve on."""
    images = _saturated(_noisy(_unevenly_exposed(_local_contrast(_curved(images)))))
    return _with_borders(_with_letters(images))


def uniform(images: Images, low: float, high: float) -> Float[Tensor, "B 1 1 1"]:
    """A random number for each image."""
    return torch.rand(len(images), 1, 1, 1) * (high - low) + low


def places() -> tuple[Tensor, Tensor]:
    """Of the pixels: Y, X, each `(64, 64)`, -1 to 1."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    return torch.meshgrid(line, line, indexing="ij")


def _chosen(images: Images, probability: float) -> Tensor:
    return (torch.rand(len(images), 1, 1, 1) < probability).float()


def _body_boxes(projections: Tensor) -> Tensor:
    """Where the body begins and ends, top, bottom, left and right, -1 to 1: `(B, 4)`."""
    seen = (projections[:, 0] > BODY_LEVEL * projections.flatten(1).amax(1)[:, None, None]).float()
    line = (torch.arange(projections.shape[-1]) + 0.5) / projections.shape[-1] * 2 - 1
    sides = []
    for axis in (2, 1):
        is_body = seen.mean(axis) > 0.12
        sides += [torch.where(is_body, line, 1.0).amin(1), torch.where(is_body, line, -1.0).amax(1)]
    return torch.stack(sides, 1)


def _framed(projections: Tensor) -> Images:
    boxes, count = _body_boxes(projections), len(projections)
    top, bottom, left, right = boxes.unbind(1)
    sizes = torch.stack([bottom - top, top - bottom, right - left, left - right], 1)
    least, most = torch.tensor(LEAST_MARGINS), torch.tensor(MOST_MARGINS)
    top, bottom, left, right = (boxes + sizes * (least + (most - least) * torch.rand(count, 4))).unbind(1)
    angles = (torch.rand(count) * 2 - 1) * DEGREES * pi / 180
    width, height = (right - left) / 2, (bottom - top) / 2
    across = torch.stack([angles.cos() * width, -angles.sin() * height, (left + right) / 2], 1)
    along = torch.stack([angles.sin() * width, angles.cos() * height, (top + bottom) / 2], 1)
    grid = affine_grid(torch.stack([across, along], 1), [count, 1, SIDE, SIDE], align_corners=False)
    return grid_sample(projections, grid, align_corners=False)


def _with_limbs(images: Images) -> Images:
    """Line integrals through ellipsoids whose middles lie about the border."""
    peak = images.flatten(1).amax(1)[:, None, None, None]
    y, x = places()
    for _ in range(LIMBS):
        where, turned = uniform(images, 0, 2 * pi), uniform(images, 0, pi)
        far = uniform(images, 0.9, 1.3) / torch.maximum(where.cos().abs(), where.sin().abs())
        right, down = x - far * where.cos(), y - far * where.sin()
        thick, long = uniform(images, 0.1, 0.5), uniform(images, 0.2, 1.2)
        squared = ((right * turned.cos() + down * turned.sin()) / thick) ** 2
        squared = squared + ((down * turned.cos() - right * turned.sin()) / long) ** 2
        added = peak * uniform(images, 0.1, 0.7) * (1 - squared).clamp(min=0).sqrt()
        images = images + _chosen(images, 0.3) * added
    return images


def _curved(images: Images) -> Images:
    """An increasing curve: a power, bent to an S by the cubic through its ends, 3 x² - 2 x³."""
    images = images ** torch.exp2(uniform(images, -1.2, 0.8))
    bent = images.clamp(max=1) ** 2 * (3 - 2 * images.clamp(max=1))
    return torch.lerp(images, bent, uniform(images, 0.0, 1.0))


def _local_contrast(images: Images) -> Images:
    """Bands of detail with random weights: multi-frequency processing and unsharp masking, or blur."""
    coarse, middle, fine = (
        interpolate(adaptive_avg_pool2d(images, side), images.shape[-2:], mode="bilinear") for side in BANDS
    )
    return (
        coarse * uniform(images, 0.25, 1.0)
        + (middle - coarse) * uniform(images, 0.6, 1.6)
        + (fine - middle) * uniform(images, 0.7, 2.5)
        + (images - fine) * uniform(images, 0.0, 2.5)
    )


def _unevenly_exposed(images: Images) -> Images:
    y, x = places()
    slope = 0.25 * _chosen(images, 0.5)
    return images + slope * (x * uniform(images, -1, 1) + y * uniform(images, -1, 1))


def _noisy(images: Images) -> Images:
    """White noise, or noise of grains of three pixels."""
    grains = interpolate(torch.randn(len(images), 1, SIDE // 3, SIDE // 3), (SIDE, SIDE), mode="bilinear")
    noise = torch.where(_chosen(images, 0.5) > 0, grains, torch.randn_like(images))
    return images + 0.06 * uniform(images, 0, 1) ** 2 * noise


def _saturated(images: Images) -> Images:
    low = _chosen(images, 0.5) * uniform(images, 0.0, 0.2)
    high = 1 - _chosen(images, 0.5) * uniform(images, 0.0, 0.25)
    return ((images - low) / (high - low)).clamp(0, 1)


def _with_letters(images: Images) -> Images:
    """Words of random blocks, white or black."""
    images = images.clone()
    for image in images[:, 0]:
        for _ in range(int(torch.randint(LETTERS + 1, ())) if torch.rand(()) < 0.5 else 0):
            dot, letters = int(torch.randint(1, 3, ())), int(torch.randint(1, 4, ()))
            word = (torch.rand(5, 3 * letters) < 0.6).repeat_interleave(dot, 0).repeat_interleave(dot, 1)
            top, left = (int(torch.randint(SIDE - length, ())) for length in word.shape)
            image[top : top + word.shape[0], left : left + word.shape[1]][word] = float(torch.rand(()) < 0.9)
    return images


def _with_borders(images: Images) -> Images:
    """Frames that may lie askew, black or white."""
    count, (y, x) = len(images), places()
    angle = (torch.rand(count, 1, 1) * 2 - 1) * 0.07 * (torch.rand(count, 1, 1) < 0.3)
    right, down = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    widths = torch.rand(count, 4, 1, 1) * 0.3 * (torch.rand(count, 4, 1, 1) < 0.25)
    sides = (-1 - right, right - 1, -1 - down, down - 1)
    outside = torch.stack([side + width > 0 for side, width in zip(sides, widths.unbind(1))]).any(0)
    return torch.where(outside, (torch.rand(count, 1, 1) < 0.25).float(), images[:, 0])[:, None]
