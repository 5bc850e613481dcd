"""
What stage 1, its ablations and MONAI's networks learn in the same time, scored on patients they never saw. See
learning.md.

    python benchmarks/learning.py --dataset_dir DIR --minutes 30 --output OUT [--methods mean stage1 unet] [--markdown]
    python benchmarks/learning.py --dataset_dir DIR --split bundle/configs/split.json --minutes 15 --output OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, json_hashing
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, Transform
from torch import nn

from baselines import BASELINES, LiftedNetwork
from patients import ENDLESS, DeformedPatients, Record, held_out, left_out, records_in
from scripts import ImagingModel
from scripts.evaluation.metrics import volume_metrics
from scripts.evaluation.summary import mean_and_interval
from scripts.io.atomic_write import write_json
from scripts.projection.resampling import truth_at
from table import Table

CASCADES: dict[str, dict[str, Any]] = {
    "stage1": {},
    "without_vit": {"attention": "none"},
    "without_features": {"evidence": ["xrays", "positions", "reprojection"]},
    "without_xrays": {"evidence": ["features", "positions", "reprojection"]},
    "without_positions": {"evidence": ["xrays", "features", "reprojection"]},
    "without_reprojection": {"evidence": ["xrays", "features", "positions"]},
    "dense": {"attention": "dense"},
}
"""Stage 1 and its ablations, by the arguments that differ."""
METHODS = ("mean", "nearest", "stage1", *BASELINES, *(name for name in CASCADES if name != "stage1"))
METRICS = {"psnr_db": "PSNR dB", "ssim": "SSIM", "mae_hu": "MAE HU"}
SEEN = "seen"
COLUMNS = {"method": 20, "folds": 5, "steps": 6, "s/step": 6}
MEAN_DRAWS = 32
SEEN_DEFORMATIONS = 2

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From X-rays `(1, 2, P, P)` and the ground truth, which only the nearest patient is allowed to see, to a volume."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = configuration(options)
    records = records_in(options.dataset_dir)
    loaded = CacheDataset(records, config.get_parsed_content("load"), num_workers=None, progress=False)
    folds = held_out_patients(records, options)
    for fold, unseen in enumerate(folds):
        if options.only and fold not in options.only:
            continue
        for method in options.methods:
            path = options.output / f"fold{fold}_{method}.json"
            if not _is_done(path, options):
                named = "; ".join(f"{group}: {', '.join(sorted(patients))}" for group, patients in unseen.items())
                print(f"fold {fold}, {method}: {named}", flush=True)
                result = run(method, [*loaded], unseen, options)
                write_json(str(path), {"method": method, "fold": fold, **_settings(options), **result})
    print_table(options, folds)


def held_out_patients(records: Sequence[Record], options: argparse.Namespace) -> list[dict[str, set[str]]]:
    """For each fold the patients that are not trained on, by what they are called: "unseen", or a split's sections."""
    if options.split:
        return [held_out(records, options.split)]
    return [{"unseen": patients} for patients in left_out(records, options.folds)]


def configuration(options: argparse.Namespace, **network: Any) -> ConfigParser:
    """
    The bundle's training configuration, stage 1, with other arguments of the network. The CTs have twice the voxels of
    the stage, half of what they have in training, and are projected to full size. With a split they are
    deformed as for the shipped weights, and not mirrored.
    """
    config = ConfigParser()
    overlays = (["weights/all.json", "weights/stage1.json"] if options.split else []) + (
        ["tiny.json"] if options.tiny else []
    )
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in ("train.json", *overlays)])
    if options.size:
        config["geometry#detector_pixels"] = 8 * options.size
    config["volume_size"] = config["geometry#detector_pixels"] // 4
    config["network_def"].update(network)
    return config


def run(
    method: str, loaded: Sequence[Record], unseen: Mapping[str, set[str]], options: argparse.Namespace
) -> dict[str, Any]:
    """
    Trains a method on all but these patients and scores it.

    Returns:
        Steps, seconds a step, and for each group of unseen patients and unseen deformations of the "seen" ones every
        metric of every case by patient.
    """
    config = configuration(options, **CASCADES.get(method, {}))
    augment, imaging = (config.get_parsed_content(name) for name in ("augment", "imaging"))
    size = imaging.volume_size(1)
    sample = Sample(imaging, size)
    all_unseen = set().union(*unseen.values())
    seen = [record for record in loaded if record["group"] not in all_unseen]
    made_by = {name: config[name] for name in ("geometry", "volume_size", "load", "augment", "imaging")}
    made_of = json_hashing({**made_by, "names": [record["name"] for record in seen], "size": size})
    folder = options.output / "deformations" / made_of.decode()
    training = DeformedPatients(seen, Compose([augment, sample]), options.deformations * len(seen), folder)
    if method == "mean":
        truths = (training[i * training.count // MEAN_DRAWS]["ct"] for i in range(MEAN_DRAWS))
        predict, effort = _always(sum(truths)[None] / MEAN_DRAWS), {}
    elif method == "nearest":
        predict, effort = _nearest([sample(record)["ct"][None] for record in training.records]), {}
    else:
        predict, effort = train(method, config, training, options)
    cases = {
        **{
            group: [sample(record) for record in loaded if record["group"] in patients]
            for group, patients in unseen.items()
        },
        SEEN: (
            training.deformed(index, ENDLESS + SEEN_DEFORMATIONS * index + number)
            for index in range(len(training.records))
            for number in range(SEEN_DEFORMATIONS)
        ),
    }
    return {**effort, **{group: score(predict, samples, imaging) for group, samples in cases.items()}}


def train(
    method: str, config: ConfigParser, training: DeformedPatients, options: argparse.Namespace
) -> tuple[Predict, dict[str, float]]:
    """The trained network, and what it took."""
    torch.manual_seed(options.seed)
    network = build(method, config)
    clock = StepClock(60 * options.minutes, method)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(training, batch_size=options.batch_size),
        network=network,
        optimizer=torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=options.learning_rate),
        loss_function=config.get_parsed_content("loss"),
        prepare_batch=_prepare,
        decollate=False,
    )
    clock.attach(trainer)
    trainer.run()
    return partial(_predict, network.eval()), {"steps": clock.steps, "seconds_per_step": clock.seconds / clock.steps}


def build(method: str, config: ConfigParser) -> nn.Module:
    """An untrained network; the first volume that it returns is stage 1's."""
    if method in CASCADES:
        return config.get_parsed_content("network_def")
    imaging = config.get_parsed_content("imaging")
    size = imaging.volume_size(1)
    return LiftedNetwork(BASELINES[method](size), imaging.geometry, size)


class Sample(Transform):
    """
    A loaded CT as the network sees it: its X-rays, and the ground truth, scaled and averaged to the `size` voxels a
    side of all that stage 1 is compared with.
    """

    def __init__(self, imaging: ImagingModel, size: int) -> None:
        self.imaging, self.size = imaging, size

    def __call__(self, record: Record) -> Record:
        hu = torch.as_tensor(record["ct"]).as_subclass(torch.Tensor)
        truth = truth_at(self.imaging.scale(hu)[None], self.size)[0]
        return {**record, "ct": truth, "xrays": self.imaging.project(hu[None])[0]}


class StepClock:
    """
    Ends a training when its steps have taken so long; loading, deforming and projecting, which are the same for every
    method, do not count. The clock is the process's CPU time over the number of its threads, which other load does not
    lengthen. Prints a line a minute.

    Args:
        limit: seconds.
        name: what the lines begin with.
    """

    def __init__(self, limit: float, name: str) -> None:
        self.limit, self.name, self.seconds, self.steps = limit, name, 0.0, 0
        self.threads = torch.get_num_threads()
        self.started, self.printed = process_time(), perf_counter()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self.started = process_time()

    def _stop(self, engine: Engine) -> None:
        now = perf_counter()
        self.seconds += (process_time() - self.started) / self.threads
        self.steps += 1
        if now - self.printed > 60:
            self.printed = now
            loss = engine.state.output["loss"].item()
            spent = f"{self.seconds:.0f} of {self.limit:.0f} s"
            print(f"  {self.name}: {spent}, {self.steps} steps, loss {loss:.4f}", flush=True)
        if self.seconds >= self.limit:
            engine.terminate()


def score(predict: Predict, samples: Iterable[Record], imaging: ImagingModel) -> dict[str, list[dict[str, float]]]:
    """The metrics of every sample, by patient."""
    scores = defaultdict(list)
    for sample in samples:
        truth = sample["ct"][None]
        volume = predict(sample["xrays"][None], truth)
        scores[sample["group"]].append(volume_metrics(volume, truth, imaging))
    return dict(scores)


def print_table(options: argparse.Namespace, folds: Sequence[Mapping[str, set[str]]]) -> None:
    """A row for each method, over the folds that are done; intervals are over patients."""
    groups = (*folds[0], SEEN)
    scores = {f"{group} {metric}": 22 for group in groups for metric in METRICS.values()}
    table = Table(COLUMNS | scores, options.markdown)
    for method in options.methods:
        paths = (options.output / f"fold{fold}_{method}.json" for fold in range(len(folds)))
        results = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if not results:
            continue
        effort = {}
        if "steps" in results[0]:
            effort["steps"] = round(fmean(result["steps"] for result in results))
            effort["s/step"] = fmean(result["seconds_per_step"] for result in results)
        cells = {
            f"{group} {column}": _mean_over_patients([result[group] for result in results], metric)
            for group in groups
            for metric, column in METRICS.items()
        }
        table.add(method=method, folds=len(results), **effort, **cells)


def _mean_over_patients(folds: Sequence[dict[str, list[dict[str, float]]]], metric: str) -> str:
    """Mean and 95 % interval of the patients' means."""
    values = defaultdict(list)
    for fold in folds:
        for patient, cases in fold.items():
            values[patient] += [case[metric] for case in cases]
    found = mean_and_interval([fmean(of_patient) for of_patient in values.values()])
    return ("{mean:.4g}" if len(values) == 1 else "{mean:.4g} ({low:.4g} to {high:.4g})").format(**found)


@torch.no_grad()
def _predict(network: nn.Module, xrays: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return network(xrays, stages=1)[0]


def _always(volume: torch.Tensor) -> Predict:
    return lambda xrays, truth: volume


def _nearest(volumes: Sequence[torch.Tensor]) -> Predict:
    """Of these volumes the one with the smallest squared error."""
    return lambda xrays, truth: min(volumes, key=lambda volume: float((volume - truth).square().mean()))


def _prepare(batch: Record, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Record, tuple, Record]:
    """A batch of samples, which need no more projection."""
    target = {key: torch.as_tensor(batch[key]).as_subclass(torch.Tensor) for key in ("ct", "xrays")}
    return target["xrays"], target, (), {"stages": 1}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("minutes", "folds", "deformations", "size", "tiny", "batch_size", "learning_rate", "seed")
    split = options.split and json.loads(options.split.read_text(encoding="utf-8"))
    return {name: getattr(options, name) for name in names} | {"threads": torch.get_num_threads(), "split": split}


def _is_done(path: Path, options: argparse.Namespace) -> bool:
    """Whether there is a result with these settings; with other settings it is in the way."""
    if not path.is_file():
        return False
    kept, wanted = json.loads(path.read_text()), _settings(options)
    other = {name: kept.get(name) for name in wanted if kept.get(name) != wanted[name]}
    if other:
        raise SystemExit(f"{path} was made with {other}; choose another --output, or delete that file.")
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of CTs, *.nii.gz")
    kept = ROOT / "output" / "learning"
    parser.add_argument("--output", type=Path, default=kept, help="keeps a JSON for each fold and method")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training steps, for each fold and method")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--split", type=Path, help="datalist whose training patients alone are trained on, as one fold")
    parser.add_argument("--only", nargs="+", type=int, help="folds to train in this run, by default all")
    parser.add_argument("--deformations", type=int, default=100, help="of each training CT")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--size", type=int, help="voxels along a side of the first stage, by default the bundle's")
    parser.add_argument("--tiny", action="store_true", help="the small network of tiny.json, to see that it works")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
