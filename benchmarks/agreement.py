"""
How far the bundle's projector and its peers agree on a real chest CT; `python benchmarks/agreement.py` prints it.

Two projections are compared by their normalised RMS difference, the RMS of the difference over the RMS of the second,
and by Pearson's correlation over all pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from monai.transforms import Compose, Orientationd

from peers import Projector, beam, diffdrr_siddon, nanodrr, rtk_joseph
from scripts import BiplanarGeometry, LoadCTd, ResampleToCubed, demo_ct, hu_to_attenuation, project

OURS, SIDDON, NANODRR, RTK = "this bundle", "DiffDRR Siddon", "nanodrr torch, 256 samples", "RTK Joseph"
PEERS: dict[str, Projector] = {
    SIDDON: partial(diffdrr_siddon, rays=2**13),
    NANODRR: partial(nanodrr, samples=256),
    RTK: rtk_joseph,
}


def chest_attenuation(size: int, fov_mm: float = 360.0) -> torch.Tensor:
    """The chest CT of the demo, loaded as in training: attenuation in 1/mm, `(1, 1, size, size, size)`."""
    transforms = [
        LoadCTd("ct"),
        Orientationd("ct", axcodes="RAS", labels=None),
        ResampleToCubed("ct", size, fov_mm),
    ]
    return hu_to_attenuation(Compose(transforms)({"ct": demo_ct()})["ct"].as_tensor())[None]


def normalised_rms_difference(projection: torch.Tensor, reference: torch.Tensor) -> float:
    """RMS(projection - reference) / RMS(reference), over all pixels."""
    return float((projection.double() - reference.double()).norm() / reference.double().norm())


def correlation(projection: torch.Tensor, reference: torch.Tensor) -> float:
    """Pearson's, over all pixels."""
    return float(torch.corrcoef(torch.stack([projection.double().flatten(), reference.double().flatten()]))[0, 1])


def projections(
    mu: torch.Tensor, geometry: BiplanarGeometry, peers: dict[str, Projector], rows: slice = slice(None)
) -> list[dict[str, torch.Tensor]]:
    """For each view, some rows of the projection by every projector, ours first."""
    ours = project(mu, geometry)[0]
    beams = [beam(geometry, view).rows(rows) for view in range(2)]
    return [
        {OURS: ours[view, rows]} | {name: peer(mu, geometry.fov_mm, beams[view]) for name, peer in peers.items()}
        for view in range(2)
    ]


def compared(views: list[dict[str, torch.Tensor]]) -> Iterator[tuple[int, str, str, float, float]]:
    """View, two projectors, normalised RMS difference and correlation, for every pair."""
    for view, by_name in enumerate(views):
        for first, second in combinations(by_name, 2):
            pair = by_name[first], by_name[second]
            yield view, first, second, normalised_rms_difference(*pair), correlation(*pair)


def table(views: list[dict[str, torch.Tensor]], names: tuple[str, str]) -> str:
    """The comparison as Markdown."""
    lines = ["| view | projector | against | normalised RMS difference | correlation |", "|---|---|---|---|---|"]
    for view, first, second, difference, agreement in compared(views):
        lines.append(f"| {names[view]} | {first} | {second} | {difference:.4%} | {agreement:.7f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along a side; a projection has twice as many")
    size = parser.parse_args().size
    geometry = BiplanarGeometry(detector_pixels=2 * size)
    print(f"Chest CT LIDC-IDRI-0001, {size}³ voxels to {2 * size}² pixels\n")
    print(table(projections(chest_attenuation(size), geometry, PEERS), geometry.views))


if __name__ == "__main__":
    main()
