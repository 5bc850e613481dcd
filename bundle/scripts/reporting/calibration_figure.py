"""The figure of a calibrated pair: what was read, what was made of it, how both views agree, and by what numbers."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke

from ..io.atomic_write import NOTICE
from ..io.radiograph import XRAY_KEYS
from ..projection.geometry import BiplanarGeometry
from ..radiographs.calibration import CalibratedPair, Consistency

if TYPE_CHECKING:
    from jaxtyping import Float

INCHES = (12.6, 7.3)
READ_PERCENTILES = (0.5, 99.5)
"""Of the values of a radiograph as read, what is shown black and white: letters and borders are left out."""
LARGEST_SHOWN = 99.8
"""Percentile of both views' line integrals that is shown white."""
COLOURS = ("#0072b2", "#d55e00")
"""Of frontal and lateral: told apart with every colour vision (Okabe and Ito, 2008)."""
TINT = "#f0a000"
FAINTEST = 0.3
"""Opacity of a plane that does not count."""
COUNTS = 0.1
"""Fraction of the largest weight above which a plane decides how far an axis reaches."""
GREY = "(grey: cut by a border, counts less)"
BAR_MM = 100.0
LEAST_REACH = 5.0
"""Of the axis of the relative difference, in %: less is small."""
LEAST_SCATTER = 0.005
"""Ratio to the primary beam below which the figure says that there is none."""
SMALL = 8.5
LINE = 165
"""Characters of a line of sentences over the figure's width."""


def calibration_figure(
    pair: CalibratedPair, before: Sequence[Float[np.ndarray, "H W"]], geometry: BiplanarGeometry
) -> Figure:
    """
    Both radiographs as read and as line integrals, on one grey scale, tinted where no radiograph shows anything; what
    both say of each plane through the sources, fainter the less the plane counts, with the relative difference; and
    the numbers, with what had to be assumed; above all, what contradicts the files and what else is flagged.

    Args:
        pair: the calibrated pair.
        before: frontal and lateral as read, in display orientation, in any unit.
        geometry: of the acquisition, whose detector the line integrals lie on.
    """
    figure = Figure(figsize=INCHES, layout="constrained", dpi=110)
    figure.suptitle(f"Calibration of the pair\n{NOTICE}", fontsize=10)
    images, numbers = figure.subfigures(2, 1, height_ratios=(1.0, 0.98), hspace=0.02)
    _show_images(images, pair, before, geometry)
    curves, difference, words = numbers.subplots(1, 3, width_ratios=(1.0, 1.0, 1.25))
    _show_curves(curves, pair.consistency)
    _show_difference(difference, pair.consistency)
    _show_numbers(words, pair)
    assumed = fill(f"Assumed: {' '.join(pair.assumed)}", LINE)
    numbers.supxlabel(assumed, fontsize=SMALL, color="0.3", x=0.01, ha="left", parse_math=False)
    if doubts := tuple(dict.fromkeys((*pair.contradictions, *pair.flags))):
        images.suptitle(fill(" ".join(doubts), LINE), fontsize=9, color="#b00000", parse_math=False)
    return figure


def _show_images(
    figure: SubFigure, pair: CalibratedPair, before: Sequence[np.ndarray], geometry: BiplanarGeometry
) -> None:
    axes = figure.subplots(1, 4)
    highest = float(np.percentile(pair.line_integrals[pair.seen], LARGEST_SHOWN)) if pair.seen.any() else 1.0
    for view, (name, read, as_read, calibrated) in enumerate(zip(XRAY_KEYS, before, axes[::2], axes[1::2])):
        title = f"{name}, {geometry.views[view]}"
        low, high = np.percentile(read, READ_PERCENTILES)
        as_read.imshow(read, cmap="gray", vmin=low, vmax=high)
        as_read.set_title(f"{title}: as read", fontsize=9)
        shown = _show_line_integrals(calibrated, pair.line_integrals[view], pair.seen[view], highest, geometry)
        calibrated.set_title(f"{title}: calibrated", fontsize=9)
    for place in axes:
        place.set_xticks([])
        place.set_yticks([])
        for spine in place.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(shown, ax=axes, location="right", shrink=0.86, aspect=24, pad=0.01, extend="max")
    bar.set_label("line integral ∫μ dl (no unit)", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def _show_line_integrals(
    place: Axes, line_integrals: np.ndarray, seen: np.ndarray, highest: float, geometry: BiplanarGeometry
) -> AxesImage:
    """In mm of the detector, with a bar of a length in the middle of the body."""
    half = geometry.detector_size_mm / 2
    extent = (-half, half, half, -half)
    shown = place.imshow(line_integrals, cmap="gray", vmin=0, vmax=highest, extent=extent)
    tint = np.zeros((*seen.shape, 4))
    tint[~seen] = to_rgba(TINT, 0.3)
    place.imshow(tint, extent=extent, interpolation="nearest")
    length, left, down = BAR_MM * geometry.magnification(0.0), -0.92 * half, 0.93 * half
    outline = [withStroke(linewidth=2.5, foreground="black")]
    place.plot([left, left + length], [down, down], color="white", linewidth=2, solid_capstyle="butt")
    label = place.text(left, down - 0.03 * half, f"{BAR_MM:g} mm in the body", color="white", fontsize=7, va="bottom")
    label.set_path_effects(outline)
    if not seen.all():
        place.set_xlabel("tinted: beyond its border, not shown by it", fontsize=7.5, color="#805000", labelpad=2)
    place.set_xlim(-half, half)
    place.set_ylim(half, -half)
    return shown


def _show_curves(place: Axes, consistency: Consistency) -> None:
    for name, colour, integrals in zip(XRAY_KEYS, COLOURS, consistency.integrals):
        _weighted_line(place, consistency, integrals, colour)
        place.plot([], [], color=colour, label=name)
    place.set_ylim(0, 1.12 * max(_largest(consistency, consistency.integrals), 1e-3))
    place.set_title("What each view says of a plane through both sources", fontsize=9)
    place.set_ylabel("integral of the plane (no unit)", fontsize=SMALL)
    place.legend(fontsize=SMALL, loc="lower center", frameon=False, ncols=2)
    _finish(place, consistency)


def _show_difference(place: Axes, consistency: Consistency) -> None:
    frontal, lateral = consistency.integrals
    relative = 100 * (frontal - lateral) / ((frontal + lateral) / 2).clip(min=1e-6)
    place.axhline(0, color="0.6", linewidth=0.8)
    _weighted_line(place, consistency, relative, "0.1")
    reach = max(1.2 * _largest(consistency, relative[None]), LEAST_REACH)
    place.set_ylim(-reach, reach)
    place.set_title("Frontal less lateral, before it is shared out", fontsize=9)
    place.set_ylabel("relative difference in %", fontsize=SMALL)
    _finish(place, consistency)


def _finish(place: Axes, consistency: Consistency) -> None:
    heights = consistency.heights_mm
    ends = (float(heights[0]), float(heights[-1]))
    low, high = place.get_ylim()
    cut = (1 - consistency.weights)[None]
    place.imshow(cut, cmap="Greys", vmin=0, vmax=6, extent=(*ends, low, high), aspect="auto", zorder=0)
    place.set_xlim(min(ends), max(ends))
    place.set_xlabel(f"height along the body in mm, superior on the right\n{GREY}", fontsize=SMALL)
    place.tick_params(labelsize=SMALL)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)


def _weighted_line(place: Axes, consistency: Consistency, values: np.ndarray, colour: str) -> None:
    """Each piece as opaque as the lesser of its two planes counts."""
    points = np.stack([consistency.heights_mm, values], axis=1)
    weights = np.minimum(consistency.weights[:-1], consistency.weights[1:]).clip(0, 1)
    colours = [to_rgba(colour, FAINTEST + (1 - FAINTEST) * weight) for weight in weights]
    place.add_collection(LineCollection(np.stack([points[:-1], points[1:]], axis=1), colors=colours, linewidths=1.8))


def _largest(consistency: Consistency, values: np.ndarray) -> float:
    """Of the planes that count, or of all where none does."""
    counts = consistency.weights > COUNTS * consistency.weights.max(initial=0.0)
    return float(np.abs(values[:, counts] if counts.any() else values).max(initial=0.0))


def _show_numbers(place: Axes, pair: CalibratedPair) -> None:
    found, consistency = pair.calibration, pair.consistency
    frontal, lateral = found.curves
    scatter = f"{found.scatter_ratio:.2f}, blurred by {found.scatter_width_mm:.0f} mm"
    lower = "lower" if found.shift_mm >= 0 else "higher"
    by_view = [
        ("", *XRAY_KEYS),
        ("scale (line integral)", f"{frontal.scale:.2f}", f"{lateral.scale:.2f}"),
        ("floor (of the range)", f"{frontal.floor:.3f}", f"{lateral.floor:.3f}"),
        ("gamma", f"{frontal.gamma:.2f}", f"{lateral.gamma:.2f}"),
        ("pixel size over nominal", *(f"{size:.3f}" for size in found.sizes)),
        ("shown of the detector", *(f"{100 * float(seen.mean()):.0f} %" for seen in pair.seen)),
    ]
    common = [
        ("lateral over frontal size", f"{found.sizes[1] / found.sizes[0]:.3f}"),
        (f"lateral lies {lower} by", f"{abs(found.shift_mm):.1f} mm on the detector"),
        ("both multiplied with", f"{pair.common_factor:.2f}"),
        ("scatter to primary", scatter if found.scatter_ratio >= LEAST_SCATTER else "none"),
        ("relative difference", f"{100 * consistency.difference:.2f} %"),
        ("planes that count", f"{100 * consistency.uncut:.0f} %"),
        ("distance from known pairs, usually 1", f"{pair.typical:.2f}"),
    ]
    place.axis("off")
    lines = [*by_view, *common]
    for index, (label, *values) in enumerate(lines):
        down = 1.02 - 0.077 * index
        for across, text in zip((0.0, 0.54, 0.77), (label, *values)):
            written = place.text(across, down, text, transform=place.transAxes, va="top", fontsize=SMALL)
            written.set_in_layout(False)
