"""
What making a batch takes besides the training step that it is for: seconds of every part for a record, and the fraction
of a step that training waits for its data; or what it takes to keep CTs in one way or another. See loading.md.

    python benchmarks/loading.py [--stages 1 2 3] [--records memory cubes] [--workers 0 2] [--batch 2] [--markdown]
    python benchmarks/loading.py --kept [CT ...] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from math import radians
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.transforms import Compose, Rand3DElasticd, RandAffined

from scripts import RandDeformd, cached_dataset, demo_ct, load_records
from scripts.data.cubes import write_cubes
from scripts.io.cube_files import read_cube
from table import Table

PARTS = {"part": 48, "CPU s": 8}
KEPT = {"CTs are kept": 36, "MiB a CT": 8, "beforehand": 10, "first epoch": 11, "later epochs": 12}
SHARES = {
    "stage": 5, "records": 7, "batch": 5, "workers": 7, "steps": 5, "s/step": 8, "waiting": 8, "making the batch": 16,
    "network": 8,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.kept is not None:
        table = Table(KEPT, options.markdown)
        for row in kept(configuration(options, 1), options.kept or [options.ct or demo_ct()]):
            table.add(**row)
        return
    record = {"ct": options.ct or demo_ct(), "name": "ct", "group": "training"}
    if options.repeats:
        table = Table(PARTS, options.markdown)
        for part, cpu_seconds in parts(configuration(options, 1), record, options.repeats).items():
            table.add(**{"part": part, "CPU s": cpu_seconds})
        print()
    table = Table(SHARES, options.markdown)
    with tempfile.TemporaryDirectory() as folder:
        for stage in options.stages:
            for records in options.records:
                own = cube_of(record, configuration(options, stage), folder) if records == "cubes" else record
                for workers in options.workers:
                    table.add(**{"records": records, **shares(options, own, stage, records == "memory", workers)})


def configuration(options: argparse.Namespace, stage: int) -> ConfigParser:
    """The training configuration of a stage on the one CT, without validation and checkpoints."""
    names = ["train.json", *([f"stage{stage}.json"] if stage > 1 else []), *(["tiny.json"] if options.quick else [])]
    config = ConfigParser()
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in names])
    config.update({"bundle_root": str(ROOT / "bundle"), "vgg_weights": "untrained"})
    config["train#handlers"] = []
    if options.crop:
        config["crop"] = options.crop
    return config


def parts(config: ConfigParser, record: dict[str, str], repeats: int) -> dict[str, float]:
    """Mean CPU seconds of every part of a record's way to the network."""
    load, imaging, augment, geometry_error, augment_xrays = (
        config.get_parsed_content(name) for name in ("load", "imaging", "augment", "geometry_error", "augment_xrays")
    )
    measured = {"load, the first time": seconds(lambda: load(record), 1)}
    memory = cached_dataset([record], load)
    measured["load, from the cache in memory"] = seconds(lambda: memory[0], repeats)
    with tempfile.TemporaryDirectory() as folder:
        disk = cached_dataset([record], load, folder)
        disk[0]
        measured["load, from the cache in a folder"] = seconds(lambda: disk[0], repeats)
    measured["deform"] = seconds(lambda: augment(memory[0]), repeats)
    monai = by_monai(augment, memory[0]["ct"].shape[-1])
    measured["the same by MONAI's RandAffined, Rand3DElasticd"] = seconds(lambda: monai(memory[0]), 1)
    hu = torch.as_tensor(memory[0]["ct"]).as_subclass(torch.Tensor)[None]
    xrays = imaging.project(hu)[0]
    measured["project, nominal"] = seconds(lambda: imaging.project(hu), repeats)
    geometry_error.turned = 0.0
    measured["project, with an error of the distance"] = seconds(
        lambda: imaging.project(hu, geometry_error(imaging.geometry)), repeats
    )
    geometry_error.turned = 1.0
    measured["project, with an error of the pose"] = seconds(
        lambda: imaging.project(hu, geometry_error(imaging.geometry)), repeats
    )
    sample = {"xrays": xrays, "exposed": torch.ones_like(xrays, dtype=torch.bool)}
    measured["augment the X-rays"] = seconds(lambda: augment_xrays(sample), 4 * repeats)
    return measured


def by_monai(augment: RandDeformd, size: int) -> Compose:
    """Two transforms of MONAI in turn that rotate, shift and scale a volume as much, and bend it about as smoothly."""
    voxels = size / augment.fov_mm
    affine = RandAffined(
        "ct",
        prob=1.0,
        rotate_range=[radians(augment.degrees)] * 3,
        translate_range=[augment.shift_mm * voxels] * 3,
        scale_range=[augment.scale] * 3,
        padding_mode="border",
    )
    sigma = augment.spacing_mm / 3**0.5 * voxels  # that of a cubic B-spline
    bend = Rand3DElasticd("ct", (sigma, sigma), (size, size), prob=1.0, padding_mode="border")
    return Compose([affine, bend])


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Mean CPU time of some runs, of all threads; other load on the machine does not lengthen it much."""
    started = process_time()
    for _ in range(repeats):
        work()
    return (process_time() - started) / repeats


def kept(config: ConfigParser, cts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """
    For every way to keep CTs the bytes of each, and the CPU seconds of each before the training, in its first epoch and
    in later ones.
    """
    load, read = config.get_parsed_content("load"), {"cache_rate": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder, name) for name in ("data", "cache", "cubes")}
        places["data"].mkdir()
        files = [shutil.copy(ct, places["data"] / f"{number}_{Path(ct).name}") for number, ct in enumerate(cts)]
        datalist = str(places["data"] / "datalist.json")
        Path(datalist).write_text(
            json.dumps({"training": [{"ct": Path(file).name} for file in files]}), encoding="utf-8"
        )
        records = load_records(datalist, "training")
        yield epochs("not at all: from their files", cached_dataset(records, load, **read), 0.0, sizes(files))
        in_memory = load(records[0])
        held = sum(each.numel() * each.element_size() for each in in_memory.values() if isinstance(each, torch.Tensor))
        started = process_time()
        memory = cached_dataset(records, load)
        made = (process_time() - started) / len(cts)
        yield {**epochs("in memory, float32", memory, 0.0, held), "first epoch": made}
        cache = cached_dataset(records, load, str(places["cache"]))
        row = epochs("in a folder by --cache_dir, float32", cache, 0.0, 0)
        yield {**row, "MiB a CT": sizes(places["cache"].iterdir()) / 2**20}
        with redirect_stdout(sys.stderr):
            making = seconds(lambda: write_cubes(datalist, *map(str, (places["data"], places["cubes"])), load), 1)
        cubes = load_records(str(places["cubes"] / "datalist.json"), "training")
        size = sizes(places["cubes"].glob("*/*"))
        yield epochs("as cubes by preprocess, int16", cached_dataset(cubes, load, **read), making / len(cts), size)
        side = config.get_parsed_content("volume_size")
        part = (slice(side // 4, 3 * side // 4),) * 3
        parts = Dataset(cubes, lambda record: read_cube(record["ct"], record["ct"], part))
        yield epochs(f"of these cubes the middle {side // 2}³ alone", parts, making / len(cts), size)


def epochs(name: str, dataset: Dataset, beforehand: float, size: float) -> dict[str, Any]:
    """A row of what it takes to go through a dataset twice, for each record."""
    first, later = (seconds(lambda: [dataset[i] for i in range(len(dataset))], 1) / len(dataset) for _ in range(2))
    return dict(zip(KEPT, (name, size / 2**20, beforehand, first, later)))


def sizes(files: Iterable[str | Path]) -> float:
    """Mean size of files, in bytes."""
    return fmean(Path(file).stat().st_size for file in files)


def shares(
    options: argparse.Namespace, record: dict[str, str], stage: int, in_memory: bool, workers: int
) -> dict[str, Any]:
    """
    One training of a few steps, of which the first does not count: seconds a step by the clock, and of them the parts
    in which training waits for the loader, makes the batch, and runs the network, its loss and its optimizer. The
    record is kept in memory, or read for each step.
    """
    config = configuration(options, stage)
    config["cache_rate"] = float(in_memory)
    batch = options.batch or config["batch_size"]
    config.update({"num_workers": workers, "batch_size": batch, "epochs": 1})
    config["train#dataset#data"] = [record] * (batch * (options.steps + 1))
    trainer = config.get_parsed_content("train#trainer")
    clock = Stopwatch(trainer.prepare_batch)
    trainer.prepare_batch = clock.prepare
    clock.attach(trainer)
    trainer.run()
    total = fmean(clock.waiting[1:]) + fmean(clock.stepping[1:])
    waiting, making = fmean(clock.waiting[1:]) / total, fmean(clock.making[1:]) / total
    cells = {"waiting": waiting, "making the batch": making, "network": 1 - waiting - making}
    row = {
        "stage": stage,
        "batch": batch,
        "workers": workers,
        "steps": options.steps,
        "s/step": total,
    }
    return row | {name: f"{share:.1%}" for name, share in cells.items()}


def cube_of(record: dict[str, str], config: ConfigParser, folder: str) -> dict[str, str]:
    """A record of the same CT as a cube in a folder."""
    datalist = Path(folder, "source.json")
    datalist.write_text(json.dumps({"training": [{"ct": record["ct"], "name": "ct"}]}), encoding="utf-8")
    with redirect_stdout(sys.stderr):
        write_cubes(str(datalist), folder, folder, config.get_parsed_content("load"))
    return load_records(str(Path(folder, "datalist.json")), "training")[0]


class Stopwatch:
    """Seconds that each iteration waits for its batch, spends in its preparation, and takes with it."""

    def __init__(self, prepare_batch: Callable[..., Any]) -> None:
        self.prepare_batch = prepare_batch
        self.waiting: list[float] = []
        self.making: list[float] = []
        self.stepping: list[float] = []
        self.started = 0.0

    def attach(self, engine: Engine) -> None:
        for event in (Events.GET_BATCH_STARTED, Events.ITERATION_STARTED):
            engine.add_event_handler(event, self._start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._stop, self.waiting)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop, self.stepping)

    def prepare(self, *arguments: Any, **options: Any) -> Any:
        started = self._now()
        prepared = self.prepare_batch(*arguments, **options)
        self.making.append(self._now() - started)
        return prepared

    def _start(self, engine: Engine) -> None:
        self.started = self._now()

    def _stop(self, engine: Engine, kept: list[float]) -> None:
        kept.append(self._now() - self.started)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return perf_counter()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", help="by default the demo's")
    parser.add_argument("--stages", nargs="*", type=int, choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--records", nargs="+", choices=("memory", "cubes"), default=("memory",), help="where they are")
    parser.add_argument("--kept", nargs="*", metavar="CT", help="what it takes to keep CTs, by default the demo's")
    parser.add_argument("--workers", nargs="+", type=int, default=(0, 2))
    parser.add_argument("--batch", type=int, help="by default each stage's own")
    parser.add_argument("--crop", type=int, help="side of the part that is decoded and scored, by default all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="of each part; 0 leaves that table out")
    parser.add_argument("--quick", action="store_true", help="the small network and cube of tiny.json")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
