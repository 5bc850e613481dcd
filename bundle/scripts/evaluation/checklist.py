"""The checklist that a reconstruction from a pair of radiographs without a CT is judged by: is it a chest?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import convex_hull_image
from torch import Tensor

from ..anatomy.thorax import LIMB_MM, SOFT_HU, Thorax, find_thorax, opened
from .measurements import Measurements, measure_thorax

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Rule:
    """
    One rule.

    Args:
        key: its name.
        sentence: what must hold.
        unit: of the value; "" for none.
        lowest: value that passes, None for no limit.
        highest: the same.
        why: where the limits come from.
        value: of a chest and its measurements; None or NaN where it cannot be read, which does not pass.
    """

    key: str
    sentence: str
    unit: str
    lowest: float | None
    highest: float | None
    why: str
    value: Callable[[Thorax, Measurements], float | None]

    @property
    def limits(self) -> str:
        """The values that pass, such as "0.5 to 5 L" or "at least 0.4"."""
        unit = f" {self.unit}" if self.unit else ""
        if self.lowest is None:
            return f"at most {self.highest:g}{unit}"
        return (f"at least {self.lowest:g}" if self.highest is None else f"{self.lowest:g} to {self.highest:g}") + unit


@dataclass(frozen=True)
class Finding:
    """
    Args:
        rule: what was asked.
        value: what was measured; None where it could not be.
        passed: whether the value is within the rule's limits.
    """

    rule: Rule
    value: float | None
    passed: bool


def check_anatomy(hu: Float[Tensor | np.ndarray, "X Y Z"], spacing_mm: float) -> list[Finding]:
    """
    What the rules of :data:`RULES` find in a volume.

    Args:
        hu: a chest volume in HU, RAS+.
        spacing_mm: side of a voxel.

    Raises:
        InputError: when the volume is none, see :func:`~scripts.anatomy.thorax.find_thorax`.
    """
    thorax = find_thorax(np.asarray(hu, dtype=np.float32), spacing_mm)
    return check_thorax(thorax, measure_thorax(thorax))


def check_thorax(thorax: Thorax, measurements: Measurements) -> list[Finding]:
    """What the rules of :data:`RULES` find in a chest that has been measured."""
    return [_finding(rule, rule.value(thorax, measurements)) for rule in RULES]


def _finding(rule: Rule, value: float | None) -> Finding:
    if value is None or isnan(value):
        return Finding(rule, None, False)
    is_low = rule.lowest is not None and value < rule.lowest
    is_high = rule.highest is not None and value > rule.highest
    return Finding(rule, float(value), not (is_low or is_high))


def _measured(key: str) -> Callable[[Thorax, Measurements], float | None]:
    return lambda thorax, measurements: measurements.values[key]


def _lung_ratio(thorax: Thorax, measurements: Measurements) -> float:
    sizes = [measurements.values[key] or 0.0 for key in ("left_lung_l", "right_lung_l")]
    return min(sizes) / max(sizes) if min(sizes) > 0 else nan


def _apex_over_base(thorax: Thorax, measurements: Measurements) -> float:
    """The lungs' mean extent from left to right in the upper fifth of their levels over that in the lower fifth."""
    if measurements.values["lungs_l"] is None:
        return nan
    there = thorax.lungs.both.any(1)[:, thorax.levels]
    extents = np.array([np.ptp(np.flatnonzero(level)) + 1 for level in there.T])
    fifth = max(1, len(extents) // 5)
    return float(extents[-fifth:].mean() / extents[:fifth].mean())


def _heart_on_the_left(thorax: Thorax, measurements: Measurements) -> float:
    """The fraction of the heart's section that is on the patient's left of the spine, where X is less."""
    if measurements.values["heart_width_mm"] is None:
        return nan
    x, _, z = thorax.heart.nonzero()
    return float((x < thorax.spine_x[z]).mean())


def _right_dome_above_left(thorax: Thorax, measurements: Measurements) -> float:
    if measurements.values["lungs_l"] is None:
        return nan
    return (thorax.dome(thorax.lungs.right) - thorax.dome(thorax.lungs.left)) * thorax.spacing_mm


def _spine_behind(thorax: Thorax, measurements: Measurements) -> float:
    """The fraction of the body's levels whose densest narrow column lies in the posterior half of the body."""
    rows = thorax.body.any(0)
    there = rows.any(0)
    if not there.any():
        return nan
    back, front = rows.argmax(0), rows.shape[0] - 1 - rows[::-1].argmax(0)
    return float((thorax.spine_y < (back + front) / 2)[there].mean())


def _beside_the_body(thorax: Thorax, measurements: Measurements) -> float:
    """Volume of the largest other thing of a body's thickness over that of the body."""
    if not thorax.body.any():
        return nan
    others = opened((thorax.hu > SOFT_HU) & ~thorax.body, LIMB_MM / thorax.spacing_mm)
    return float(np.bincount(label(others, connectivity=1).flat)[1:].max(initial=0) / thorax.body.sum())


def _holes(thorax: Thorax, measurements: Measurements) -> float:
    """Fraction of the body below -300 HU that is neither lung nor trachea, within :data:`LIMB_MM` of neither."""
    if not thorax.body.any():
        return nan
    air = thorax.lungs.both | thorax.lungs.trachea
    known = ndimage.distance_transform_edt(~air) * thorax.spacing_mm <= LIMB_MM
    return float((thorax.body & (thorax.hu < SOFT_HU) & ~known).sum() / thorax.body.sum())


def _covered(axis: int, *ends: int) -> Callable[[Thorax, Measurements], float]:
    """The largest fraction of a face of the volume that the body covers, of the faces at these ends of an axis."""
    return lambda thorax, measurements: max(float(thorax.body.take(end, axis).mean()) for end in ends)


def _solidity(thorax: Thorax, measurements: Measurements) -> float:
    """The median over the lungs' levels of the body's section over the section of its convex hull."""
    levels = [thorax.body[..., z] for z in range(thorax.levels.start, thorax.levels.stop)]
    return float(np.median([each.sum() / convex_hull_image(each).sum() for each in levels if each.any()] or [nan]))


def _body_extent(axis: int) -> Callable[[Thorax, Measurements], float]:
    """The median over the lungs' levels of the body's extent, in mm."""

    def extent(thorax: Thorax, measurements: Measurements) -> float:
        sections = [thorax.body[..., z].any(1 - axis) for z in range(thorax.levels.start, thorax.levels.stop)]
        extents = [np.ptp(np.flatnonzero(each)) + 1 for each in sections if each.any()]
        return float(np.median(extents)) * thorax.spacing_mm if extents else nan

    return extent


def _height(thorax: Thorax, measurements: Measurements) -> float:
    """That of the lungs in the volume, even of lungs that go on beyond it."""
    return (thorax.levels.stop - thorax.levels.start) * thorax.spacing_mm


ADULTS = "wider than adults breathing in: a limit for what is no chest, not for disease"

RULES = (
    Rule(
        "left_lung", "There is a left lung", "L", 0.5, 5.0,
        "half of a total lung capacity of 4 to 8 L, less in a patient who lies, less for disease",
        _measured("left_lung_l"),
    ),
    Rule("right_lung", "There is a right lung", "L", 0.5, 5.0, "as the left", _measured("right_lung_l")),
    Rule(
        "lung_ratio", "The lungs are alike in size: smaller over larger", "", 0.4, None,
        "the left lung is about a tenth smaller; 0.4 leaves room for effusion and collapse", _lung_ratio,
    ),
    Rule(
        "apices_above",
        "The lungs are narrower above than below: extent from left to right in the upper fifth over the lower",
        "",
        None,
        1.0,
        "apices are the narrow end of any lung; above 1 is a volume upside down",
        _apex_over_base,
    ),
    Rule(
        "heart_on_the_left", "The heart leans to the left: fraction of its section left of the spine", "", 0.5, None,
        "about two thirds of a heart lie left of the midline; less than half is situs inversus or a mirrored volume",
        _heart_on_the_left,
    ),
    Rule(
        "domes", "The right dome of the diaphragm is not lower than the left: right above left", "mm", -15.0, None,
        "the right is higher in about nine of ten people, by up to 3 cm; in the others the left is by little",
        _right_dome_above_left,
    ),
    Rule(
        "spine_behind", "The spine is behind: fraction of levels with the densest narrow column behind", "", 0.6, None,
        "it is in the posterior half of the body; 0.8 failed a CT whose heart and vessels hold contrast agent",
        _spine_behind,
    ),
    Rule(
        "one_body", "There is one body: the largest thing beside it over the body", "", None, 0.05,
        "a table or an arm is a few per cent of a body", _beside_the_body,
    ),
    Rule(
        "no_holes", "The body has no holes but lungs and airways: fraction of it", "", None, 0.03,
        "stomach and bowel hold up to about half a litre of gas, of a body of 14 L or more", _holes,
    ),
    Rule(
        "lateral_faces", "Air lies beside the body: fraction of a lateral face that it covers", "", None, 0.6,
        "arms, and bodies wider than the field of view, reach the face, at some of its rows and levels",
        _covered(0, 0, -1),
    ),
    Rule(
        "front_and_back", "Air lies before and behind the body: fraction of that face that it covers", "", None, 0.2,
        "no adult's chest is as deep as the field of view; a patient off its centre can touch a face",
        _covered(1, 0, -1),
    ),
    Rule(
        "outline", "The outline is nearly convex: median of section over convex hull's section", "", 0.85, None,
        "an ellipse has 1; the hollows beside breasts, shoulders and spine take a few per cent", _solidity,
    ),
    Rule("thorax_width", "Inner width of the thorax", "mm", 180.0, 350.0, ADULTS, _measured("thorax_width_mm")),
    Rule("thorax_depth", "Inner depth of the thorax", "mm", 110.0, 280.0, ADULTS, _measured("thorax_depth_mm")),
    Rule("thorax_height", "Height of the lungs in the volume", "mm", 130.0, 350.0, ADULTS, _height),
    Rule("body_width", "Width of the body at the lungs", "mm", 230.0, None, ADULTS, _body_extent(0)),
    Rule("body_depth", "Depth of the body at the lungs", "mm", 150.0, 350.0, ADULTS, _body_extent(1)),
    Rule(
        "cardiothoracic_ratio", "Cardiothoracic ratio", "", 0.3, 0.7,
        "below 0.5 is usual in a standing adult (Danzer 1919); lying, and with disease, it is more",
        _measured("cardiothoracic_ratio"),
    ),
    Rule(
        "lung_density", "Mean lung density", "HU", -930.0, -500.0,
        "lungs breathed in have about -850, breathed out -700; blurring adds what surrounds them",
        _measured("lung_density_hu"),
    ),
)  # fmt: skip
"""All rules, in the order in which they are reported."""
