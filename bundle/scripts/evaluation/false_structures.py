"""What is sharp in a volume and not in the ground truth: structures that may be another patient's, or nobody's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy import ndimage

SIGMA_MM = 5.0
"""Of the Gaussian whose average is taken away, about the voxel of the first stage: what remains is ribs and vessels."""


def sharp_part(hu: torch.Tensor, voxel_mm: float) -> torch.Tensor:
    """
    A volume less its Gaussian average, :data:`SIGMA_MM`, on the CPU: the same structures at every number of voxels.

    Args:
        hu: `(1, 1, S, S, S)`.
        voxel_mm: side of a voxel.
    """
    sigma = (0.0, 0.0, *[SIGMA_MM / voxel_mm] * 3)
    values = hu.cpu().float().numpy()
    return torch.from_numpy(values - ndimage.gaussian_filter(values, sigma, mode="nearest"))


def false_structures(
    hu: torch.Tensor, truth: torch.Tensor, voxel_mm: float, parts: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """
    How much of what is sharp in a volume the ground truth explains.

    In each part of the volume, with the sharp parts r of the volume and t of the ground truth as vectors over its
    voxels, r = a t + f with the a ≥ 0 that makes f least: `sharp_correlation` is r·t / |r||t|, `sharp_energy` is
    |r|² / |t|², and `false_energy` is |f|² / |t|². A sharp structure in a wrong place is false there.

    Args:
        hu: a volume, `(1, 1, S, S, S)`.
        truth: the ground truth, the same shape.
        voxel_mm: side of a voxel.
        parts: masks of the volume by name.

    Returns:
        `<figure>_<part>`. Where the ground truth has nothing sharp, none is finite; where the volume alone has nothing,
        its correlation is NaN.
    """
    sharp, sharp_truth = (sharp_part(each, voxel_mm) for each in (hu, truth))
    found = {}
    for name, part in parts.items():
        r, t = (each[part.cpu()].double() for each in (sharp, sharp_truth))
        product, energy, energy_truth = r @ t, r @ r, t @ t
        explained = product.clamp(min=0).square() / energy_truth
        found |= {
            f"sharp_correlation_{name}": (product / (energy * energy_truth).sqrt()).item(),
            f"sharp_energy_{name}": (energy / energy_truth).item(),
            f"false_energy_{name}": ((energy - explained) / energy_truth).item(),
        }
    return found
