"""
Whether the spread of deformed neighbours says where a reconstruction errs, next to the table of errors: intervals of
stage 2's volume for patients whom the weights have not met, the widths fitted on all but one and measured on that one,
at the mean half-width in the body at which the shipped table covers 90 % of it. See anatomy.md.

    python benchmarks/spread.py --dataset_dir DIR
    python benchmarks/spread.py --dataset_dir DIR --depth

The second asks whether the spread is wider at the balls of depth.py, whose depth two X-rays leave open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

import torch

import depth
from anatomy import CONFIGS, STAGE, Reconstruction, loaded
from scripts import IntervalTable, sidecar_path
from scripts.anatomy.body import TISSUES_HU, body_mask
from scripts.anatomy.neighbours import NEAREST, Neighbours
from scripts.evaluation.interval_calibration import coverage
from scripts.evaluation.prediction_intervals import gradient_magnitude, read_interval_table
from scripts.projection.resampling import resized, truth_at
from table import Table

UNSEEN = ("lidc_0003", "fourdlung_113_hm10395", "cmb_crc_msb_01068", "nsclcrg_r01_001", "tcga_de_a4ma", "lidc_0314")
"""Patients of the sections training and validation whom the weights of version 0.3.0 have not met."""
LEVEL = 0.9
LEAST_SPREAD_HU = 10.0
SPREAD_EDGES = (5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 180.0, 260.0)
"""HU, as many as the table has of HU/mm."""
MIN_VOXELS = 1000
PARTS = ("body", "air_and_lung", "soft", "bone")
COLUMNS = {"intervals": 34, "left out": 24, "half-width HU": 13, **dict.fromkeys(PARTS, 12), "rank corr.": 10}


@dataclass
class Patient:
    """Of one patient, `(1, 1, S, S, S)`: volume, ground truth and spread in HU, gradient in HU/mm, and the body."""

    hu: torch.Tensor
    truth: torch.Tensor
    spread: torch.Tensor
    gradient: torch.Tensor
    body: torch.Tensor

    @classmethod
    def of(cls, hu: torch.Tensor, truth: torch.Tensor, spread: torch.Tensor, fov_mm: float) -> Patient:
        return cls(hu, truth, spread, gradient_magnitude(hu, fov_mm / hu.shape[-1]), body_mask(truth))

    @property
    def error(self) -> torch.Tensor:
        return (self.hu - self.truth).abs()

    def in_body(self, values: torch.Tensor) -> torch.Tensor:
        """Every third voxel of the body, which is enough to fit widths."""
        return values[self.body][::3]


Widths = Callable[[Patient], torch.Tensor]
"""Half-widths of a patient, up to a common factor."""


def by_tissue(width: Widths, fitted_on: Sequence[Patient]) -> Widths:
    """Widths times a factor for each tissue of the reconstruction, by which 90 % of its voxels in the body are held."""
    ratios = torch.cat([each.in_body(each.error / width(each)) for each in fitted_on])
    tissues = torch.cat([each.in_body(tissue_of(each)) for each in fitted_on])
    factors = torch.stack([quantile(ratios[tissues == number]) for number in range(len(TISSUES_HU))])
    return lambda patient: width(patient) * factors[tissue_of(patient)]


def binned(
    edges: Sequence[Sequence[float]], keys: Callable[[Patient], Sequence[torch.Tensor]], fitted_on: Sequence[Patient]
) -> Widths:
    """The 90 % quantile of the error in each bin of two keys; bins with few voxels have that of their row."""
    bounds = [torch.tensor(each) for each in edges]

    def bins(patient: Patient) -> torch.Tensor:
        first, second = (torch.bucketize(key.contiguous(), bound) for key, bound in zip(keys(patient), bounds))
        return first * (len(bounds[1]) + 1) + second

    cells = torch.cat([each.in_body(bins(each)) for each in fitted_on])
    errors = torch.cat([each.in_body(each.error) for each in fitted_on])
    of_cell = torch.zeros(len(bounds[0]) + 1, len(bounds[1]) + 1)
    for row, of_row in enumerate(of_cell):
        here = cells // len(of_row) == row
        columns, found = cells[here] % len(of_row), errors[here]
        for column in range(len(of_row)):
            inside = found[columns == column]
            enough = next((each for each in (inside, found) if len(each) >= MIN_VOXELS), errors)
            of_row[column] = quantile(enough).clamp(min=1)
    return lambda patient: of_cell.flatten()[bins(patient)]


def quantile(values: torch.Tensor) -> torch.Tensor:
    """The 90 % quantile of values of any number."""
    return values.kthvalue(max(1, int(LEVEL * values.numel()))).values


def tissue_of(patient: Patient) -> torch.Tensor:
    """Which tissue the reconstruction shows, by its number."""
    return torch.bucketize(patient.hu.contiguous(), torch.tensor([high for _, high in TISSUES_HU.values()][:-1]))


def candidates(table: IntervalTable, others: Sequence[Patient]) -> Mapping[str, Widths]:
    """Each kind of interval by name, fitted on these patients; the first is the one to beat."""
    hu_edges, gradient_edges = table.hu_edges.tolist(), table.gradient_edges.tolist()

    def shipped(patient: Patient) -> torch.Tensor:
        return table.half_width(patient.hu)

    def spread(patient: Patient) -> torch.Tensor:
        return patient.spread.clamp(min=LEAST_SPREAD_HU)

    refitted = binned((hu_edges, gradient_edges), lambda patient: (patient.hu, patient.gradient), others)
    by_spread = binned((hu_edges, SPREAD_EDGES), lambda patient: (patient.hu, patient.spread), others)
    return {
        "shipped table": shipped,
        "table anew": refitted,
        "spread, a factor per tissue": by_tissue(spread, others),
        "root of table anew × spread": by_tissue(lambda patient: (refitted(patient) * spread(patient)).sqrt(), others),
        "table of HU and spread": by_spread,
        "root of both tables": lambda patient: (refitted(patient) * by_spread(patient)).sqrt(),
    }


def print_intervals(patients: Mapping[str, Patient], table: IntervalTable, printed: Table) -> None:
    """A row for each kind and left-out patient, then the means."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name, patient in patients.items():
        others = [other for each, other in patients.items() if each != name]
        shipped = table.half_width(patient.hu)
        wanted = quantile((patient.error / shipped)[patient.body]) * shipped[patient.body].mean()
        for kind, widths in candidates(table, others).items():
            half_width = widths(patient)
            half_width = half_width * wanted / half_width[patient.body].mean()
            found = coverage(patient.hu, patient.truth, half_width)
            row = {part: found["coverage"][part] for part in PARTS}
            row |= {"half-width HU": wanted.item(), "rank corr.": found["spearman"]["body"]}
            rows.setdefault(kind, []).append(row)
            printed.add(intervals=kind, **{"left out": name}, **row)
    for kind, of_kind in rows.items():
        means = {column: sum(row[column] for row in of_kind) / len(of_kind) for column in of_kind[0]}
        printed.add(intervals=kind, **{"left out": "mean"}, **means)


def print_depth(name: str, ct: torch.Tensor, reconstruct: Reconstruction, printed: Table) -> None:
    """Mean spread at the balls and at the places of the other arrangement, with and without the balls."""
    imaging, neighbours = reconstruct.imaging, neighbours_of(reconstruct, name)
    fov_mm, radius_mm = imaging.geometry.fov_mm, 10.0
    places = depth.crossings_in_lungs(ct[0, 0], imaging.geometry, radius_mm)
    for arrangement, balls in depth.ARRANGEMENTS.items():
        hu = depth.with_balls(ct[0], fov_mm, [places[ball] for ball in balls], radius_mm, 40.0)[None]
        with torch.no_grad():
            (stage1,) = reconstruct.network(imaging.project(hu), stages=1)
        mean, spread = neighbours(stage1)[0]
        for kind in ("first", "second"):
            inside = torch.stack(
                [depth.ball(len(mean), fov_mm, places[c], radius_mm) > 0.5 for c in depth.ARRANGEMENTS[kind]]
            ).any(0)
            printed.add(
                case=name,
                balls=arrangement,
                places=f"of the {kind}",
                **{
                    "truth HU": f"{resized(hu, len(mean))[0, 0][inside].mean():.0f}",
                    "stage 1 HU": f"{imaging.to_hu(resized(stage1, len(mean)))[0, 0][inside].mean():.0f}",
                    "neighbours HU": f"{imaging.to_hu(mean)[inside].mean():.0f}",
                    "spread HU": f"{hu_range(reconstruct) * spread[inside].mean():.0f}",
                },
            )


def neighbours_of(reconstruct: Reconstruction, name: str) -> Neighbours:
    """The neighbours of a patient, as inference has them."""
    baselines = reconstruct.baselines
    return Neighbours(baselines.atlas.without(name).cts, baselines.registration, baselines.imaging, NEAREST)


def hu_range(reconstruct: Reconstruction) -> float:
    """HU that the scale from 0 to 1 has."""
    lowest, highest = reconstruct.imaging.hu_window
    return highest - lowest


def measured(name: str, ct: torch.Tensor, reconstruct: Reconstruction) -> Patient:
    """Stage 2's volume of a patient, and the spread of the neighbours of stage 1's."""
    imaging = reconstruct.imaging
    with torch.no_grad():
        stage1, stage2 = reconstruct.network(imaging.project(ct), stages=STAGE)
    spread = neighbours_of(reconstruct, name)(stage1)[:, 1:]
    truth = truth_at(imaging.scale(ct), stage2.shape[-1])
    hu, hu_truth = imaging.to_hu(stage2.clamp(0, 1)), imaging.to_hu(truth)
    return Patient.of(hu, hu_truth, hu_range(reconstruct) * spread, imaging.geometry.fov_mm)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="holds the CTs of the datalist")
    parser.add_argument("--split", type=Path, default=CONFIGS / "split.json", help="datalist")
    parser.add_argument("--weights", type=Path, default=ROOT / "bundle" / "models" / "model.pt")
    parser.add_argument("--depth", action="store_true", help="the spread at the balls of depth.py instead")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    config, sections = loaded(options)
    training = {name: truth_at(ct, ct.shape[-1] // 2) for name, ct in sections("training").items()}
    reconstruct = Reconstruction(training, config, options.weights)
    if options.depth:
        columns = {"case": 20, "balls": 8, "places": 14, "truth HU": 9, "stage 1 HU": 10, "neighbours HU": 13}
        printed = Table({**columns, "spread HU": 9}, options.markdown)
        for name, ct in sections("validation").items():
            print_depth(name, ct, reconstruct, printed)
        return
    cts = {**sections("training"), **sections("validation")}
    patients = {
        name: measured(name, ct, reconstruct) for name, ct in cts.items() if name.removesuffix(".nii.gz") in UNSEEN
    }
    weights = str(options.weights)
    table, _ = read_interval_table(sidecar_path(weights, "uncertainty"), weights, reconstruct.imaging.geometry.fov_mm)
    print_intervals(patients, table, Table(COLUMNS, options.markdown))


if __name__ == "__main__":
    main()
