"""The report of planted lesions and its figure: what each method keeps of them, by diameter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..evaluation.anatomy_baselines import AnatomyBaselines
from ..evaluation.lesion_filter import FALSE_HU, SURROUNDING, LungFilter, Response, of_lesion
from ..evaluation.lesions import LEFT, PlantedRecords
from ..evaluation.summary import INTERVAL_DEFINITION, summarise
from ..evaluation.table_report import TableReport
from ..io.atomic_write import NOTICE, write_atomically
from ..projection.imaging import ImagingModel
from ..projection.resampling import resized, truth_at

VISIBLE = 5.0
"""Detectability from which a lesion counts as visible: Rose's criterion (1948, J. Opt. Soc. Am. 38, 196-208)."""
TRUTH = "ground truth"
ZONES = ("lower", "middle", "upper")
LESION_DEFINITIONS = {
    "diameter_mm, hu": "of the ball that was planted in a lung",
    "side, zone": "the lung, and the third of the lungs' height, in which it lies",
    "retained": "the factor c that brings c times the change of the ground truth nearest to the change of the volume, "
    "around the lesion: 1 for all of its contrast at its place, 0 for nothing",
    "response_hu": "of the matched filter, mean over the ball less the mean over its surrounding up to "
    f"{SURROUNDING:g} diameters, to the change of the volume at the lesion",
    "detectability": "response_hu over the standard deviation of the filter's response to the volume without lesions, "
    "over all places in the lungs where a lesion of this diameter fits",
    "false_lesions": "structures in the lungs of the volume without lesions that the filter of this diameter answers "
    f"by at least {FALSE_HU:g} HU more than in the ground truth",
    "size": "voxels a side of the method's volume; each is brought to the size of the ground truth before it is read",
    "smallest_visible_mm": "least diameter from which on the mean detectability is at least "
    f"{VISIBLE:g}; null for none",
}


class LesionReport(TableReport):
    """
    An Ignite handler that compares each case with lesions with the same case without and writes, when the engine has
    finished, `lesions.json` (definitions, summaries with intervals over patients, every lesion), `lesions.csv` and
    `lesions.png`. Needs batches of one in the order of the dataset.

    Methods are the stages, the ground truth at their sizes, which is what a perfect stage could keep, and what an atlas
    makes of other patients.

    Args:
        output_dir: where to write.
        imaging: scales.
        dataset: what is scored.
        anatomy: makes the rows of other patients; None for none.
    """

    def __init__(
        self,
        output_dir: str,
        imaging: ImagingModel,
        dataset: PlantedRecords,
        anatomy: AnatomyBaselines | None = None,
    ) -> None:
        super().__init__(output_dir, "lesions")
        self.imaging, self.dataset, self.anatomy = imaging, dataset, anatomy
        self.without: dict[str, tuple[int, np.ndarray]] = {}
        """Of the present case without lesions: each method's size and volume."""
        self.filters: dict[float, LungFilter] = {}
        self.responses: dict[tuple[str, float], Response] = {}

    def case_rows(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A row for each lesion and method; none for the case without lesions."""
        methods = self._methods(record, volumes, label)
        lungs = torch.as_tensor(record["lungs"]).cpu().numpy()
        kind = int(record["lesion"])
        if kind < 0:
            self.without, self.filters, self.responses = methods, {}, {}
            return []
        lesion = self.dataset.kinds[kind]
        planted = methods[TRUTH][1] - self.without[TRUTH][1]
        return [
            {
                **{name: record[name] for name in ("patient", "group")},
                "case": record["name"],
                "diameter_mm": lesion.diameter_mm,
                "hu": lesion.hu,
                **_where(place, lungs, self.dataset.fov_mm),
                "method": method,
                "size": size,
                **self._scores(method, volume, planted, place, lesion.diameter_mm, lungs),
            }
            for place in torch.as_tensor(record["places_mm"]).cpu().numpy()
            for method, (size, volume) in methods.items()
        ]

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        by_diameter = summarise(rows, ("method", "size", "diameter_mm"))
        return {
            "definitions": {**LESION_DEFINITIONS, **INTERVAL_DEFINITION},
            "left_out": self.dataset.left_out,
            "smallest_visible_mm": smallest_visible(by_diameter),
            "summary": by_diameter,
            "by_hu": summarise(rows, ("method", "size", "diameter_mm", "hu")),
            "by_zone": summarise(rows, ("method", "size", "diameter_mm", "zone")),
        }

    def write_files(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes the figure as well."""
        super().write_files(rows)
        figure = lesion_figure(summarise(rows, ("method", "size", "diameter_mm")))
        write_atomically(os.path.join(self.output_dir, "lesions.png"), figure.savefig)

    def _methods(
        self, record: dict[str, Any], volumes: Sequence[torch.Tensor], label: dict[str, Any]
    ) -> dict[str, tuple[int, np.ndarray]]:
        truth = label["ct"]
        found = {f"stage {stage}": volume for stage, volume in enumerate(volumes, start=1)}
        if self.anatomy is not None:
            found |= self.anatomy.of_case(volumes, label["xrays"], label["geometry"], record["patient"])
        sizes = {volume.shape[-1] for volume in volumes} - {truth.shape[-1]}
        found |= {f"{TRUTH} at {size}³": truth_at(truth, size) for size in sorted(sizes)}
        found[TRUTH] = truth
        return {name: (volume.shape[-1], self._hu(volume, truth.shape[-1])) for name, volume in found.items()}

    def _hu(self, volume: torch.Tensor, size: int) -> np.ndarray:
        return self.imaging.to_hu(resized(volume.clamp(0, 1), size))[0, 0].cpu().float().numpy()

    def _scores(
        self,
        method: str,
        volume: np.ndarray,
        planted: np.ndarray,
        place: np.ndarray,
        diameter: float,
        lungs: np.ndarray,
    ) -> dict[str, float]:
        before, fov = self.without[method][1], self.dataset.fov_mm
        if diameter not in self.filters:
            self.filters[diameter] = LungFilter(self.without[TRUTH][1], lungs > 0, diameter, fov)
        if (method, diameter) not in self.responses:
            self.responses[method, diameter] = self.filters[diameter].response(before)
        found = of_lesion(volume - before, planted, place, diameter, fov)
        usual = self.responses[method, diameter]
        detectability = found["response_hu"] / usual.deviation_hu if usual.deviation_hu else float("nan")
        return {**found, "detectability": detectability, "false_lesions": float(usual.false_lesions)}


def smallest_visible(summary: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """For each method the least diameter from which on the mean detectability is at least :data:`VISIBLE`."""
    found: dict[str, float | None] = {}
    ended: set[str] = set()
    for entry in sorted(summary, key=lambda entry: -entry["diameter_mm"]):
        method = entry["method"]
        if not entry["detectability"]["mean"] >= VISIBLE:  # also where it is not a number
            ended.add(method)
        found[method] = found.get(method) if method in ended else entry["diameter_mm"]
    return found


def lesion_figure(summary: Sequence[dict[str, Any]]) -> Figure:
    """
    Retained contrast, detectability and false lesions against the diameter, a line for each method.

    Args:
        summary: entries with `method`, `diameter_mm`, and `mean`, `low` and `high` of the three.
    """
    methods = list(dict.fromkeys(entry["method"] for entry in summary))
    figure = Figure(figsize=(11.5, 4.2), layout="constrained", dpi=110)
    cases = max(entry["patients"] for entry in summary)
    figure.suptitle(f"Balls planted in the lungs of {cases} patient{'s' if cases > 1 else ''}\n{NOTICE}", fontsize=10)
    panels = {
        "retained": "contrast that is retained",
        "detectability": "detectability by the matched filter",
        "false_lesions": "false lesions a patient",
    }
    axes = figure.subplots(1, len(panels))
    for place, (name, title) in zip(axes, panels.items()):
        for number, method in enumerate(methods):
            entries = [entry for entry in summary if entry["method"] == method]
            diameters = [entry["diameter_mm"] for entry in entries]
            style = {"color": f"C{number}", "linestyle": "--" if method.startswith(TRUTH) else "-"}
            place.plot(diameters, [entry[name]["mean"] for entry in entries], marker="o", ms=4, label=method, **style)
        place.set_title(title, fontsize=9)
        place.set_xlabel("diameter, mm", fontsize=8)
        place.set_xticks(sorted({entry["diameter_mm"] for entry in summary}))
        place.tick_params(labelsize=7)
        place.grid(linewidth=0.3)
    axes[0].axhline(0, color="black", linewidth=0.6)
    axes[1].axhline(VISIBLE, color="black", linewidth=0.8, linestyle=":")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _where(place_mm: np.ndarray, lungs: np.ndarray, fov_mm: float) -> dict[str, str]:
    at = np.floor((place_mm / fov_mm + 0.5) * len(lungs)).astype(int)
    levels = np.flatnonzero(lungs.any((0, 1)))
    share = (at[2] - levels[0]) / (levels[-1] + 1 - levels[0])
    return {"side": "left" if lungs[tuple(at)] == LEFT else "right", "zone": ZONES[min(int(share * 3), 2)]}
