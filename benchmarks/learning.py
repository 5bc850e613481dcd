"""
What stage 1, what it is made of, and MONAI's networks learn in the same time, scored on patients they never saw. See
learning.md.

    python benchmarks/learning.py --dataset_dir DIR --split SPLIT --minutes 15 --output OUT [--methods mean stage1 unet]
    python benchmarks/learning.py --dataset_dir DIR --minutes 15 --output OUT [--folds 4]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, median
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, json_hashing, list_data_collate
from monai.engines import SupervisedTrainer
from torch import nn

from baselines import BASELINES, LiftedNetwork
from patients import ENDLESS, DeformedPatients, Record, held_out, left_out, records_in, with_interval
from scripts import BiplanarGeometry, GradientClipping, ImagingModel, PrepareBiplanarBatch, RandGeometry
from scripts.anatomy.shapes import with_shapes
from scripts.evaluation.measurements import measure
from scripts.evaluation.metrics import volume_metrics
from scripts.io.atomic_write import write_json
from scripts.io.stage_overlays import configs_of
from scripts.projection.geometry import batched
from scripts.projection.resampling import truth_at
from table import Table

ADAMW = {"optimizer#_target_": "torch.optim.AdamW"}
FORMER = {
    **ADAMW,
    "cosine_decay": False,
    "warmup_epochs": 0,
    "max_gradient_norm": None,
    "ema": None,
    "augment_geometry": None,
    "shapes_dir": None,
    "network_def#mirror_averaging": False,
}
"""
Stage 1 as this benchmark trained it until version 0.3: by AdamW, at a constant rate, in one geometry, without shapes
between patients.
"""
SCHEDULE = ("cosine_decay", "warmup_epochs", "max_gradient_norm", "ema")
VIEWS = ("augment_geometry", "network_def#mirror_averaging")
CASCADES: dict[str, dict[str, Any]] = {
    "stage1": {},
    "former": FORMER,
    "former_and_muon": {name: value for name, value in FORMER.items() if name not in ADAMW},
    "former_and_schedule": {name: value for name, value in FORMER.items() if name not in SCHEDULE},
    "former_and_shapes": {name: value for name, value in FORMER.items() if name != "shapes_dir"},
    "former_and_views": {name: value for name, value in FORMER.items() if name not in VIEWS},
    "without_shapes": {"shapes_dir": None},
    "without_views": {"augment_geometry": None},
    "without_augmentation": {"augment": None, "shapes_dir": None},
    "without_vit": {"network_def#attention": "none"},
    "without_features": {"network_def#evidence": ["xrays", "positions", "reprojection"]},
    "without_xrays": {"network_def#evidence": ["features", "positions", "reprojection"]},
    "without_positions": {"network_def#evidence": ["xrays", "features", "reprojection"]},
    "without_reprojection": {"network_def#evidence": ["xrays", "features", "positions"]},
    "dense": {"network_def#attention": "dense"},
}
"""Stage 1, as configured and otherwise: by the configuration's ids that differ."""
BY_ADAMW = {f"{name}_adamw": name for name in BASELINES}
"""The baselines by AdamW instead of the configured optimizer."""
CHANGES = {**CASCADES, **dict.fromkeys(BY_ADAMW, ADAMW)}
UNTRAINED = ("mean", "nearest")
METHODS = (*UNTRAINED, "stage1", *BASELINES, *BY_ADAMW, *(name for name in CASCADES if name != "stage1"))
METRICS = {"psnr_db": "PSNR dB", "ssim": "SSIM", "mae_hu": "MAE HU"}
SAMPLE_IDS = ("geometry", "imaging", "volume_size", "load", "shapes_dir", "augment", "augment_geometry")
SEEN = "seen"
OTHER_VIEWS = (("PA", "RL"), ("AP", "LL"), ("AP", "RL"))
COLUMNS = {"method": 20, "runs": 5, "steps": 6, "s/step": 6}
MEAN_DRAWS = 32
WARMING_STEPS, TIMED_STEPS = 2, 8
SEEN_DEFORMATIONS = 2

Predict = Callable[[Record], torch.Tensor]
"""From a sample, whose ground truth only the nearest patient is allowed to see, to a volume `(1, 1, S, S, S)`."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    records = records_in(options.dataset_dir)
    folds = held_out_patients(records, options)
    if options.shapes_dir:
        trained = seen_records(records, folds[0])
        unseen = [record for record in records if record not in trained]
        records = [*with_shapes(trained, str(options.shapes_dir)), *unseen]
    chosen = [fold for fold in range(len(folds)) if not options.only or fold in options.only]
    missing = [
        (fold, seed, method)
        for fold in chosen
        for seed in options.seeds
        for method in options.methods
        if not _is_done(_result(options, fold, method, seed), method, options)
    ]
    loaded = [*CacheDataset(records, configuration(options).get_parsed_content("load"), progress=False)] * bool(missing)
    step_seconds = timed_steps({method for _, _, method in missing}.difference(UNTRAINED), loaded, folds[0], options)
    for fold, seed, method in missing:
        named = "; ".join(f"{group}: {', '.join(sorted(patients))}" for group, patients in folds[fold].items())
        print(f"fold {fold}, seed {seed}, {method}: {named}", flush=True)
        result = run(method, seed, loaded, folds[fold], options, step_seconds.get(method))
        kept = {"method": method, "fold": fold, "seed": seed, **_settings(method, options), **result}
        write_json(str(_result(options, fold, method, seed)), kept)
    results = {
        method: [
            json.loads(path.read_text(encoding="utf-8"))
            for fold in range(len(folds))
            for seed in options.seeds
            if (path := _result(options, fold, method, seed)).is_file()
        ]
        for method in options.methods
    }
    print_table(results, [*folds[0], SEEN], options.markdown)
    if options.against:
        print_differences(results, options.against, [*folds[0]], options.markdown)


def held_out_patients(records: Sequence[Record], options: argparse.Namespace) -> list[dict[str, set[str]]]:
    """For each fold the patients that are not trained on, by what they are called: "unseen", or a split's sections."""
    if options.split:
        return [held_out(records, options.split)]
    return [{"unseen": patients} for patients in left_out(records, options.folds)]


def seen_records(records: Sequence[Record], unseen: Mapping[str, set[str]]) -> list[Record]:
    """The records of the patients whom no group holds."""
    return [record for record in records if record["group"] not in set().union(*unseen.values())]


def configuration(options: argparse.Namespace, method: str = "stage1") -> ConfigParser:
    """
    The configuration of the shipped weights' stage 1, in which a method changes what it has to. The CTs have twice the
    voxels of the stage and are projected to full size; X-rays are clean, in the geometry that the network is told.
    """
    config, folder = ConfigParser(), ROOT / "bundle" / "configs"
    files = [folder / "train.json", *configs_of(folder / "weights", 1), *([folder / "tiny.json"] * options.tiny)]
    config.read_config([str(path) for path in files])
    if options.size:
        config["geometry#detector_pixels"] = 8 * options.size
    config["volume_size"] = config["geometry#detector_pixels"] // 4
    config["shapes_dir"] = options.shapes_dir and str(options.shapes_dir)
    config["learning_rate"] = options.learning_rate
    for name, value in CHANGES.get(method, {}).items():
        config[name] = value
    return config


def timed_steps(
    methods: Iterable[str], loaded: Sequence[Record], unseen: Mapping[str, set[str]], options: argparse.Namespace
) -> dict[str, float]:
    """
    The seconds of a training step of each method, measured one after the other before anything is trained, and kept
    beside the results: they say how many steps the minutes are, whatever else the machine does afterwards.
    """
    path = options.output / "seconds_per_step.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for method in sorted(set(methods).difference(known)):
        config = configuration(options, method)
        clock = StepClock(WARMING_STEPS + TIMED_STEPS, f"{method}, timed")
        train(method, 0, config, training_samples(config, loaded, unseen, options), options, clock)
        known[method] = median(clock.seconds[WARMING_STEPS:])
        write_json(str(path), known)
    return known


def run(
    method: str,
    seed: int,
    loaded: Sequence[Record],
    unseen: Mapping[str, set[str]],
    options: argparse.Namespace,
    step_seconds: float | None = None,
) -> dict[str, Any]:
    """
    Trains a method on all but these patients, for as many steps as the minutes hold, and scores it.

    Returns:
        Steps, seconds a step, and for each group of unseen patients, in the nominal views and in others, and for unseen
        deformations of the "seen" ones, every metric of every case by patient.
    """
    config = configuration(options, method)
    imaging = config.get_parsed_content("imaging")
    as_it_is = Sample(PrepareBiplanarBatch(1, imaging))
    training = training_samples(config, loaded, unseen, options)
    if method == "mean":
        truths = (training[i * training.count // MEAN_DRAWS]["ct"] for i in range(MEAN_DRAWS))
        predict, effort = _always(sum(truths)[None] / MEAN_DRAWS), {}
    elif method == "nearest":
        predict, effort = _nearest([as_it_is(record)["ct"][None] for record in training.records]), {}
    else:
        clock = StepClock(max(1, round(60 * options.minutes / step_seconds)), method)
        predict = train(method, seed, config, training, options, clock)
        effort = {"steps": clock.steps, "seconds_per_step": step_seconds}
    patients = {
        group: [record for record in loaded if record["group"] in patients] for group, patients in unseen.items()
    }
    cases = {group: map(as_it_is, records) for group, records in patients.items()}
    cases[SEEN] = (
        training.deformed(index, ENDLESS + SEEN_DEFORMATIONS * index + number)
        for index in range(len(training.records))
        for number in range(SEEN_DEFORMATIONS)
    )
    for views in OTHER_VIEWS if "steps" in effort else ():
        sample = Sample(PrepareBiplanarBatch(1, imaging, augment_geometry=RandGeometry(0.0, 0.0, 0.0, [views])))
        cases |= {f"{group} {' '.join(views)}": map(sample, records) for group, records in patients.items()}
    return {**effort, **{group: score(predict, samples, imaging) for group, samples in cases.items()}}


def training_samples(
    config: ConfigParser, loaded: Sequence[Record], unseen: Mapping[str, set[str]], options: argparse.Namespace
) -> DeformedPatients:
    """The deformations of all but these patients that a configuration trains on, kept in a folder of their own."""
    seen = seen_records(loaded, unseen)
    prepare = config.get_parsed_content("train#trainer#prepare_batch")
    made_of = {name: config[name] for name in (*SAMPLE_IDS, "train#trainer#prepare_batch")}
    made_of |= {"names": [record["name"] for record in seen]}
    folder = options.output / "deformations" / json_hashing(made_of).decode()
    clean = PrepareBiplanarBatch(1, prepare.imaging, augment=prepare.augment, augment_geometry=prepare.augment_geometry)
    return DeformedPatients(seen, Sample(clean), options.deformations * len(seen), folder)


def train(
    method: str,
    seed: int,
    config: ConfigParser,
    training: DeformedPatients,
    options: argparse.Namespace,
    clock: StepClock,
) -> Predict:
    """The network, or the moving average of its weights, when the clock ends the training."""
    torch.manual_seed(seed)
    network = build(method, config)
    optimizer = configured_optimizer(network, config)
    imaging = config.get_parsed_content("imaging")
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(training, batch_size=options.batch_size, collate_fn=list),
        network=network,
        optimizer=optimizer,
        loss_function=config.get_parsed_content("loss"),
        prepare_batch=partial(_prepare, imaging=imaging),
        decollate=False,
        train_handlers=[GradientClipping(network.parameters(), config["max_gradient_norm"])],
    )
    schedule = partial(_rate, *(config[name] for name in ("epochs", "warmup_epochs", "cosine_decay")))

    def set_rate() -> None:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(clock.steps / clock.limit)

    trainer.add_event_handler(Events.ITERATION_STARTED, set_rate)
    average = None
    if config["ema"] is not None:
        average = EMAHandler(network, config["ema"], 1.0, round(1 / config["ema"]))
        average.attach(trainer, event=Events.ITERATION_COMPLETED)
    clock.attach(trainer)
    trainer.run()
    trained = network if average is None else average.ema_model
    return partial(_predict, trained.eval())


def build(method: str, config: ConfigParser) -> nn.Module:
    """An untrained network; the first volume that it returns is stage 1's."""
    if method in CASCADES:
        return config.get_parsed_content("network_def")
    imaging = config.get_parsed_content("imaging")
    size = imaging.volume_size(1)
    return LiftedNetwork(BASELINES[BY_ADAMW.get(method, method)](size), imaging.geometry, size)


def configured_optimizer(network: nn.Module, config: ConfigParser) -> torch.optim.Optimizer:
    """Of a network that takes the cascade's place in the configuration."""
    config["network_def"] = network
    return config.get_parsed_content("optimizer")


class Sample:
    """
    What a network trains on or is scored with, made of a loaded record by its batch preparation: the ground truth,
    scaled and averaged to stage 1's size, the X-rays, and their geometry.
    """

    def __init__(self, prepare: PrepareBiplanarBatch) -> None:
        self.prepare = prepare

    def __call__(self, record: Record) -> Record:
        named = {name: record[name] for name in ("name", "group")}
        batch = list_data_collate([{name: value for name, value in record.items() if name not in named}])
        xrays, target, _, arguments = self.prepare(batch)
        geometry = asdict(arguments["geometry"])
        truth = truth_at(target["ct"], self.prepare.imaging.volume_size(1))[0].clone()
        return {**named, "ct": truth, "xrays": xrays[0], "geometry": geometry}


class StepClock:
    """
    Ends a training after so many steps and times each by the process's CPU time over the number of its threads, without
    what comes between them: loading, deforming and projecting, which are the same for every method. Prints a line a
    minute.

    Args:
        limit: steps.
        name: what the lines begin with.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.limit, self.name = limit, name
        self.seconds: list[float] = []
        self.threads = torch.get_num_threads()
        self.started, self.printed = process_time(), perf_counter()

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.seconds)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self.started = process_time()

    def _stop(self, engine: Engine) -> None:
        self.seconds.append((process_time() - self.started) / self.threads)
        if perf_counter() - self.printed > 60:
            self.printed = perf_counter()
            loss = engine.state.output["loss"].item()
            print(f"  {self.name}: {self.steps} of {self.limit} steps, loss {loss:.4f}", flush=True)
        if self.steps >= self.limit:
            engine.terminate()


def score(predict: Predict, samples: Iterable[Record], imaging: ImagingModel) -> dict[str, list[dict[str, float]]]:
    """The metrics of every sample, by patient."""
    scores = defaultdict(list)
    for sample in samples:
        truth = sample["ct"][None]
        volume = predict(sample)
        lungs = [lung_volume(each, imaging) for each in (volume, truth)]
        further = {"lung_volume_error_l": abs(lungs[0] - lungs[1])}
        scores[sample["group"]].append({**volume_metrics(volume, truth, imaging), **further})
    return dict(scores)


def lung_volume(volume: torch.Tensor, imaging: ImagingModel) -> float:
    """Of both lungs in litres, NaN where they are not found."""
    hu = imaging.to_hu(volume.clamp(0, 1))[0, 0].cpu()
    found = measure(hu, imaging.geometry.fov_mm / hu.shape[-1]).values["lungs_l"]
    return math.nan if found is None else found


def print_table(results: Mapping[str, Sequence[Record]], groups: Sequence[str], markdown: bool) -> None:
    """A row for each method, over the folds and seeds that are done; intervals are over patients."""
    scores = {f"{group} {metric}": 22 for group in groups for metric in METRICS.values()}
    table = Table(COLUMNS | scores, markdown)
    for method, runs in results.items():
        if not runs:
            continue
        effort = {}
        if "steps" in runs[0]:
            effort["steps"] = round(fmean(run["steps"] for run in runs))
            effort["s/step"] = fmean(run["seconds_per_step"] for run in runs)
        cells = {
            f"{group} {column}": with_interval(_by_patient([run[group] for run in runs], metric).values())
            for group in groups
            for metric, column in METRICS.items()
        }
        table.add(method=method, runs=len(runs), **effort, **cells)


def print_differences(
    results: Mapping[str, Sequence[Record]], against: str, groups: Sequence[str], markdown: bool
) -> None:
    """
    What each method has more than one of them, by patient: means over seeds, then over patients with their interval.
    Other views are compared with the nominal ones of the same method.
    """
    table = Table({"method": 26, "group": 12, "metric": 8, "difference": 26, "by patient": 60}, markdown)
    others = [" ".join(views) for views in OTHER_VIEWS]
    rows = [(method, group, against, group) for method in results if method != against for group in groups]
    rows += [(method, f"{group} {views}", method, group) for method in results for group in groups for views in others]
    for method, group, other, base in rows:
        if not all(runs and key in runs[0] for runs, key in ((results[method], group), (results[other], base))):
            continue
        for metric, column in METRICS.items():
            mine, its = (
                _by_patient([run[key] for run in results[name]], metric)
                for name, key in ((method, group), (other, base))
            )
            by_patient = {patient: mine[patient] - its[patient] for patient in mine.keys() & its.keys()}
            shown = ", ".join(f"{patient} {value:+.3g}" for patient, value in sorted(by_patient.items()))
            cells = {"metric": column, "difference": with_interval(by_patient.values()), "by patient": shown}
            table.add(method=method, group=group, **cells)


def _by_patient(runs: Sequence[dict[str, list[dict[str, float]]]], metric: str) -> dict[str, float]:
    """Each patient's mean over runs and cases."""
    values = defaultdict(list)
    for run in runs:
        for patient, cases in run.items():
            values[patient] += [case[metric] for case in cases]
    return {patient: fmean(of_patient) for patient, of_patient in values.items()}


@torch.no_grad()
def _predict(network: nn.Module, sample: Record) -> torch.Tensor:
    return network(sample["xrays"][None], stages=1, geometry=BiplanarGeometry(**sample["geometry"]))[0]


def _always(volume: torch.Tensor) -> Predict:
    return lambda sample: volume


def _nearest(volumes: Sequence[torch.Tensor]) -> Predict:
    """Of these volumes the one with the smallest squared error."""
    return lambda sample: min(volumes, key=lambda volume: float((volume - sample["ct"]).square().mean()))


def _prepare(
    samples: Sequence[Record], *args: Any, imaging: ImagingModel, **kwargs: Any
) -> tuple[torch.Tensor, Record, tuple, Record]:
    """A batch of samples, which need no more projection."""
    cts, xrays = (torch.stack([sample[key] for sample in samples]) for key in ("ct", "xrays"))
    geometry = batched([BiplanarGeometry(**sample["geometry"]) for sample in samples])
    return xrays, {"ct": cts, "xrays": xrays, "geometry": geometry}, (), {"stages": 1, "geometry": geometry}


def _rate(epochs: int, warmup_epochs: int, cosine_decay: bool, fraction: float) -> float:
    """The learning rate after this fraction of the time, of the largest: the configured schedule of the epochs."""
    warmup = warmup_epochs / epochs
    if fraction < warmup:
        return 0.1 + 0.9 * fraction / warmup
    return (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup))) / 2 if cosine_decay else 1.0


def _result(options: argparse.Namespace, fold: int, method: str, seed: int) -> Path:
    return options.output / f"fold{fold}_{method}_seed{seed}.json"


def _settings(method: str, options: argparse.Namespace) -> dict[str, Any]:
    names = ("minutes", "folds", "deformations", "size", "tiny", "batch_size", "learning_rate")
    split = options.split and json.loads(options.split.read_text(encoding="utf-8"))
    shapes = options.shapes_dir is not None
    return {name: getattr(options, name) for name in names} | {
        "threads": torch.get_num_threads(),
        "shapes": shapes,
        "split": split,
        "optimizer": None if method in UNTRAINED else configuration(options, method)["optimizer#_target_"],
    }


def _is_done(path: Path, method: str, options: argparse.Namespace) -> bool:
    """Whether there is a result with these settings; with other settings it is in the way."""
    if not path.is_file():
        return False
    kept, wanted = json.loads(path.read_text(encoding="utf-8")), _settings(method, options)
    if "optimizer" not in kept and method not in UNTRAINED:
        kept["optimizer"] = ADAMW["optimizer#_target_"]  # until version 0.3
    other = {name: kept.get(name) for name in wanted if kept.get(name) != wanted[name]}
    if other:
        raise SystemExit(f"{path} was made with {other}; choose another --output, or delete that file.")
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of CTs, *.nii.gz")
    kept = ROOT / "output" / "learning"
    parser.add_argument("--output", type=Path, default=kept, help="keeps a JSON for each fold, method and seed")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training steps, for each of them")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--split", type=Path, help="datalist whose training patients alone are trained on, as one fold")
    parser.add_argument("--only", nargs="+", type=int, help="folds to train in this run, by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--shapes_dir", type=Path, help="what `launch.py register` made of the training patients")
    parser.add_argument("--deformations", type=int, default=100, help="of each training CT")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--against", choices=METHODS, help="prints what each method has more than this one, by patient")
    parser.add_argument("--size", type=int, help="voxels along a side of the first stage, by default the bundle's")
    parser.add_argument("--tiny", action="store_true", help="the small network of tiny.json, to see that it works")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    if options.shapes_dir and not options.split:
        parser.error("--shapes_dir needs --split: shapes of patients who are left out of a fold would be trained on.")
    return options


if __name__ == "__main__":
    main()
