"""
What :mod:`on_gpu` measures: each function is one measurement on one device, in the process that calls it. The keys of a
result end in the unit. The CT is the mean volume that the bundle ships, so that values are those of a chest.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from monai.utils import set_determinism

import cascade
from measure import MIB, peak_of_memory, projection, seconds
from scripts import BiplanarGeometry
from scripts import lift as lift_features
from scripts.training.checkpoints import read_checkpoint

MODELS = ROOT / "bundle" / "models"
WARM_UP = 2
"""Runs at most that do not count, in which kernels are loaded and chosen."""
LIFTED_CHANNELS = 16


def training_step(
    stage: int, crop: int | None, device: str, quick: bool, repeats: int, compiled: bool = False
) -> dict[str, Any]:
    """
    A training step of a stage (forward, loss, backward, optimizer) at the config's batch and in its precision, and what
    comes before it, the batch's deformation, projection and augmentation. VGG is untrained, which changes no figure.
    """
    config = configuration(["train.json", *([f"stage{stage}.json"] if stage > 1 else [])], device, quick)
    config.update({"vgg_weights": "untrained", "crop": crop, "compile": compiled})
    batch, step = config["batch_size"], TrainingStep(config, device)
    prepare = partial(step.prepare, list_data_collate([chest(config)] * batch))
    step.take(prepare())
    step_s, step_peak = _measured(step, device, repeats)
    prepare_s, prepare_peak = _measured(prepare, device, repeats)
    how = {"batch": batch, "precision": str(step.precision).removeprefix("torch."), "loss": step.loss_value}
    return {**how, "step_s": step_s, **step_peak, "prepare_s": prepare_s, **_named("prepare", prepare_peak)}


def planned_step(stage: int, crop: int | None, device: str, quick: bool) -> dict[str, Any]:
    """What :mod:`planning` says that the step holds in tensors; apart, so that its failure costs no measurement."""
    batch = configuration(["train.json", *([f"stage{stage}.json"] if stage > 1 else [])], device, quick)["batch_size"]
    precision = "bfloat16" if device == "cuda" else "float32"
    case = cascade.Case("planned", "cascade", stage, precision, batch, crop, quick=quick)
    return {"batch": batch, "precision": precision, "planned_bytes": cascade.measure(case, 0)["planned"]}


class TrainingStep:
    """
    The step that the bundle's trainer makes of a prepared batch.

    Args:
        config: the merged configs of a stage.
        device: where it runs.
    """

    def __init__(self, config: ConfigParser, device: str) -> None:
        set_determinism(0)  # as training does: cuDNN then chooses among its deterministic kernels
        self.device, self.amp = device, config.get_parsed_content("amp")
        self.network = config.get_parsed_content("network").train()
        if config["compile"]:
            self.network = torch.compile(self.network)
        self.loss = config.get_parsed_content("loss").to(device)
        self.optimizer = config.get_parsed_content("optimizer")
        self.prepare = partial(config.get_parsed_content("train#trainer#prepare_batch"), device=device)
        self.precision = config.get_parsed_content("amp_kwargs#dtype") if self.amp else torch.float32
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp)
        self.loss_value = float("nan")

    def take(self, prepared: tuple[torch.Tensor, dict[str, Any], tuple, dict[str, Any]]) -> None:
        """The batch of the next steps, as `prepare` returns it."""
        self.xrays, self.target, _, self.arguments = prepared

    def __call__(self) -> None:
        with torch.autocast(self.device, self.precision, enabled=self.amp):
            loss = self.loss(self.network(self.xrays, **self.arguments), self.target)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss_value = loss.item()


@torch.no_grad()
def inference(precision: str, device: str, quick: bool, repeats: int) -> dict[str, Any]:
    """
    The shipped weights' last volume from a pair of X-rays, and how far it is, in HU, from that of the CPU in float32;
    with `quick` the weights are random.
    """
    torch.manual_seed(0)
    config = configuration(["inference.json"], device, quick)
    config["inferer#bfloat16"] = precision == "bfloat16"
    network = config.get_parsed_content("network_def").eval()
    if not quick:
        network.up_to(3).load_state_dict(read_checkpoint(str(MODELS / "model.pt")))
    imaging = config.get_parsed_content("imaging")
    xrays = imaging.project(chest(configuration(["train.json"], "cpu", quick))["ct"].as_tensor()[None])
    reference = network(xrays)
    run = partial(config.get_parsed_content("inferer"), xrays.to(device), network.to(device))
    run_s, peak = _measured(run, device, repeats)
    low, high = imaging.hu_window
    difference = (run().cpu() - reference).abs() * (high - low)
    far = {"mean_difference_hu": difference.mean().item(), "largest_difference_hu": difference.max().item()}
    return {"precision": precision, "voxels": reference.shape[-1], "run_s": run_s, **peak, **far}


def lift(device: str, size: int, repeats: int) -> dict[str, Any]:
    """Backprojects feature maps of 16 channels and (2 `size`)² pixels into two volumes of `size`³; their gradient."""
    geometry = BiplanarGeometry(detector_pixels=2 * size)
    features = torch.rand(1, 2, LIFTED_CHANNELS, 2 * size, 2 * size, device=device, requires_grad=True)
    gradient = torch.rand(1, 2, LIFTED_CHANNELS, size, size, size, device=device)

    def forward() -> None:
        with torch.no_grad():
            lift_features(features, geometry, size)

    def both() -> None:
        features.grad = None
        lift_features(features, geometry, size).backward(gradient)

    forward_s, forward_peak = _measured(forward, device, repeats)
    both_s, both_peak = _measured(both, device, repeats)
    times = {"forward_s": forward_s, "both_s": both_s}
    return {"channels": LIFTED_CHANNELS, **times, **_named("forward", forward_peak), **_named("both", both_peak)}


def project_both(projector: str, size: int, device: str, budget: float) -> dict[str, Any]:
    """Both views of (2 `size`)² pixels, and the gradient in the volume of `size`³, see :func:`measure.projection`."""
    result = projection(projector, size, views=2, device=device, budget=budget)
    peaks = {name: result["start_mib"] + result[f"{name}_added_mib"] for name in ("forward", "both")}
    kind = "allocated" if device == "cuda" else "resident"
    in_bytes = {f"{name}_peak_{kind}_bytes": round(peak * MIB) for name, peak in peaks.items()}
    return {"forward_s": result["forward_s"], "both_s": result["both_s"], **in_bytes}


def configuration(names: Sequence[str], device: str, quick: bool) -> ConfigParser:
    """Configs of the bundle, merged, with the sizes of `tiny.json` if `quick`."""
    config = ConfigParser()
    further = ["tiny.json"] if quick else []
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in (*names, *further)])
    config["device"] = f"$torch.device('{device}')"
    return config


def chest(config: ConfigParser) -> dict[str, Any]:
    """A record as training loads it."""
    return config.get_parsed_content("load")({"ct": str(MODELS / "mean_volume.nii.gz")})


def _named(what: str, figures: dict[str, int]) -> dict[str, int]:
    return {f"{what}_{name}": value for name, value in figures.items()}


def _measured(run: Callable[[], object], device: str, repeats: int) -> tuple[float, dict[str, int]]:
    """Median time after the warm-up, and the peak of memory in all runs, with what is held throughout."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(min(WARM_UP, repeats)):
        run()
    time_s = median(seconds(run, device) for _ in range(repeats))
    if device == "cuda":
        peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return time_s, {f"peak_{name}_bytes": value for name, value in peak.items()}
    return time_s, {"peak_resident_bytes": round(peak_of_memory(device) * MIB)}
