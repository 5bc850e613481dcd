"""The report of a robustness evaluation and its figure: a panel for each perturbation, a line for each stage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.metrics import PSNRMetric

from ..evaluation.metrics import DEFINITIONS
from ..evaluation.perturbations import NOMINAL, Perturbation
from ..evaluation.summary import INTERVAL_DEFINITION, summarise
from ..evaluation.table_report import TableReport
from ..io.atomic_write import NOTICE, write_atomically
from ..projection.resampling import truth_at

COMBINATION = ("change", "value", "unit", "stage", "size")
ROBUSTNESS_DEFINITIONS = {
    "psnr_db": f"{DEFINITIONS['psnr_db']}; each stage at its own size, against the ground truth averaged to it",
    "psnr_change_db": f"psnr_db less that of the same case and stage under '{NOMINAL.change}'",
    "change": "the perturbation of the acquisition, which the network does not know of; the ground truth stays where "
    "it is, so that a rotated patient is scored against the unrotated one",
}
COLUMNS = 4
PANEL_INCHES = (3.1, 2.5)
ONE_WAY = "other readings of the X-rays"


def robustness_figure(summary: Sequence[dict[str, Any]]) -> Figure:
    """
    PSNR against the size of each perturbation; dashed lines are the stages under nominal acquisition. Perturbations
    that have only one size share a panel.

    Args:
        summary: entries with `change`, `value`, `unit`, `stage`, `size` and the `mean` of `psnr_db`.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    for entry in summary:
        if entry["change"] != NOMINAL.change:
            panels.setdefault(ONE_WAY if entry["value"] is None else entry["change"], []).append(entry)
    nominal = [entry for entry in summary if entry["change"] == NOMINAL.change]
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    size = (PANEL_INCHES[0] * max(2, columns), PANEL_INCHES[1] * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    cases = max(entry["cases"] for entry in summary)
    heading = f"Perturbations of the acquisition: mean PSNR of {cases} case{'s' if cases > 1 else ''}"
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
    for number, unperturbed in enumerate(nominal):
        of_stage = [entry for entry in entries if entry["stage"] == unperturbed["stage"]]
        means = [entry["psnr_db"]["mean"] for entry in of_stage]
        style = "o-" if all(isinstance(entry["value"], (int, float)) for entry in of_stage) else "o"
        place.plot(
            range(len(means)),
            means,
            style,
            color=f"C{number}",
            label=f"stage {unperturbed['stage']}, {unperturbed['size']}³",
        )
        place.axhline(unperturbed["psnr_db"]["mean"], color=f"C{number}", linestyle="--", linewidth=0.8)
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


class RobustnessReport(TableReport):
    """
    An Ignite handler that scores each stage under each perturbation and writes, when the engine has finished,
    `robustness.json` (definitions, a summary by perturbation and stage with intervals over patients, every case),
    `robustness.csv` and `robustness.png`.

    Args:
        output_dir: where to write.
        perturbations: those of :class:`PerturbedRecords`.
    """

    def __init__(self, output_dir: str, perturbations: Sequence[Perturbation]) -> None:
        super().__init__(output_dir, "robustness")
        self.perturbations, self.psnr = perturbations, PSNRMetric(max_val=1.0)

    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Every stage under the perturbation of one sample."""
        perturbation = self.perturbations[int(record["perturbation"])]
        return [
            {
                "case": record["name"],
                **{name: record[name] for name in ("patient", "group")},
                **{name: getattr(perturbation, name) for name in ("change", "value", "unit")},
                "stage": stage,
                "size": volume.shape[-1],
                "psnr_db": self.psnr(volume.clamp(0, 1), truth_at(label["ct"], volume.shape[-1])).item(),
            }
            for stage, volume in enumerate(volumes, start=1)
        ]

    def completed(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return compared(rows)

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "definitions": {**ROBUSTNESS_DEFINITIONS, **INTERVAL_DEFINITION},
            "summary": summarise(rows, COMBINATION),
        }

    def write_files(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes the figure as well."""
        super().write_files(rows)
        figure = robustness_figure(summarise(rows, COMBINATION))
        write_atomically(os.path.join(self.output_dir, "robustness.png"), figure.savefig)


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `psnr_change_db`, the difference from the nominal row of the same case and stage."""
    nominal = {(row["case"], row["stage"]): row["psnr_db"] for row in rows if row["change"] == NOMINAL.change}
    return [{**row, "psnr_change_db": row["psnr_db"] - nominal[row["case"], row["stage"]]} for row in rows]
