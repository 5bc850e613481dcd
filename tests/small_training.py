"""A training of a small network with every kind of randomness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import MeanAbsoluteError
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandGaussianNoised, Randomizable

from bundle_runs import ROOT, stage_configs
from scripts import (
    BestCheckpointSaver,
    CheckpointError,
    EarlyStopping,
    EpochReport,
    Resume,
)
from scripts.training.gradient_clipping import GradientClipping


class Batch:
    """A batch and what the network is to make of it."""

    def __init__(self, target: float) -> None:
        self.target = target

    def __call__(self, batch, device, non_blocking, **kwargs):
        image = torch.as_tensor(batch["image"]).as_subclass(torch.Tensor)
        return image, torch.full((len(image), 1), self.target)


class NoisyBatch(Batch, Randomizable):
    """Adds noise of its own to a batch, as an augmentation on the device does."""

    def __call__(self, batch, device, non_blocking, **kwargs):
        image, target = super().__call__(batch, device, non_blocking)
        return image + float(self.R.normal()), target


NoisyBatch.__module__ = "scripts.noisy"  # as one of the bundle, whose arguments are settings


def training(folder: Path, epochs: int = 4, **settings) -> SupervisedTrainer:
    """A training of a small network with every kind of randomness, ready to run or to go on."""
    wanted = {"lr": 0.01, "records": 7, "batch": 2, "parts": 1, "workers": 0, "dropout": 0.5, "noise": 0.5}
    wanted |= {
        "target": 1.0,
        "validation_target": 1.0,
        "max_norm": 1.0,
        "patience": None,
        "still": False,
        "frozen": False,
        "interval": 1,
        **settings,
    }
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(wanted["dropout"]), torch.nn.Linear(8, 1))
    network[0].requires_grad_(not wanted["frozen"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=wanted["lr"])
    records = [{"name": f"case_{i}", "group": "a", "image": torch.arange(3.0) + i} for i in range(wanted["records"])]
    dataset = Dataset(records, Compose([RandGaussianNoised("image", prob=wanted["noise"])]))
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0)
    batch = wanted["batch"] // wanted["parts"]
    loader = DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=wanted["workers"])
    validation = Dataset(records[:2], Compose([]))
    best = str(folder / "best.pth")
    validator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(validation, batch_size=1),
        network=network,
        prepare_batch=Batch(wanted["validation_target"]),
        decollate=False,
        key_val_metric={"score": MeanAbsoluteError(lambda output: (output["pred"], output["label"]))},
        val_handlers=[BestCheckpointSaver(best, network, [("PA", "LL")])],
    )
    scheduler = WarmupCosineSchedule(optimizer, warmup_steps=1, t_total=4, warmup_multiplier=0.1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        prepare_batch=(Batch if wanted["still"] else NoisyBatch)(wanted["target"]),
        decollate=False,
        accumulation_steps=wanted["parts"],
        train_handlers=[
            GradientClipping(network.parameters(), wanted["max_norm"]),
            ValidationHandler(wanted["interval"], validator),
            EpochReport(str(folder / "epochs.jsonl"), validator, best, 3),
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=True),
        ],
    )
    for engine in (trainer, validator):
        engine.logger.disabled = True
    Resume(str(folder / "resume"), 3, network, scheduler, validator, best, seed=5).attach(trainer)
    EarlyStopping(validator, wanted["patience"]).attach(trainer)
    return trainer


class Stopped(Exception):
    """Stands for a kill, in the same process."""


def stop(*_) -> None:
    raise Stopped


def stopped(folder: Path, step: int, **settings) -> None:
    """A training that stops after a step."""
    trainer = training(folder, **settings)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), stop)
    with pytest.raises(Stopped):
        trainer.run()


def left(folder: Path) -> dict[str, bytes]:
    """What a training leaves that must not depend on where it was stopped."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.pth"))}


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The folder of a training that was left alone."""
    training(tmp_path / "alone").run()
    return tmp_path / "alone"


def checkpoint(folder: Path, epoch: int) -> Path:
    return folder / "resume" / f"stage3_epoch{epoch:04d}.pth"


def refusal(folder: Path, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        training(folder, **settings).run()
    return str(caught.value)


SMALLER = {
    "geometry#detector_pixels": 96,
    "network_def#tokens": 3,
    "network_def#context_size": 12,
    "batch_size": 1,
    "repeats": 1,
    "validate#dataset#data": "$scripts.load_records(@datalist, 'validation')[:1]",
}
"""Two steps an epoch and one validation case, at 12, 24 and 48 voxels."""
MOMENTS = {
    1: ["step 1", "writing stage1_epoch0001.pth", "written stage1_best.pth", "step 3", "writing stage1_epoch0002.pth"],
    2: ["step 2", "writing stage2_best.pth", "step 3"],
    3: ["step 1", "written stage3_best.pth", "step 3"],
}


@pytest.fixture(scope="module")
def twins(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of three stages that were left alone, and of three that were killed again and again."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked, to import once")
    folder = tmp_path_factory.mktemp("twins")
    (folder / "smaller.json").write_text(json.dumps({**json.loads(overlay.read_text()), **SMALLER}))
    runs = []
    for name, moments in (("alone", {}), ("killed", MOMENTS)):
        places = {"dataset_dir": str(dataset), "ckpt_dir": str(folder / name), "output_dir": str(folder / name)}
        for stage in (1, 2, 3):
            configs = stage_configs(stage, folder / "smaller.json")
            runs.append({"configs": configs, "moments": moments.get(stage, []), "overrides": places})
    line = [sys.executable, str(ROOT / "tests" / "killed_runs.py"), json.dumps(runs)]
    run = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert run.returncode == 0, run.stdout[-3000:]
    return folder / "alone", folder / "killed"
