"""
What the cascade makes of depth that two X-rays leave open: two balls in the lungs, in either of two arrangements that
have the same projections. See depth.md.

    python benchmarks/depth.py --dataset_dir DIR [--section test] [--output OUT] [--markdown]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from monai.bundle import ConfigParser
from torch.nn.functional import conv3d

from scripts import BiplanarGeometry, IntervalTable, ProgressiveCascadeModel, load_records, sidecar_path
from scripts.anatomy.augmentation import ellipsoid
from scripts.evaluation.prediction_intervals import read_interval_table
from scripts.io.atomic_write import NOTICE, write_atomically
from scripts.projection.imaging import ImagingModel
from scripts.reporting.figures import DISPLAY_WINDOW_HU, ERROR_RANGE_HU, middle_slice
from scripts.training.checkpoints import read_checkpoint
from table import Table

Place = tuple[float, float]
"""X and Y in mm from the isocentre, in the axial plane through it."""
Crossing = tuple[int, int]
"""Which of two frontal rays, and which of two lateral rays."""

ARRANGEMENTS: dict[str, tuple[Crossing, ...]] = {"neither": (), "first": ((0, 0), (1, 1)), "second": ((0, 1), (1, 0))}
"""The crossings with a ball: the first and the second have one on each of the four rays, and none in common."""
CROSSINGS = tuple(product((0, 1), repeat=2))
STAGE = 3
LUNG_HU = -500.0
LEAST_SHARE_OF_LUNG = 0.8
STEP_MM = 10.0
COLUMNS = {
    "case": 12, "arrangement": 12, "places": 8, "truth HU": 9, "reconstructed HU": 17, "without balls HU": 17,
    "half-width HU": 14, "covered": 8,
}  # fmt: skip


@dataclass
class Case:
    """A patient in each arrangement: CTs and reconstructions in HU, `(1, S, S, S)`, and X-rays, `(2, P, P)`."""

    places: dict[Crossing, Place]
    radius_mm: float
    cts: dict[str, torch.Tensor]
    xrays: dict[str, torch.Tensor]
    volumes: dict[str, torch.Tensor]
    half_widths: dict[str, torch.Tensor]

    @property
    def difference_of_xrays(self) -> float:
        """Norm of the difference of both arrangements' X-rays, over that of the first arrangement's from neither's."""
        ours = self.xrays["second"] - self.xrays["first"]
        return float(ours.norm() / (self.xrays["first"] - self.xrays["neither"]).norm())


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = ConfigParser()
    names = ("train.json", "weights/all.json", "weights/stage3.json")
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in names])
    config["bundle_root"], config["dataset_dir"], config["stage"] = (
        str(ROOT / "bundle"),
        str(options.dataset_dir),
        STAGE,
    )
    weights = str(options.weights)
    network, imaging = (config.get_parsed_content(name) for name in ("network_def", "imaging"))
    geometry = imaging.geometry
    network.eval().up_to(STAGE).load_state_dict(read_checkpoint(weights))
    table, _ = read_interval_table(sidecar_path(weights, "uncertainty"), weights, geometry.fov_mm)
    load, datalist = config.get_parsed_content("load"), str(ROOT / "bundle" / "models" / "model_training.json")
    printed, differences = Table(COLUMNS, options.markdown), {}
    for record in load_records(datalist, options.section, str(options.dataset_dir)):
        hu = torch.as_tensor(load(record)["ct"]).as_subclass(torch.Tensor)
        places = crossings_in_lungs(hu[0], geometry, options.radius_mm)
        cts = {
            name: with_balls(hu, geometry.fov_mm, [places[ball] for ball in balls], options.radius_mm, options.ball_hu)
            for name, balls in ARRANGEMENTS.items()
        }
        xrays = {name: imaging.project(ct[None])[0] for name, ct in cts.items()}
        volumes, half_widths = reconstructed(network, table, xrays, imaging)
        case = Case(places, options.radius_mm, cts, xrays, volumes, half_widths)
        for row in rows(case, geometry.fov_mm):
            printed.add(case=record["name"], **row)
        differences[record["name"]] = case.difference_of_xrays
        figure = depth_figure(case, geometry.fov_mm, record["name"])
        write_atomically(str(options.output / f"{record['name']}.png"), figure.savefig)
    for name, difference in differences.items():
        print(f"\n{name}: the arrangements' X-rays differ by {difference:.3f} of what the balls change in them.")


def crossings(
    geometry: BiplanarGeometry, frontal_mm: Sequence[float], lateral_mm: Sequence[float]
) -> dict[Crossing, Place]:
    """
    Where two frontal rays meet two lateral ones in the axial plane through the isocentre, which holds both sources.

    Args:
        geometry: the acquisition geometry, along the axes.
        frontal_mm: X at which each frontal ray crosses the coronal plane through the isocentre.
        lateral_mm: Y at which each lateral ray crosses the sagittal plane.
    """
    magnification = geometry.magnification(0.0)

    def meeting(x: float, y: float) -> Place:
        (start, step), (other, step_of_other) = (
            [np.array(vector[:2]) for vector in geometry.ray(-across * magnification, 0.0, view)]
            for view, across in enumerate((x, y))
        )
        along, _ = np.linalg.solve(np.stack([step, -step_of_other], axis=1), other - start)
        return tuple(start + along * step)

    return {(i, j): meeting(frontal_mm[i], lateral_mm[j]) for i, j in CROSSINGS}


def crossings_in_lungs(hu: torch.Tensor, geometry: BiplanarGeometry, radius_mm: float) -> dict[Crossing, Place]:
    """
    Of the crossings of one ray through each side of the chest with two lateral rays, those whose balls have most lung,
    by the ball that has least.

    Args:
        hu: a CT, `(S, S, S)` in HU.
        geometry: its acquisition geometry.
        radius_mm: of the balls.

    Raises:
        ValueError: when there are none whose balls are all nearly in the lungs.
    """
    voxel = geometry.fov_mm / hu.shape[0]
    reach = ceil(radius_mm / voxel)
    kernel = ball(2 * reach + 1, (2 * reach + 1) * voxel, (0.0, 0.0), radius_mm)
    slab = hu.narrow(2, hu.shape[2] // 2 - reach, 2 * reach + 1)
    share = conv3d((slab < LUNG_HU).float()[None, None], kernel[None, None], padding=(reach, reach, 0))[0, 0, :, :, 0]

    def least_share(places: Iterable[Place]) -> float:
        voxels = (tuple(int((mm / geometry.fov_mm + 0.5) * len(share)) for mm in place) for place in places)
        return min(float(share[voxel]) for voxel in voxels)

    inner, outer = np.arange(50.0, 120.0, STEP_MM), np.arange(-100.0, 101.0, STEP_MM)
    lateral = [pair for pair in combinations(outer, 2) if pair[1] - pair[0] >= 4 * radius_mm]
    candidates = [crossings(geometry, (left, -right), pair) for left, right, pair in product(inner, inner, lateral)]
    best = max(candidates, key=lambda candidate: least_share(candidate.values()))
    found = least_share(best.values()) / float(kernel.sum())
    if found < LEAST_SHARE_OF_LUNG:
        raise ValueError(
            f"The middle axial slices have no place for two balls of {radius_mm} mm in either arrangement: at the best "
            f"one {found:.2f} of a ball is lung, expected {LEAST_SHARE_OF_LUNG} for each."
        )
    return best


def ball(size: int, fov_mm: float, place: Place, radius_mm: float) -> torch.Tensor:
    """The share of each voxel in a ball around a place, `(size, size, size)`."""
    middles = ((torch.arange(size) + 0.5) / size - 0.5) * fov_mm
    return ellipsoid([middles - place[0], middles - place[1], middles], torch.full((3,), radius_mm), fov_mm / size)


def with_balls(
    hu: torch.Tensor, fov_mm: float, places: Iterable[Place], radius_mm: float, ball_hu: float
) -> torch.Tensor:
    """A CT `(1, S, S, S)` in HU with balls of these HU."""
    for place in places:
        hu = torch.lerp(hu, torch.full_like(hu, ball_hu), ball(hu.shape[-1], fov_mm, place, radius_mm))
    return hu


@torch.no_grad()
def reconstructed(
    network: ProgressiveCascadeModel,
    table: IntervalTable,
    xrays: Mapping[str, torch.Tensor],
    imaging: ImagingModel,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The last stage's volume and its half-width in HU, `(1, S, S, S)`, by the name of the X-rays."""
    volumes = {name: imaging.to_hu(network(views[None])[-1].clamp(0, 1))[0] for name, views in xrays.items()}
    return volumes, {name: table.half_width(hu[None])[0] for name, hu in volumes.items()}


def rows(case: Case, fov_mm: float) -> Iterator[dict[str, Any]]:
    """Means over the voxels of the balls and over those of the empty places, in either arrangement."""
    size = case.cts["neither"].shape[-1]
    inside = {crossing: ball(size, fov_mm, place, case.radius_mm) > 0.5 for crossing, place in case.places.items()}
    for arrangement in ("first", "second"):
        truth, volume, half_width = (of[arrangement][0] for of in (case.cts, case.volumes, case.half_widths))
        balls = ARRANGEMENTS[arrangement]
        for places, chosen_crossings in {"balls": balls, "empty": set(CROSSINGS) - set(balls)}.items():
            chosen = torch.stack([inside[crossing] for crossing in chosen_crossings]).any(0)
            yield {
                "arrangement": arrangement,
                "places": places,
                "truth HU": f"{truth[chosen].mean():.0f}",
                "reconstructed HU": f"{volume[chosen].mean():.0f}",
                "without balls HU": f"{case.volumes['neither'][0][chosen].mean():.0f}",
                "half-width HU": f"{half_width[chosen].mean():.0f}",
                "covered": f"{((volume - truth).abs() <= half_width)[chosen].float().mean():.2f}",
            }


def depth_figure(case: Case, fov_mm: float, title: str) -> Figure:
    """Middle axial slices: a row for each arrangement, its balls in circles, dashed where the other has them."""
    figure = Figure(figsize=(8.2, 8.6), layout="constrained", dpi=110)
    figure.suptitle(f"{title}: two arrangements of two balls that have the same projections\n{NOTICE}", fontsize=10)
    axes = figure.subplots(len(ARRANGEMENTS), 3)
    extent = (fov_mm / 2, -fov_mm / 2, -fov_mm / 2, fov_mm / 2)
    gray = {"cmap": "gray", "vmin": DISPLAY_WINDOW_HU[0], "vmax": DISPLAY_WINDOW_HU[1]}
    heat = {"cmap": "inferno", "vmin": 0.0, "vmax": ERROR_RANGE_HU}
    for line, (arrangement, balls) in zip(axes, ARRANGEMENTS.items()):
        shown = {
            "truth": (case.cts, gray),
            "reconstruction": (case.volumes, gray),
            f"half-width, 0 to {ERROR_RANGE_HU:.0f} HU": (case.half_widths, heat),
        }
        for axis, (name, (volumes, look)) in zip(line, shown.items()):
            axis.imshow(middle_slice(volumes[arrangement][0], 2), extent=extent, **look)
            axis.set_title(name if arrangement == "neither" else "", fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
            for crossing, place in case.places.items() if balls else ():
                style = "-" if crossing in balls else ":"
                axis.add_patch(Circle(place, 1.6 * case.radius_mm, fill=False, color="tab:cyan", linestyle=style))
        line[0].set_ylabel(arrangement, fontsize=9)
    return figure


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the CTs")
    parser.add_argument("--section", default="test", help="of models/model_training.json")
    parser.add_argument("--weights", type=Path, default=ROOT / "bundle" / "models" / "model.pt")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "depth", help="for a figure of each case")
    parser.add_argument("--radius_mm", type=float, default=10.0, help="of the balls")
    parser.add_argument("--ball_hu", type=float, default=40.0)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
