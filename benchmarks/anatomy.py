"""
What other people's bodies are worth without any training: each CT of the section `training` is registered to stage 1's
volume of a patient of another section, deformed, averaged, and joined with stage 2's volume.

    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --section validation
    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --section validation --disease --output OUT
    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --pairs 12
    python benchmarks/anatomy.py --dataset_dir DIR --split SPLIT.json --counts 4 6 8 10

The second says how dense each row is where the upper lobe of the right lung is diseased, and shows it. The third
registers training patients to each other and says how close they come, in how much CPU time, and whether anything
folds: the smallest determinant of the Jacobian, between neighbouring voxels at 64³, has to be positive. The fourth says
how many neighbours serve: for each training patient that the weights have not met, and those of the section, the other
training patients are the neighbours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]
from monai.bundle import ConfigParser
from tqdm import tqdm

from scripts.anatomy.atlas import Atlas
from scripts.anatomy.body import TISSUES_HU, body_mask
from scripts.anatomy.neighbours import Neighbours
from scripts.anatomy.registration import windowed
from scripts.evaluation.anatomy_baselines import MEAN, SHAPES, STAGE, AnatomyBaselines
from scripts.evaluation.metrics import volume_metrics
from scripts.io.atomic_write import NOTICE, write_atomically
from scripts.projection.imaging import ImagingModel
from scripts.projection.resampling import resized, truth_at, upsample
from scripts.training.checkpoints import read_checkpoint
from table import Table

CONFIGS = ROOT / "bundle" / "configs"
DETERMINANTS_SIZE = 64
METRICS = {
    "psnr_db": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "mae_hu": ("MAE HU", 1),
    "sharp_correlation_body": ("corr.", 2),
    "sharp_energy_body": ("energy", 2),
    "false_energy_body": ("false", 2),
    "false_energy_air_and_lung": ("false, lung", 2),
    "false_energy_soft": ("false, soft", 2),
    "false_energy_bone": ("false, bone", 2),
}
COUNTS = {"CPU s": 0, "mean PSNR dB": 2, "mean SSIM": 3, "joined PSNR dB": 2, "joined SSIM": 3}
"""Columns of the numbers of neighbours, and their places."""
"""Headings and decimal places of what is printed."""
LUNG_HU = -500.0
OPENING_MM = 8.0
TRUTH, REFINED = "ground truth", "stage 2"
SHOWN_HU = (-1000.0, 300.0)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config, cts_of = loaded(options)
    cts = cts_of("training")
    training = {name: truth_at(ct, ct.shape[-1] // 2) for name, ct in cts.items()}
    if options.pairs:
        print_pairs(training, config, options)
    elif options.counts:
        print_counts(training, cts | cts_of(options.section), config, options)
    else:
        print_rows(training, cts_of(options.section), config, options)


def loaded(options: argparse.Namespace) -> tuple[ConfigParser, Callable[[str], dict[str, torch.Tensor]]]:
    """The configs, and what gives a section's CTs in HU, `(1, 1, S, S, S)`, by name; of `dataset_dir` and `split`."""
    config = ConfigParser()
    config.read_config([str(CONFIGS / name) for name in ("train.json", "evaluate.json")])
    sections = json.loads(options.split.read_text(encoding="utf-8"))
    load = config.get_parsed_content("load")

    def cts_of(section: str) -> dict[str, torch.Tensor]:
        paths = [options.dataset_dir / record["ct"] for record in sections[section]]
        found = {path.name: load({"ct": str(path)})["ct"] for path in tqdm(paths, desc=f"Loading {section}")}
        return {name: torch.as_tensor(ct).as_subclass(torch.Tensor)[None] for name, ct in found.items()}

    return config, cts_of


def print_pairs(training: dict[str, torch.Tensor], config: ConfigParser, options: argparse.Namespace) -> None:
    """A row for each pair, evenly chosen of all, and their means."""
    register = config.get_parsed_content("registration")
    pairs = list(permutations(training, 2))
    chosen = pairs[:: max(1, len(pairs) // options.pairs)][: options.pairs]
    columns = {"moving": 34, "fixed": 34, "before": 8, "after": 8, "CPU s": 6, "det": 6}
    table, rows = Table(columns, options.markdown), []
    for moving, fixed in chosen:
        started = process_time()
        deformation, _ = register(training[moving], training[fixed])
        seconds = process_time() - started
        after = difference(deformation.warp(training[moving], training[fixed].shape[-1]), training[fixed])
        found = {
            "before": difference(training[moving], training[fixed]),
            "after": after,
            "CPU s": seconds,
            "det": deformation.determinants(DETERMINANTS_SIZE).min().item(),
        }
        rows.append(found)
        table.add(moving=moving, fixed=fixed, **found)
    table.add(moving="mean", **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]})


def print_counts(
    training: dict[str, torch.Tensor],
    cts: dict[str, torch.Tensor],
    config: ConfigParser,
    options: argparse.Namespace,
) -> None:
    """A row for each patient and number of neighbours, and the means over the patients."""
    imaging, network = network_of(config, options.weights)
    register = config.get_parsed_content("registration")
    met = json.loads((options.weights.parent / f"{options.weights.stem}_training.json").read_text(encoding="utf-8"))
    strangers = cts.keys() - {record["ct"] for record in met["training"]}
    table = Table({"patient": 34, "neighbours": 10, **dict.fromkeys(COUNTS, 14)}, options.markdown)
    found: dict[int, list[dict[str, float]]] = {count: [] for count in options.counts}
    for name in sorted(strangers):
        xrays, truth = imaging.project(cts[name]), truth_at(imaging.scale(cts[name]), imaging.volume_size(STAGE))
        with torch.no_grad():
            (guess,) = network(xrays, stages=1)
        others = torch.cat([ct for other, ct in training.items() if other != name])
        for count, rows in found.items():
            neighbours, started = Neighbours(others, register, imaging, count), process_time()
            mean = neighbours(guess)[:, :1]
            row = {"CPU s": process_time() - started}
            for method, volume in (("mean", mean), ("joined", neighbours.joined(mean, guess, xrays))):
                scores = volume_metrics(volume.clamp(0, 1), truth, imaging)
                row |= {f"{method} PSNR dB": scores["psnr_db"], f"{method} SSIM": scores["ssim"]}
            rows.append(row)
            table.add(patient=name, neighbours=count, **_counted(row))
    for count, rows in found.items():
        means = {column: sum(row[column] for row in rows) / len(rows) for column in COUNTS}
        table.add(patient="mean", neighbours=count, **_counted(means))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean square of the difference at 48³, in the windows of the registration."""
    return (resized(windowed(one), 48) - resized(windowed(other), 48)).square().mean().item()


def print_rows(
    training: dict[str, torch.Tensor],
    unseen: dict[str, torch.Tensor],
    config: ConfigParser,
    options: argparse.Namespace,
) -> None:
    """A row for each patient and method, and the means over the patients; or what becomes of disease."""
    reconstruct = Reconstruction(training, config, options.weights)
    headings = [heading for heading, _ in METRICS.values()]
    columns = ["mean HU", "replaced"] if options.disease else headings
    table = Table({"patient": 34, "method": 34, **dict.fromkeys(columns, 11)}, options.markdown)
    found: dict[str, list[dict[str, float]]] = {}
    for name, ct in unseen.items():
        truth, volumes = reconstruct(name, ct)
        if options.disease:
            print_disease(name, truth, volumes, reconstruct.imaging, table, options.output)
            continue
        for method, volume in volumes.items():
            row = volume_metrics(volume.clamp(0, 1), truth, reconstruct.imaging)
            found.setdefault(method, []).append(row)
            table.add(patient=name, method=method, **_rounded(row))
    for method, rows in found.items():
        means = {metric: sum(row[metric] for row in rows) / len(rows) for metric in METRICS}
        table.add(patient="mean", method=method, **_rounded(means))


def network_of(config: ConfigParser, weights: Path) -> tuple[ImagingModel, torch.nn.Module]:
    """The imaging model of the config, and its network with the weights."""
    network = config.get_parsed_content("network_def").eval()
    network.up_to(3).load_state_dict(read_checkpoint(str(weights)))
    return config.get_parsed_content("imaging"), network


class Reconstruction:
    """
    What the weights and other people's bodies make of a patient.

    Args:
        training: CTs of other patients in HU, `(1, 1, S, S, S)`, by patient.
        config: has `imaging`, `registration` and `network_def`.
        weights: of the network.
    """

    def __init__(self, training: dict[str, torch.Tensor], config: ConfigParser, weights: Path) -> None:
        self.imaging, self.network = network_of(config, weights)
        cts, records = torch.cat(list(training.values())), [{"patient": name} for name in training]
        atlas = Atlas(cts, records, self.imaging.geometry.fov_mm)
        self.baselines = AnatomyBaselines(atlas, config.get_parsed_content("registration"), self.imaging)

    @torch.no_grad()
    def __call__(self, name: str, ct: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The ground truth and each method's volume at stage 2's size, scaled, of a patient's CT in HU."""
        truth = truth_at(self.imaging.scale(ct), self.imaging.volume_size(STAGE))
        xrays = self.imaging.project(ct)
        stages = self.network(xrays, stages=STAGE)
        started = process_time()
        anatomy = self.baselines.of_case(stages, xrays, self.imaging.geometry, name)
        print(f"{name}: {process_time() - started:.0f} s of CPU for what an atlas makes of it", file=sys.stderr)
        return truth, {"upsampled stage 1": upsample(stages[0]), REFINED: stages[1], **anatomy}


def print_disease(
    name: str,
    truth: torch.Tensor,
    volumes: dict[str, torch.Tensor],
    imaging: ImagingModel,
    table: Table,
    output: Path,
) -> None:
    """
    Each row's mean HU where the right upper lobe is dense, and how much of its density is replaced by lung: the
    difference from the ground truth, over that of the ground truth from the lung of the other side.
    """
    in_hu = {method: imaging.to_hu(volume.clamp(0, 1))[0, 0] for method, volume in {TRUTH: truth, **volumes}.items()}
    diseased, healthy = diseased_region(in_hu[TRUTH], imaging.geometry.fov_mm)
    dense, lung = in_hu[TRUTH][diseased].mean().item(), in_hu[TRUTH][healthy].mean().item()
    for method, hu in in_hu.items():
        mean = hu[diseased].mean().item()
        replaced = f"{(dense - mean) / (dense - lung):.2f}"
        table.add(patient=name, method=method, **{"mean HU": f"{mean:.0f}", "replaced": replaced})
    millilitres = diseased.sum().item() * (imaging.geometry.fov_mm / len(diseased)) ** 3 / 1000
    print(f"{name}: {millilitres:.0f} ml are diseased; the lung of the other side has {lung:.0f} HU")
    joined = next(method for method in volumes if method.startswith(f"joined with {REFINED}"))
    shown = {method: in_hu[method] for method in (TRUTH, REFINED, MEAN, joined, SHAPES)}
    figure = disease_figure(shown, diseased, f"{name.split('.')[0]}, right upper lobe, coronal")
    write_atomically(str(output / f"{name.split('.')[0]}_disease.png"), figure.savefig)


def diseased_region(hu: torch.Tensor, fov_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Where the right lung would be, were it the mirror image of the left one, and soft tissue is: in the upper half of
    the left lung's height, opened by a ball of :data:`OPENING_MM`, the largest component.

    Args:
        hu: a CT, `(S, S, S)`, RAS+; its plane of symmetry is that of its bones' mean.
        fov_mm: its side.

    Returns:
        Masks of that region and of its mirror image in the left lung.
    """
    body = body_mask(hu[None, None])[0, 0]
    _, highest = TISSUES_HU["soft"]
    twice_the_middle = round(2 * torch.nonzero(body & (hu > highest))[:, 0].double().mean().item())
    side = np.arange(len(hu))
    left = _largest(((hu < LUNG_HU) & body).numpy() & (side[:, None, None] < twice_the_middle / 2))
    heights = np.flatnonzero(left.any((0, 1)))
    upper = side > (heights[0] + heights[-1]) / 2
    mirrored = _mirrored(left, twice_the_middle)
    dense = mirrored & upper & ((hu > LUNG_HU) & (hu <= highest)).numpy()
    reach = round(OPENING_MM / fov_mm * len(hu))
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3))
    diseased = _largest(ndimage.binary_opening(dense, (offsets**2).sum(0) <= reach**2))
    return torch.from_numpy(diseased), torch.from_numpy(_mirrored(diseased, twice_the_middle) & left)


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(mask)
    return parts == np.bincount(parts.flat)[1:].argmax() + 1


def _mirrored(mask: np.ndarray, twice_the_middle: int) -> np.ndarray:
    """Each voxel's along X is that of the other side; false where there is none."""
    places = twice_the_middle - np.arange(len(mask))
    inside = ((places >= 0) & (places < len(mask)))[:, None, None]
    return mask[places.clip(0, len(mask) - 1)] & inside


def disease_figure(volumes: dict[str, torch.Tensor], region: torch.Tensor, title: str) -> Figure:
    """The coronal slice with most of a region, which is outlined, of volumes in HU, `(S, S, S)`."""
    place = int(region.sum((0, 2)).argmax())
    figure = Figure(figsize=(2.4 * len(volumes), 3.0), layout="constrained", dpi=65)
    figure.suptitle(f"{title}\n{NOTICE}", fontsize=9)
    for axis, (name, hu) in zip(figure.subplots(1, len(volumes)), volumes.items()):
        axis.imshow(_as_seen(hu[:, place]), cmap="gray", vmin=SHOWN_HU[0], vmax=SHOWN_HU[1])
        axis.contour(_as_seen(region[:, place]), [0.5], colors="tab:red", linewidths=0.8)
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    return figure


def _as_seen(coronal: torch.Tensor) -> torch.Tensor:
    return coronal.flip(0, 1).T


def _rounded(row: dict[str, float]) -> dict[str, Any]:
    return {heading: f"{row[metric]:.{places}f}" for metric, (heading, places) in METRICS.items()}


def _counted(row: dict[str, float]) -> dict[str, str]:
    return {column: f"{value:.{COUNTS[column]}f}" for column, value in row.items()}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="holds the CTs of the datalist")
    parser.add_argument("--split", type=Path, default=CONFIGS / "split.json", help="datalist")
    parser.add_argument("--section", default="validation", help="whose patients are reconstructed")
    parser.add_argument("--weights", type=Path, default=ROOT / "bundle" / "models" / "model.pt")
    parser.add_argument("--disease", action="store_true", help="how dense each row is in the diseased right upper lobe")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "anatomy", help="for the figure of --disease")
    parser.add_argument("--pairs", type=int, default=0, help="how many pairs of training patients to register instead")
    parser.add_argument("--counts", type=int, nargs="+", default=[], help="numbers of neighbours to compare instead")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
