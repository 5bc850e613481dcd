"""Measurements of a chest volume in figures that a radiologist knows: lungs, thorax, heart, body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from ..anatomy.lungs import volume_l
from ..anatomy.thorax import Thorax, factor, find_thorax

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

END_MM = 6.0
"""Where the lungs come this close to the end of the body in the volume, the volume is taken to end within them."""
END_MM2 = 400.0
"""Section of the lungs at such an end, from which on they are taken to go on beyond it."""
LEAST_HEART_MM = 10.0
"""Height of the levels at which the heart must be seen for its borders to be read."""
RIM_MM = 6.0
"""Of the lungs, without which their density is taken: a voxel of the first stage."""
SEGMENTATION = "lungs as in Hu, Hoffman, Reinhardt, IEEE Trans Med Imaging 20(6), 2001"
DANZER = "Danzer, Am J Med Sci 157, 1919"
OWN = "a definition of this bundle"


class CannotBeTaken(Exception):
    """Why a measurement is not there, a sentence."""


@dataclass(frozen=True)
class Measure:
    """
    One measurement.

    Args:
        key: its name in `measurements.json`.
        label: its name in a table.
        unit: of the figure; "" for none.
        definition: what is measured.
        source: whose convention it is.
        take: the figure of a chest; raises :class:`CannotBeTaken`.
    """

    key: str
    label: str
    unit: str
    definition: str
    source: str
    take: Callable[[Thorax], float]


@dataclass(frozen=True)
class Measurements:
    """
    Args:
        values: figures by the keys of :data:`MEASURES`; None where one could not be taken.
        reasons: why, a sentence, by the keys of those.
    """

    values: dict[str, float | None]
    reasons: dict[str, str]

    def as_content(self) -> dict[str, Any]:
        """As JSON: a list in the order of :data:`MEASURES`, with `value` null and a `reason` where there is none."""
        described = []
        for measure in MEASURES:
            found = {
                "key": measure.key,
                "label": measure.label,
                "unit": measure.unit,
                "value": self.values[measure.key],
            }
            reason = {"reason": self.reasons[measure.key]} if measure.key in self.reasons else {}
            described.append({**found, **reason, "definition": measure.definition, "source": measure.source})
        return {"measurements": described}


def measure(hu: Float[Tensor | np.ndarray, "X Y Z"], spacing_mm: float) -> Measurements:
    """
    The figures of :data:`MEASURES`. Voxels much smaller than 2.8 mm are averaged to about that, so that a patient has
    nearly the same figures at 64³, 128³ and 256³.

    Args:
        hu: a chest volume in HU, RAS+.
        spacing_mm: side of a voxel.

    Raises:
        InputError: when the volume is none, see :func:`~scripts.anatomy.thorax.find_thorax`.
    """
    return measure_thorax(find_thorax(np.asarray(hu, dtype=np.float32), spacing_mm))


def measure_thorax(thorax: Thorax) -> Measurements:
    """The figures of :data:`MEASURES` of what was found in a volume."""
    values: dict[str, float | None] = {}
    reasons = {}
    for each in MEASURES:
        try:
            values[each.key] = float(each.take(thorax))
        except CannotBeTaken as reason:
            values[each.key], reasons[each.key] = None, str(reason)
    return Measurements(values, reasons)


def lungs(
    hu: Float[Tensor | np.ndarray, "X Y Z"], spacing_mm: float
) -> tuple[Bool[np.ndarray, "X Y Z"], Bool[np.ndarray, "X Y Z"]]:
    """
    Masks of the patient's left and right lung, nothing where one was not found; arguments as in :func:`measure`. In a
    finer volume their steps are those of the averaged one.
    """
    found = find_thorax(np.asarray(hu, dtype=np.float32), spacing_mm).lungs
    left, right = (mask_at(mask, hu.shape, spacing_mm) for mask in (found.left, found.right))
    return left, right


def mask_at(mask: Bool[np.ndarray, "x y z"], shape: Sequence[int], spacing_mm: float) -> Bool[np.ndarray, "X Y Z"]:
    """A mask of a :class:`~scripts.anatomy.thorax.Thorax` at the shape of the volume in which that was found."""
    times = factor(spacing_mm)
    return mask.repeat(times, 0).repeat(times, 1).repeat(times, 2)[: shape[0], : shape[1], : shape[2]]


def _lung(thorax: Thorax, side: str) -> np.ndarray:
    lung = getattr(thorax.lungs, side)
    if not lung.any():
        raise CannotBeTaken(thorax.lungs.reason or f"The {side} lung was not found.")
    return lung


def _both(thorax: Thorax) -> np.ndarray:
    return _lung(thorax, "left") | _lung(thorax, "right")


def _largest_extent(thorax: Thorax, axis: int) -> float:
    """Of both lungs at one axial level, in mm."""
    both = _both(thorax)
    if both.take((0, -1), axis).any():
        raise CannotBeTaken("The lungs reach a side of the volume: how far they go beyond it is not in it.")
    there = both.any(1 - axis)
    extents = [np.ptp(np.flatnonzero(level)) + 1 for level in there.T if level.any()]
    return max(extents) * thorax.spacing_mm


def _height(thorax: Thorax) -> float:
    areas = _both(thorax).sum((0, 1)) * thorax.spacing_mm**2
    of_body = np.flatnonzero(thorax.body.any((0, 1)))
    margin = int(END_MM / thorax.spacing_mm) + 1
    for end, levels in (("lower", slice(0, of_body[0] + margin)), ("upper", slice(of_body[-1] + 1 - margin, None))):
        if areas[levels].max() >= END_MM2:
            raise CannotBeTaken(f"The volume ends within the lungs: their {end} end is not in it.")
    return (thorax.levels.stop - thorax.levels.start) * thorax.spacing_mm


def _heart_width(thorax: Thorax) -> float:
    _both(thorax)
    if thorax.heart.any((0, 1)).sum() * thorax.spacing_mm < LEAST_HEART_MM:
        raise CannotBeTaken("The heart's borders cannot be read: too little of it lies above the diaphragm's domes.")
    return float(np.ptp(np.flatnonzero(thorax.heart.any((1, 2)))) + 1) * thorax.spacing_mm


def _density(thorax: Thorax) -> float:
    inner = ndimage.distance_transform_edt(_both(thorax)) * thorax.spacing_mm > RIM_MM
    if not inner.any():
        raise CannotBeTaken(f"The lungs are nowhere thicker than {2 * RIM_MM:g} mm.")
    return float(thorax.hu[inner].mean())


def _body_volume(thorax: Thorax) -> float:
    if not thorax.body.any():
        raise CannotBeTaken("No body was found: the volume holds nothing denser than -300 HU of a body's thickness.")
    return volume_l(thorax.body, thorax.spacing_mm)


MEASURES = (
    Measure(
        "left_lung_l", "Left lung", "L",
        "volume of the left lung with its vessels, without trachea, within the field of view",
        SEGMENTATION, lambda thorax: volume_l(_lung(thorax, "left"), thorax.spacing_mm),
    ),
    Measure(
        "right_lung_l", "Right lung", "L",
        "volume of the right lung with its vessels, without trachea, within the field of view",
        SEGMENTATION, lambda thorax: volume_l(_lung(thorax, "right"), thorax.spacing_mm),
    ),
    Measure(
        "lungs_l", "Both lungs", "L", "sum of the two",
        SEGMENTATION, lambda thorax: volume_l(_both(thorax), thorax.spacing_mm),
    ),
    Measure(
        "thorax_width_mm", "Inner width of the thorax", "mm",
        "largest extent of the lungs from left to right at one axial level",
        DANZER, lambda thorax: _largest_extent(thorax, 0),
    ),
    Measure(
        "thorax_depth_mm", "Inner depth of the thorax", "mm",
        "largest extent of the lungs from front to back at one axial level",
        OWN, lambda thorax: _largest_extent(thorax, 1),
    ),
    Measure(
        "thorax_height_mm", "Height of the lungs", "mm",
        "from the lowest to the highest axial level with 1 cm² of lung", OWN, _height,
    ),
    Measure(
        "heart_width_mm", "Heart width", "mm",
        "from the leftmost to the rightmost border of the soft tissue between the lungs, in their lower half and "
        "anterior two thirds, above the domes of the diaphragm; in parallel projection, so less than on a radiograph",
        DANZER, _heart_width,
    ),
    Measure(
        "cardiothoracic_ratio", "Cardiothoracic ratio", "",
        "heart width over inner width of the thorax",
        DANZER, lambda thorax: _heart_width(thorax) / _largest_extent(thorax, 0),
    ),
    Measure(
        "lung_density_hu", "Mean lung density", "HU",
        "mean HU of both lungs with their vessels, without their outer 6 mm, where coarse voxels hold chest wall",
        OWN, _density,
    ),
    Measure(
        "body_l", "Body", "L",
        "volume of the body with its lungs within the field of view, without table", OWN, _body_volume,
    ),
)  # fmt: skip
"""All measurements, for `measurements.json`, tables and pages."""
