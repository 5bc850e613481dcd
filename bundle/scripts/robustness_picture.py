"""The picture of a robustness report: a panel for each change, a line for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .conditions import AS_TOLD
from .pictures import NOTICE

COLUMNS = 4
PANEL_INCHES = (3.1, 2.5)
ONE_WAY = "films read otherwise"


def robustness_figure(summary: Sequence[dict[str, Any]]) -> Figure:
    """
    PSNR against the size of each change; dashed lines are the stages with X-rays as the network is told. Changes that
    have only one way share a panel.

    Args:
        summary: entries with `change`, `value`, `unit`, `stage`, `size` and the `mean` of `psnr_db`.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    for entry in summary:
        if entry["change"] != AS_TOLD.change:
            panels.setdefault(ONE_WAY if entry["value"] is None else entry["change"], []).append(entry)
    nominal = [entry for entry in summary if entry["change"] == AS_TOLD.change]
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    cases = max(entry["cases"] for entry in summary)
    heading = f"X-rays taken otherwise than the network is told: mean PSNR of {cases} case{'s' if cases > 1 else ''}"
    figure.suptitle(f"{heading}\n{NOTICE}", fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, (change, entries) in zip(axes.flat, panels.items()):
        _draw(place, change, entries, nominal)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    for row in axes:
        row[0].set_ylabel("3-D PSNR, dB", fontsize=8)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(nominal), fontsize=8)
    return figure


def _draw(place: Axes, change: str, entries: Sequence[dict[str, Any]], nominal: Sequence[dict[str, Any]]) -> None:
    for number, told in enumerate(nominal):
        of_stage = [entry for entry in entries if entry["stage"] == told["stage"]]
        means = [entry["psnr_db"]["mean"] for entry in of_stage]
        style = "o-" if all(isinstance(entry["value"], (int, float)) for entry in of_stage) else "o"
        place.plot(range(len(means)), means, style, color=f"C{number}", label=f"stage {told['stage']}, {told['size']}³")
        place.axhline(told["psnr_db"]["mean"], color=f"C{number}", linestyle="--", linewidth=0.8)
    place.set_xticks(range(len(of_stage)), [_label(entry) for entry in of_stage], fontsize=7)
    place.set_xlim(-0.5, len(of_stage) - 0.5)
    place.tick_params(axis="y", labelsize=7)
    place.grid(axis="y", linewidth=0.3)
    place.set_title(fill(change, 42), fontsize=8)
    place.set_xlabel("" if change == ONE_WAY else of_stage[0]["unit"], fontsize=8)


def _label(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return fill(entry["change"], 16)
    if isinstance(entry["value"], str):
        return entry["value"]
    return f"{entry['value']:.0e}" if entry["value"] >= 1e4 else f"{entry['value']:g}"
