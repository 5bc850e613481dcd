"""What a chest volume holds: body, spine, lungs, what lies between them, and the domes of the diaphragm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan, nan
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import convex_hull_image
from torch.nn.functional import avg_pool3d

from ..errors import InputError
from .body import body_mask
from .lungs import GAS_HU, Lungs, find_lungs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

VOXEL_MM = 2.8125
"""Side of the voxels that a finer volume is averaged to, that of the second stage: borders to a few millimetres."""
SOFT_HU = -300.0
"""As in :func:`~scripts.anatomy.body.body_mask`."""
WALL_GAP_MM = 20.0
"""Where the chest's wall is blurred away over less, the lungs are still within the body."""
SPINE_HU = (-100.0, 200.0)
"""
Between which the spine is looked for: lung counts no less than fat, so that the chest's wall is no ridge, and blood
with contrast agent and metal no more than spongy bone.
"""
SPINE_SIGMAS_MM = (10.0, 25.0)
"""Of two Gaussians whose difference is greatest in a column of a vertebra's width, and small in a heart's middle."""
SPINE_STEP_HU = 120.0
"""What a step of a voxel sideways must gain, in HU summed over levels; less, and the way leads over a bright heart."""
SPINE_OFF_MIDDLE_MM = 40.0
"""How far from the middle of the body the spine is looked for, sideways."""
MEDIASTINUM_MM = 20.0
"""How near to the spine, sideways, the soft tissue between the lungs comes: half of a vertebra's width."""
ISLAND_MM2 = 400.0
"""Section of soft tissue that does not, from which on it is taken for the liver's dome."""
LIMB_MM = 9.0
"""Radius of the ball that parts the body from a table's shell, blankets and wires."""
VESSEL_MM = 6.0
"""Radius of the disc that parts the heart from the vessels of the hilum."""
DOME_X, DOME_Y = (0.5, 0.9), (0.25, 0.75)
"""Where under a lung its diaphragm is read: quantiles of the lung's voxels, from medial to lateral and along Y."""
DOME_QUANTILE = 0.9
"""Which of the lung's lowest voxels there is its dome: nearly the highest, as a radiograph shows it."""
ABOVE_DOME_MM = 10.0
"""How far above the domes the heart is read: closer to them the liver lies between the lungs as well."""


@dataclass(frozen=True)
class Thorax:
    """
    Args:
        hu: the volume, RAS+, of voxels not much smaller than :data:`VOXEL_MM`.
        spacing_mm: side of a voxel.
        body: with its lungs, without table.
        spine_x: place of the spine along X at each level, in voxels, NaN beyond the body.
        spine_y: the same along Y.
        lungs: the lungs.
    """

    hu: Float[np.ndarray, "X Y Z"]
    spacing_mm: float
    body: Bool[np.ndarray, "X Y Z"]
    spine_x: Float[np.ndarray, " Z"]
    spine_y: Float[np.ndarray, " Z"]
    lungs: Lungs

    @cached_property
    def levels(self) -> slice:
        """The axial levels that the lungs take, those of at least 1 cm²."""
        areas = self.lungs.both.sum((0, 1)) * self.spacing_mm**2
        found = np.flatnonzero(areas >= 100)
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)

    @property
    def lower_half(self) -> slice:
        """The lower half of :attr:`levels`."""
        return slice(self.levels.start, (self.levels.start + self.levels.stop) // 2)

    @cached_property
    def midline_x(self) -> float:
        """Place of the spine along X over the lungs' height, in voxels."""
        return float(np.nanmedian(self.spine_x[self.levels]))

    def dome(self, lung: Bool[np.ndarray, "X Y Z"]) -> float:
        """
        Height of the diaphragm's dome under a lung, in voxels from the volume's lowest level: the lung's lowest voxels
        under its middle, of which the heart is no part. NaN where the lung does not reach into the lower half.
        """
        x, y, _ = lung[..., self.lower_half].nonzero()
        if not len(x):
            return nan
        from_middle = abs(x - self.midline_x)
        near, far = np.quantile(from_middle, DOME_X)
        back, front = np.quantile(y, DOME_Y)
        columns = lung.any(2)
        place_x, place_y = columns.nonzero()
        offset = abs(place_x - self.midline_x)
        chosen = (offset >= near) & (offset <= far) & (place_y >= back) & (place_y <= front)
        lowest = lung.argmax(2)[place_x[chosen], place_y[chosen]]
        return float(np.quantile(lowest, DOME_QUANTILE)) if len(lowest) else nan

    @cached_property
    def heart(self) -> Bool[np.ndarray, "X Y Z"]:
        """
        Soft tissue between the lungs in their lower half, above the diaphragm: at each level the convex hull of the
        lungs without the lungs, without what is thinner than a vessel of the hilum, in the anterior two thirds of the
        lungs. Down to :data:`ABOVE_DOME_MM` above the higher dome, or to where a liver is an island in the lungs.
        """
        found = np.zeros_like(self.body)
        domes = [self.dome(self.lungs.left), self.dome(self.lungs.right)]
        lowest = max((dome for dome in domes if not isnan(dome)), default=inf) + ABOVE_DOME_MM / self.spacing_mm
        off_middle = abs(np.arange(len(self.hu)) - self.midline_x) * self.spacing_mm
        for z in reversed([z for z in range(self.lower_half.stop) if z >= lowest]):
            lungs = self.lungs.both[..., z]
            if not lungs.any():
                continue
            between = opened(convex_hull_image(lungs) & ~lungs, VESSEL_MM / self.spacing_mm)
            rows = np.flatnonzero(lungs.any(0))
            between[:, : rows[0] + (rows[-1] - rows[0]) // 3] = False
            parts = label(between, connectivity=1)
            near = np.unique(parts[off_middle <= MEDIASTINUM_MM])
            sizes = np.bincount(parts.flat)
            islands = np.delete(sizes, np.append(near, 0))
            if (islands * self.spacing_mm**2 > ISLAND_MM2).any():
                break
            found[..., z] = largest_part(np.isin(parts, near[near > 0]))
        return found


def find_thorax(hu: Float[np.ndarray, "X Y Z"], spacing_mm: float) -> Thorax:
    """
    Args:
        hu: a chest volume, RAS+; finite.
        spacing_mm: side of a voxel.

    Raises:
        InputError: when the volume has another number of dimensions, values that are not finite, or no voxel size.
    """
    hu, spacing_mm = coarser(_checked(hu, spacing_mm), spacing_mm)
    enclosed = _enclosed(hu, spacing_mm)
    spine_x, spine_y = find_spine(hu, enclosed, spacing_mm)
    lungs = find_lungs(hu, enclosed, spine_x, spacing_mm)
    body = outline(enclosed & (hu > SOFT_HU) | lungs.both | lungs.trachea, spacing_mm)
    return Thorax(hu, spacing_mm, body, spine_x, spine_y, lungs)


def coarser(hu: Float[np.ndarray, "X Y Z"], spacing_mm: float) -> tuple[Float[np.ndarray, "X Y Z"], float]:
    """Averages of whole voxels of about :data:`VOXEL_MM`, and their side; the volume itself where it is as coarse."""
    times = factor(spacing_mm)
    pooled = avg_pool3d(torch.from_numpy(hu)[None, None], times, ceil_mode=True)
    return pooled[0, 0].numpy(), spacing_mm * times


def factor(spacing_mm: float) -> int:
    """How many voxels along a side :func:`coarser` averages."""
    return max(1, round(VOXEL_MM / spacing_mm))


def find_spine(
    hu: Float[np.ndarray, "X Y Z"], body: Bool[np.ndarray, "X Y Z"], spacing_mm: float
) -> tuple[Float[np.ndarray, " Z"], Float[np.ndarray, " Z"]]:
    """
    The densest narrow column of the body near its middle, from its lowest to its highest level: the path of the
    greatest sum of HU between two Gaussians, :data:`SPINE_SIGMAS_MM`, less :data:`SPINE_STEP_HU` for each step sideways
    (dynamic programming). Density alone would lead through a heart that holds contrast agent. Its place at each level
    in voxels, NaN where there is no body.
    """
    places = np.full((2, hu.shape[2]), np.nan)
    there = np.flatnonzero(body.any((0, 1)))
    if len(there):
        dense = np.where(body, hu.clip(*SPINE_HU), SPINE_HU[0])
        near, far = (sigma / spacing_mm for sigma in SPINE_SIGMAS_MM)
        narrow = ndimage.gaussian_filter(dense, near, mode="nearest")
        narrow -= ndimage.gaussian_filter(dense, (far, far, near), mode="nearest")
        off_middle = abs(np.arange(len(hu)) - body.nonzero()[0].mean()) * spacing_mm
        narrow[~body] = narrow[off_middle > SPINE_OFF_MIDDLE_MM] = -1000.0
        places[:, there] = _best_path(np.moveaxis(narrow[..., there], 2, 0)).T
    return places[0], places[1]


def outline(mask: Bool[np.ndarray, "X Y Z"], spacing_mm: float) -> Bool[np.ndarray, "X Y Z"]:
    """A body without what is thinner than :data:`LIMB_MM` on either side, its axial holes filled."""
    body = largest_part(opened(mask, LIMB_MM / spacing_mm))
    return np.stack([ndimage.binary_fill_holes(level) for level in np.moveaxis(body, 2, 0)], 2)


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """A mask opened by a ball or a disc of a radius in voxels; what lies beyond the array counts as within."""
    kept = ndimage.distance_transform_edt(mask) > radius
    return mask & (ndimage.distance_transform_edt(~kept) <= radius) if kept.any() else kept


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask."""
    parts = label(mask, connectivity=1)
    sizes = np.bincount(parts.flat)[1:]
    return parts == sizes.argmax() + 1 if len(sizes) else mask


def _enclosed(hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """
    The body with all that its wall encloses, although the wall may have gaps: of the volume closed by a cube, but for
    clear air beside it, as in an armpit.
    """
    side = 2 * int(WALL_GAP_MM / spacing_mm / 2) + 1
    closed = ndimage.minimum_filter(ndimage.maximum_filter(hu, side), side)
    without_gaps, body = (body_mask(torch.from_numpy(each)[None, None])[0, 0].numpy() for each in (closed, hu))
    open_air = ndimage.binary_dilation(~body & (hu < GAS_HU))
    return body | without_gaps & ~open_air


def _best_path(values: Float[np.ndarray, "Z X Y"]) -> np.ndarray:
    """The place in each plane, `(Z, 2)`, of the path of the greatest sum, of steps to one of eight neighbours."""
    costs = -SPINE_STEP_HU * np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]])
    sums = [values[0]]
    for plane in values[1:]:
        sums.append(plane + ndimage.grey_dilation(sums[-1], structure=costs))
    path = [np.array(np.unravel_index(sums[-1].argmax(), sums[-1].shape))]
    for plane in sums[-2::-1]:
        x, y = path[-1]
        near = np.pad(plane, 1, constant_values=-np.inf)[x : x + 3, y : y + 3] + costs
        path.append(path[-1] + np.unravel_index(near.argmax(), near.shape) - 1)
    return np.stack(path[::-1])


def _checked(hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise InputError(
            f"the volume has shape {tuple(hu.shape)} and {int((~np.isfinite(hu)).sum())} values that are not finite, "
            f"expected (X, Y, Z) in HU without; give one volume, channel and batch taken away."
        )
    if not 0 < spacing_mm < np.inf:
        raise InputError(f"spacing_mm is {spacing_mm}, expected the side of a voxel in mm, above 0.")
    return np.ascontiguousarray(hu, dtype=np.float32)
