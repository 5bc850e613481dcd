"""A training of a small network with every kind of randomness."""

from __future__ import annotations

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

from scripts import (
    BestCheckpointSaver,
    EarlyStopping,
    EpochReport,
    ExponentialMovingAverage,
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
        "optimizer": torch.optim.AdamW,
        "target": 1.0,
        "validation_target": 1.0,
        "max_norm": 1.0,
        "patience": None,
        "ema": None,
        "compile": False,
        "still": False,
        "frozen": False,
        "interval": 1,
        **settings,
    }
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Dropout(wanted["dropout"]), torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
    )
    network[0].requires_grad_(not wanted["frozen"])
    optimizer = wanted["optimizer"](network.parameters(), lr=wanted["lr"], weight_decay=0.01)
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
    average = ExponentialMovingAverage([p for p in network.parameters() if p.requires_grad], wanted["ema"], validator)
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
        compile=wanted["compile"],
        compile_kwargs={"backend": "aot_eager"},  # traced as ever, and not handed to a compiler, which takes long
        train_handlers=[
            GradientClipping(network.parameters(), wanted["max_norm"]),
            ValidationHandler(wanted["interval"], validator),
            EpochReport(str(folder / "epochs.jsonl"), validator, best, 3),
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=True),
        ],
    )
    for engine in (trainer, validator):
        engine.logger.disabled = True
    average.attach(trainer)
    Resume(str(folder / "resume"), 3, network, scheduler, validator, average, best, seed=5).attach(trainer)
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
