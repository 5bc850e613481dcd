"""The matched filter by which a planted lesion is looked for, and what is read off its response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from scipy.signal import fftconvolve
from torch.nn.functional import adaptive_max_pool3d

from ..anatomy.augmentation import ellipsoid
from ..projection.resampling import truth_at
from .lesions import where_it_fits

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SURROUNDING = 2.0
"""Diameter of the surrounding over that of the lesion."""
VOXELS_A_DIAMETER = 4
"""The least on a grid on which a whole volume is filtered."""
FALSE_HU = 400.0
"""
From what response on a structure is taken for a lesion: half of what a nodule of 0 HU gives in lung of -800 HU.
"""
CONTEXT_MM = 5.0
"""Around the surrounding, how far the blur of a lesion is read for the contrast that is retained."""


def ball(away_mm: Sequence[torch.Tensor], diameter_mm: float, voxel_mm: float) -> Float[np.ndarray, "X Y Z"]:
    """The fraction of each voxel in a ball, by the voxels' middles along each axis from its own."""
    return ellipsoid(away_mm, torch.full((3,), diameter_mm / 2), voxel_mm).numpy()


def matched_filter(away_mm: Sequence[torch.Tensor], diameter_mm: float, voxel_mm: float) -> Float[np.ndarray, "X Y Z"]:
    """
    Mean over a ball less the mean over what surrounds it, up to twice its diameter: the response to a ball of that
    diameter on an even ground is its contrast, and to the ground nothing.
    """
    inside = ball(away_mm, diameter_mm, voxel_mm)
    around = ball(away_mm, SURROUNDING * diameter_mm, voxel_mm) - inside
    return inside / inside.sum() - around / around.sum()


@dataclass(frozen=True)
class Response:
    """
    Of a volume without lesions to the filter of one diameter, over the places where such a lesion would lie in the
    lungs.

    Args:
        deviation_hu: standard deviation over these places.
        false_lesions: how many structures look like a lesion of this diameter and are not in the ground truth.
    """

    deviation_hu: float
    false_lesions: int


class LungFilter:
    """
    The filter of one diameter on the places in a patient's lungs where such a lesion would lie.

    Args:
        truth: the ground truth without lesions, `(S, S, S)` in HU.
        lungs: a mask on a coarser grid, in which a lesion of the diameter fits somewhere.
        diameter_mm: of the lesion that is looked for.
        fov_mm: side of the cubes.
    """

    def __init__(
        self,
        truth: Float[np.ndarray, "S S S"],
        lungs: Bool[np.ndarray, "s s s"],
        diameter_mm: float,
        fov_mm: float,
    ) -> None:
        self.size = grid_for(diameter_mm, fov_mm, len(truth))
        voxel_mm = fov_mm / self.size
        self.diameter = diameter_mm / voxel_mm
        fits = where_it_fits(lungs, fov_mm / len(lungs), diameter_mm)
        fits = adaptive_max_pool3d(torch.from_numpy(fits)[None].float(), self.size)[0].numpy() > 0
        reach = int(SURROUNDING / 2 * self.diameter) + 1
        places = np.argwhere(fits)
        self.box = tuple(
            slice(max(low - reach, 0), high + reach + 1) for low, high in zip(places.min(0), places.max(0))
        )
        self.fits = fits[self.box]
        self.kernel = matched_filter([torch.arange(-reach, reach + 1) * voxel_mm] * 3, diameter_mm, voxel_mm)
        self.of_truth = self._filtered(truth)

    def response(self, hu: Float[np.ndarray, "S S S"]) -> Response:
        """That of a volume without lesions."""
        found = self._filtered(hu)
        false = count_peaks(found - self.of_truth, self.fits, self.diameter)
        return Response(float(found[self.fits].std()), false)

    def _filtered(self, hu: np.ndarray) -> np.ndarray:
        at_size = truth_at(torch.from_numpy(hu)[None, None].float(), self.size)[0, 0].numpy()
        return fftconvolve(at_size[self.box], self.kernel, mode="same")


def grid_for(diameter_mm: float, fov_mm: float, size: int) -> int:
    """The size, halved as often as :data:`VOXELS_A_DIAMETER` allows."""
    while size % 2 == 0 and diameter_mm / (fov_mm / (size // 2)) >= VOXELS_A_DIAMETER:
        size //= 2
    return size


def count_peaks(response: Float[np.ndarray, "X Y Z"], where: Bool[np.ndarray, "X Y Z"], apart: float) -> int:
    """
    Maxima of a response of at least :data:`FALSE_HU`, each the greatest within `apart` voxels along the axes. A plateau
    counts once.
    """
    highest = ndimage.maximum_filter(response, size=2 * int(apart) + 1, mode="nearest")
    peaks = (response == highest) & (response >= FALSE_HU) & where
    return int(ndimage.label(peaks, np.ones((3, 3, 3)))[1])


def of_lesion(
    change: Float[np.ndarray, "S S S"],
    planted: Float[np.ndarray, "S S S"],
    place_mm: Sequence[float],
    diameter_mm: float,
    fov_mm: float,
) -> dict[str, float]:
    """
    What a volume shows of one lesion.

    Args:
        change: of the volume, in HU, when the lesions are planted.
        planted: the same of the ground truth.
        place_mm: the lesion's middle, from that of the cube.
        diameter_mm: of the lesion.
        fov_mm: side of the cubes.

    Returns:
        `retained`: the factor c that brings c · planted nearest to the change around the lesion: 1 for all of its
        contrast at its place, 0 for nothing. `response_hu`: of the matched filter to the change, at the lesion.
    """
    size = len(change)
    voxel_mm = fov_mm / size
    reach_mm = SURROUNDING / 2 * diameter_mm + CONTEXT_MM
    middles = (torch.arange(size) + 0.5 - size / 2) * voxel_mm
    away = [middles - at for at in place_mm]
    box = tuple(slice(*_ends(abs(axis) <= reach_mm)) for axis in away)
    near = [axis[part] for axis, part in zip(away, box)]
    ours, theirs = change[box].astype(float), planted[box].astype(float)
    found = (matched_filter(near, diameter_mm, voxel_mm) * ours).sum()
    return {"retained": float((ours * theirs).sum() / (theirs**2).sum()), "response_hu": float(found)}


def _ends(within: torch.Tensor) -> tuple[int, int]:
    places = within.nonzero()
    return int(places[0]), int(places[-1]) + 1
