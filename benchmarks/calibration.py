"""
What a pair's calibration recovers of projections of CTs that were spoiled in known ways, and what stage 1 makes of it.
See calibration.md.

    python benchmarks/calibration.py --dataset_dir DIR [--spoils gamma scatter] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import process_time

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy.ndimage import gaussian_filter
from torch.nn.functional import avg_pool3d

from scripts import Radiograph, load_records
from scripts.evaluation.metrics import volume_metrics
from scripts.io.stage_overlays import configs_of
from scripts.projection.imaging import ImagingModel
from scripts.radiographs.calibration import calibrate_pair
from scripts.radiographs.common_scale import common_factors
from scripts.radiographs.pair_statistics import (
    PairStatistics,
    figures_of_parts,
    shares_of_part,
    statistics_of,
)
from scripts.radiographs.scatter import with_scatter
from scripts.radiographs.transforms import PrepareXraysd
from scripts.training.checkpoints import read_checkpoint
from table import Table

SHOWN = 0.06
"""Fraction of the detector's side that a radiograph does not show at each border."""
SECTIONS = ("training", "validation")
BLURS_MM = (1.5, 6.0, 24.0)
"""Between which a program changes the contrast; not the bands by which the calibration looks for it."""
TRAINED = ROOT / "bundle" / "models" / "model_training.json"


@dataclass(frozen=True)
class Spoil:
    """
    What is done to both projections, in this order; a number for each view.

    Args:
        scatter: ratio and width in mm, see :mod:`scripts.radiographs.scatter`.
        gamma: of the characteristic curve.
        scale: factor of the line integrals that the curve's upper end stands for.
        floor: what the bare beam reads.
        steepness: of a sigmoid curve over the values; 0 for none.
        detail: factors of the differences between the image and its blurs, see :data:`BLURS_MM`, fine to broad.
        window: values outside are clipped.
        lower_mm: how much lower the lateral one lies.
        shown: fractions that are not shown at top, bottom, left and right, of each view.
        spacing: whether the size of a pixel is told, of each view.
    """

    scatter: tuple[float, float] | None = None
    gamma: tuple[float, float] = (1.0, 1.0)
    scale: tuple[float, float] = (1.0, 1.0)
    floor: tuple[float, float] = (0.0, 0.0)
    steepness: float = 0.0
    detail: tuple[float, ...] | None = None
    window: tuple[float, float] = (-1.0, 9.0)
    lower_mm: float = 0.0
    shown: tuple[tuple[float, ...], tuple[float, ...]] = ((SHOWN,) * 4, (SHOWN,) * 4)
    spacing: tuple[bool, bool] = (True, True)


SPOILS = {
    "none": Spoil(),
    "scale": Spoil(scale=(1.5, 0.7)),
    "gamma": Spoil(gamma=(1.4, 0.7)),
    "floor": Spoil(floor=(0.1, 0.05)),
    "window": Spoil(window=(0.03, 0.75)),
    "sigmoid": Spoil(steepness=5.0),
    "detail raised": Spoil(detail=(4.0, 1.8, 1.0, 0.7)),
    "shift": Spoil(lower_mm=12.0),
    "collimation": Spoil(shown=((0.06, 0.12, 0.1, 0.1), (0.06, 0.12, 0.1, 0.14))),
    "scatter": Spoil(scatter=(0.5, 40.0)),
    "lateral size": Spoil(shown=((SHOWN,) * 4, (0.09,) * 4), spacing=(True, False)),
    "both sizes": Spoil(spacing=(False, False)),
}


def spoiled(line_integrals: np.ndarray, spoil: Spoil, imaging: ImagingModel) -> list[Radiograph]:
    """Presentation images of a pair `(2, P, P)`; a told spacing is that in the plane through the isocentre."""
    geometry, found = imaging.geometry, []
    for view, values in enumerate(line_integrals):
        if spoil.scatter is not None:
            values = with_scatter(values, *spoil.scatter, geometry.pixel_mm)
        shown = (values.clip(min=0) / imaging.xray_scale / spoil.scale[view]) ** (1 / spoil.gamma[view])
        shown = shown + spoil.floor[view]
        if spoil.steepness:
            shown = 1 / (1 + np.exp(-spoil.steepness * (shown - 0.45)))
        if spoil.detail is not None:
            shown = _with_detail(shown, spoil.detail, geometry.pixel_mm)
        shown = np.roll(shown.clip(*spoil.window), round(view * spoil.lower_mm / geometry.pixel_mm), axis=0)
        top, bottom, left, right = (round(share * len(shown)) for share in spoil.shown[view])
        shown = shown[top : len(shown) - bottom, left : shown.shape[1] - right]
        side = geometry.pixel_mm / geometry.magnification(0.0)
        told = {"pixel_mm": (side, side), "magnification": 1.0} if spoil.spacing[view] else {}
        exposed = np.ones(shown.shape, bool)
        found.append(Radiograph("spoiled", shown.astype(np.float32), exposed, "presentation", **told))
    return found


def _with_detail(image: np.ndarray, factors: Sequence[float], pixel_mm: float) -> np.ndarray:
    blurs = [image, *(gaussian_filter(image, sigma / pixel_mm) for sigma in BLURS_MM)]
    return factors[-1] * blurs[-1] + sum(
        factor * (fine - coarse) for factor, fine, coarse in zip(factors, blurs, blurs[1:])
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = ConfigParser()
    folder = ROOT / "bundle" / "configs"
    config.read_config([str(path) for path in (folder / "train.json", *configs_of(folder / "weights", 1))])
    imaging, stage1 = config.get_parsed_content("imaging"), _network(config)
    load = config.get_parsed_content("load")
    trained = {Path(record["ct"]).name for record in json.loads(TRAINED.read_text(encoding="utf-8"))["training"]}
    records = [
        record
        for section in SECTIONS
        for record in load_records(str(folder / "split.json"), section, str(options.dataset_dir))
    ]
    cts = {Path(record["ct"]).name: plain(load(record)["ct"]) for record in records}
    pairs = {name: imaging.project(ct[None])[0].double().numpy() * imaging.xray_scale for name, ct in cts.items()}
    random = np.random.RandomState(0)
    figures = {name: figures_of_parts(pair, imaging.geometry, options.crops, random) for name, pair in pairs.items()}
    shares = {name: shares_of_part(pair, imaging.geometry, random)[None] for name, pair in pairs.items()}
    table = Table(
        {
            "spoil": 14,
            "patient": 22,
            "error": 8,
            "as it is": 9,
            "percentiles": 12,
            "alone": 6,
            "calibrated": 11,
            "s": 6,
        },
        options.markdown,
    )
    for name in options.spoils:
        differences = []
        for patient in (each for each in cts if each not in trained):
            others = statistics_of(
                *(
                    np.concatenate([rows for other, rows in known.items() if other != patient])
                    for known in (figures, shares)
                )
            )
            row, difference = _row(pairs[patient], cts[patient], SPOILS[name], imaging, stage1, others)
            table.add(spoil=name, patient=patient.removesuffix(".nii.gz"), **row)
            differences.append(difference)
        print(f"{name}: calibrated less as it is, mean {fmean(differences):+.2f} dB, worst {min(differences):+.2f}")


def _row(
    pair: np.ndarray,
    ct: torch.Tensor,
    spoil: Spoil,
    imaging: ImagingModel,
    stage1: Callable[[np.ndarray], torch.Tensor],
    statistics: PairStatistics,
) -> tuple[dict[str, float], float]:
    """What stage 1 makes of the pair as it is, of percentiles and of the calibration, and the error of the last."""
    radiographs = spoiled(pair, spoil, imaging)
    started = process_time()
    found = calibrate_pair(radiographs, imaging.geometry, statistics)
    seconds = process_time() - started
    truth = imaging.scale(avg_pool3d(ct[None], 2))

    def psnr(line_integrals: np.ndarray) -> float:
        return volume_metrics(stage1(line_integrals / imaging.xray_scale), truth, imaging)["psnr_db"]

    seen = np.where(found.seen, pair, 0.0)
    by_percentiles = PrepareXraysd(("frontal", "lateral"), imaging.geometry, imaging.xray_scale, (1, 99), (0.0, 0.7))
    former = by_percentiles(dict(zip(("frontal", "lateral"), radiographs)))
    former_pair = np.concatenate([former[key].double().numpy() for key in ("frontal", "lateral")])
    error = np.sqrt(((found.line_integrals - pair)[found.seen] ** 2).sum() / (pair[found.seen] ** 2).sum())
    row = {"error": float(error), "as it is": psnr(seen), "percentiles": psnr(former_pair * imaging.xray_scale)}
    alone = found.line_integrals / imaging.xray_scale
    factor = float(common_factors(torch.from_numpy(alone)[None], lambda xrays: stage1(xrays[0].numpy()), imaging)[0])
    row |= {"alone": psnr(found.line_integrals), "calibrated": psnr(factor * found.line_integrals), "s": seconds}
    return row, row["calibrated"] - row["as it is"]


def plain(volume: torch.Tensor) -> torch.Tensor:
    """Without a MONAI tensor's metadata."""
    return torch.as_tensor(volume).as_subclass(torch.Tensor).float()


def _network(config: ConfigParser) -> Callable[[np.ndarray], torch.Tensor]:
    network = config.get_parsed_content("network_def")
    path = ROOT / "bundle" / "models" / "stage1_best.pth"
    network.up_to(1).load_state_dict(read_checkpoint(str(path)))
    network.eval()

    @torch.no_grad()
    def stage1(xrays: np.ndarray) -> torch.Tensor:
        return network(torch.from_numpy(xrays).float()[None], stages=1)[0]

    return stage1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset_dir", type=Path, required=True, help="folder of the CTs of bundle/configs/split.json"
    )
    parser.add_argument("--spoils", nargs="+", choices=list(SPOILS), default=list(SPOILS))
    parser.add_argument(
        "--crops", type=int, default=24, help="parts shown of each CT's projections, for the statistics"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
