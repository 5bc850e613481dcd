"""
What a score says of a volume that is right when the CT was taken in another posture and breath: CTs are bent by fields
that are known, the bent one is projected and reconstructed by the shipped weights (stage 2), and that volume, and the
bent CT itself, are scored against the CT as it was.

    python benchmarks/posture.py --dataset_dir DIR lidc_0314 lidc_0003

A breath stretches the lungs' height and with it their volume by a known fraction, and moves what lies below; a tilt
rotates about the axis from left to right, and leaves all volumes as they are. A peak signal-to-noise ratio is that of
the metrics: the whole cube, HU within the window, 128³.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import PSNRMetric
from monai.transforms import Affine
from torch import Tensor
from torch.nn.functional import grid_sample

from scripts.evaluation.measurements import lungs
from scripts.evaluation.pair_scores import chest_of, pair_scores
from scripts.io.image_writer import cube_affine
from scripts.projection.attenuation import AIR_HU
from scripts.projection.imaging import ImagingModel
from scripts.projection.resampling import truth_at
from scripts.training.checkpoints import read_checkpoint
from table import Table

CONFIGS, WEIGHTS = ROOT / "bundle" / "configs", ROOT / "bundle" / "models" / "model.pt"
STAGE, SIZE = 2, 128
BREATHS = (-0.3, -0.15, 0.15)
"""Of the lungs' volume."""
DEGREES = 6.0
COLUMNS = {
    "patient": 10, "X-rays of": 14, "volume": 14, "lungs put in %": 14, "lungs error %": 13, "width error mm": 14,
    "lungs affine": 12, "lungs smooth": 12, "PSNR of it": 10, "PSNR of CT": 10,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = ConfigParser()
    config.read_config([str(CONFIGS / name) for name in ("train.json", "evaluate.json")])
    load, imaging = config.get_parsed_content("load"), config.get_parsed_content("imaging")
    network = config.get_parsed_content("network_def").eval()
    network.up_to(3).load_state_dict(read_checkpoint(str(options.weights)))
    table = Table(COLUMNS, options.markdown)
    for name in options.names:
        hu = torch.as_tensor(load({"ct": str(options.dataset_dir / f"{name}.nii.gz")})["ct"]).as_subclass(Tensor)
        for row in rows_of(hu, imaging, lambda xrays: network(xrays, stages=STAGE)[-1]):
            table.add(patient=name, **row)


@torch.no_grad()
def rows_of(
    hu: Tensor, imaging: ImagingModel, reconstruct: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, str | float]]:
    """
    The rows of a CT `(1, S, S, S)` in HU: of each change the bent CT itself, and what is reconstructed from its X-rays.
    """
    fov_mm = imaging.geometry.fov_mm
    truth = chest_of(_volume(hu, fov_mm))
    in_ct = truth_at(hu[None], SIZE)
    for change, share, bent in changed(hu, fov_mm):
        volume = imaging.to_hu(reconstruct(imaging.project(bent[None])).clamp(0, 1))[0]
        seen = truth_at(bent[None], SIZE)
        for method, found in (("bent CT", bent), ("reconstruction", volume)):
            scores = pair_scores(chest_of(_volume(found, fov_mm)), truth)
            at_size = truth_at(found[None], SIZE)
            yield {
                "X-rays of": change,
                "volume": method,
                "lungs put in %": f"{100 * share:+.0f}",
                "lungs error %": f"{100 * scores['lungs_l_error'] / scores['lungs_l_ct']:+.1f}",
                "width error mm": f"{scores['thorax_width_mm_error']:+.0f}",
                "lungs affine": f"{scores['dice_lungs_affine']:.3f}",
                "lungs smooth": f"{scores['dice_lungs_smooth']:.3f}",
                "PSNR of it": _psnr(at_size, seen, imaging),
                "PSNR of CT": _psnr(at_size, in_ct, imaging),
            }


def changed(hu: Tensor, fov_mm: float) -> Iterator[tuple[str, float, Tensor]]:
    """The CT as it is and bent: what was done, the fraction that the lungs have gained by it, and the volume."""
    yield "the CT", 0.0, hu
    for share in BREATHS:
        yield f"breath {100 * share:+.0f} %", share, breathed(hu, share, fov_mm)
    yield f"tilt {DEGREES:g}°", 0.0, tilted(hu, DEGREES)


def breathed(hu: Tensor, share: float, fov_mm: float) -> Tensor:
    """
    A CT `(1, S, S, S)` with the height of its lungs, and so their volume, changed by a fraction: each level between
    their lowest and highest one is stretched alike, what lies above stays, and what lies below moves as a whole.
    """
    size = hu.shape[-1]
    left, right = lungs(hu[0], fov_mm / size)
    levels = (left | right).any((0, 1)).nonzero()[0]
    lowest, highest = float(levels[0]) - 0.5, float(levels[-1]) + 0.5
    z = torch.arange(size, dtype=torch.float32)
    within = highest - (highest - z) / (1 + share)
    read = torch.where(z > highest, z, torch.where(within > lowest, within, z + share * (highest - lowest)))
    side = (torch.arange(size) + 0.5) / size * 2 - 1
    places = torch.meshgrid(side, side, (read + 0.5) / size * 2 - 1, indexing="ij")
    grid = torch.stack(places[::-1], -1)[None]
    return grid_sample(hu[None] - AIR_HU, grid, padding_mode="border", align_corners=False)[0] + AIR_HU


def tilted(hu: Tensor, degrees: float) -> Tensor:
    """A CT `(1, S, S, S)` rotated about the axis from left to right, with air where it does not reach."""
    rotate = Affine(rotate_params=(math.radians(degrees), 0, 0), padding_mode="zeros", image_only=True)
    return torch.as_tensor(rotate(hu - AIR_HU)).as_subclass(Tensor) + AIR_HU


def _psnr(hu: Tensor, truth: Tensor, imaging: ImagingModel) -> str:
    lowest, highest = imaging.hu_window
    value = PSNRMetric(max_val=highest - lowest)(hu.clamp(lowest, highest), truth.clamp(lowest, highest)).item()
    return f"{value:.1f}" if math.isfinite(value) else "no error"


def _volume(hu: Tensor, fov_mm: float) -> MetaTensor:
    return MetaTensor(hu, affine=cube_affine(hu.shape[-1], fov_mm))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of CTs, DIR/NAME.nii.gz")
    parser.add_argument("--dataset_dir", type=Path, required=True, metavar="DIR", help="holds the CTs")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
