"""The assessment of a reconstruction without a CT: its file and its figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.transforms import Transform

from ..evaluation.checklist import Finding
from ..evaluation.pair_assessment import PairAssessment, assess_pair
from ..io.atomic_write import NOTICE, remove_earlier, write_atomically, write_json
from ..io.radiograph import XRAY_KEYS
from ..projection.imaging import ImagingModel

CONTENT = "assessment.json"
ASSESSMENT_FILES = (CONTENT, "assessment.png")
FIGURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "consistency_before_calibration": lambda content: content["consistency"]["before_calibration"],
    "consistency_after_calibration": lambda content: content["consistency"]["after_calibration"],
    "consistency_as_reconstructed": lambda content: content["consistency"]["as_reconstructed"],
    "reprojection_mae_frontal": lambda content: content["reprojection"]["frontal"]["mae"],
    "reprojection_mae_lateral": lambda content: content["reprojection"]["lateral"]["mae"],
    "lung_dice": lambda content: content["lung_fields"]["dice"],
    "lung_contour_mm": lambda content: content["lung_fields"]["contour_distance_mm"],
    "rules_passed": lambda content: content["checklist"]["passed"],
    "rules_failed": lambda content: " ".join(
        rule["key"] for rule in content["checklist"]["rules"] if not rule["passed"]
    ),
}
"""Columns of a table of assessments, and what of an `assessment.json` stands in each."""
INCHES = (16.0, 8.2)
COLOURS = ("#56b4e9", "#e69f00")
"""Of the radiograph's and the reprojection's lung fields: told apart with every colour vision (Okabe and Ito, 2008)."""
LARGEST_SHOWN = 99.8
"""Percentile of the line integrals that is shown white, on one scale for all."""
DIFFERENCE_SHOWN = 0.4
"""Of that: the difference that is shown in full colour."""
PASSED, FAILED = "#006d2c", "#b00000"


class SaveAssessmentd(Transform):
    """
    Writes `assessment.json` and `assessment.png`, see :func:`~scripts.evaluation.pair_assessment.assess_pair`. Those of
    an earlier run go first.

    Args:
        output_dir: where to.
        imaging: scales and nominal geometry.

    Raises:
        OutputError: when a result cannot be written.
    """

    def __init__(self, output_dir: str, imaging: ImagingModel) -> None:
        self.output_dir, self.imaging = output_dir, imaging

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        content, picture = (os.path.join(self.output_dir, name) for name in ASSESSMENT_FILES)
        remove_earlier(content)
        remove_earlier(picture)
        found = assess_pair(record, self.imaging)
        write_atomically(picture, assessment_figure(found).savefig)
        write_json(content, found.content)
        return dict(record)


def figures_of(content: Mapping[str, Any] | None) -> dict[str, Any]:
    """The :data:`FIGURES` of an `assessment.json`; None for each where there is no such file."""
    return {name: None if content is None else of(content) for name, of in FIGURES.items()}


def assessment_figure(found: PairAssessment) -> Figure:
    """
    Of each view the radiograph, the reprojection on the same grey scale, and the one less the other, tinted where the
    radiograph shows nothing, with both lung fields outlined on the frontal ones; the checklist beside.
    """
    figure = Figure(figsize=INCHES, layout="constrained", dpi=110)
    figure.suptitle(f"Assessment without a CT\n{NOTICE}", fontsize=10)
    images, words = figure.subfigures(1, 2, width_ratios=(1.55, 1.0))
    axes = images.subplots(len(XRAY_KEYS), 3)
    highest = float(np.percentile(found.line_integrals[found.seen], LARGEST_SHOWN)) if found.seen.any() else 1.0
    for view, (row, name) in enumerate(zip(axes, XRAY_KEYS)):
        error = found.content["reprojection"][name]
        shown = [found.line_integrals[view], found.reprojection[view]]
        titles = (f"{name}, {found.geometry.views[view]}: as reconstructed from", "reprojection")
        for place, image, title in zip(row, shown, titles):
            grey = place.imshow(image, cmap="gray", vmin=0, vmax=highest)
            place.set_title(title, fontsize=9)
        reach = DIFFERENCE_SHOWN * highest
        signed = row[2].imshow(shown[1] - shown[0], cmap="RdBu_r", vmin=-reach, vmax=reach)
        row[2].set_title(f"reprojection less radiograph, MAE {_number(error['mae'], 2)}", fontsize=9)
        for place in row:
            _finish(place, found, view)
    bar = {"location": "bottom", "shrink": 0.6, "aspect": 40, "pad": 0.01}
    images.colorbar(grey, ax=axes[:, :2], label="line integral ∫μ dl (no unit)", **bar)
    images.colorbar(signed, ax=axes[:, 2:], label="difference", **bar)
    _show_checklist(words.subplots(), found.findings, found.content["lung_fields"])
    return figure


def _finish(place: Axes, found: PairAssessment, view: int) -> None:
    tint = np.zeros((*found.seen[view].shape, 4))
    tint[~found.seen[view]] = (0.94, 0.63, 0.0, 0.25)
    place.imshow(tint, interpolation="nearest")
    if view == 0:
        for mask, colour, width, style in zip(found.fields, COLOURS, (2.4, 1.4), ("solid", "dashed")):
            if mask.any():
                place.contour(mask, [0.5], colors=colour, linewidths=width, linestyles=style)
    place.set_xticks([])
    place.set_yticks([])


def _show_checklist(place: Axes, findings: list[Finding], lungs: Mapping[str, float | None]) -> None:
    place.axis("off")
    place.set_xlim(0, 1)
    place.set_ylim(len(findings) + 4.2, -1.2)
    passed = sum(each.passed for each in findings)
    place.text(0, -0.6, f"Checklist: {passed} of {len(findings)} rules hold", fontsize=11, weight="bold")
    for line, each in enumerate(findings):
        colour, mark = (PASSED, "passed") if each.passed else (FAILED, "FAILED")
        place.text(0, line + 0.5, mark, fontsize=8, color=colour, weight="bold")
        place.text(0.12, line + 0.5, each.rule.sentence.partition(":")[0], fontsize=8, parse_math=False)
        unit = f" {each.rule.unit}" if each.rule.unit else ""
        value = "not readable" if each.value is None else f"{each.value:.3g}{unit}"
        place.text(0.74, line + 0.5, value, fontsize=8, color=colour, ha="right")
        place.text(0.76, line + 0.5, f"expected {each.rule.limits}", fontsize=7.5, color="0.35")
    for line, (of, colour) in enumerate(zip(("radiograph", "reprojection"), COLOURS)):
        place.text(0, len(findings) + 1.5 + line, f"lung fields of the {of}", fontsize=9, color=colour, weight="bold")
    said = f"Dice {_number(lungs['dice'], 3)}, contours {_number(lungs['contour_distance_mm'], 1)} mm apart"
    place.text(0, len(findings) + 3.5, f"{said}; tinted: not shown by the radiograph", fontsize=9)


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
