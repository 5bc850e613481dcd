"""Figures in TensorBoard: slices of the ground truth and of every stage, and X-rays next to reprojections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from ..losses.reprojection import DRRReprojectionLoss
from ..losses.stage_losses import MultiScaleLoss
from ..projection.imaging import ImagingModel
from .figures import volume_figure, xray_figure


def step_curves(loss: MultiScaleLoss) -> Callable[[Any], dict[str, float]]:
    """An `output_transform` for MONAI's TensorBoard handler: each term of the loss of the last step, by name."""
    return lambda output: {f"step/{name}": term for name, term in loss.terms.items()}


class TensorBoardPictures:
    """
    An Ignite handler for a validator: shows the first validation case after each validation.

    Args:
        log_dir: TensorBoard's folder.
        imaging: scales of volumes and X-rays, and the nominal acquisition geometry.
    """

    def __init__(self, log_dir: str, imaging: ImagingModel) -> None:
        self.writer = SummaryWriter(log_dir)
        self.imaging, self.reprojection = imaging, DRRReprojectionLoss(imaging)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_is_first), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        output, step = engine.state.output, engine.state.epoch
        volumes = {f"stage {i}": volume[:1].float() for i, volume in enumerate(output["pred"], start=1)}
        truth, xrays = (output["label"][key][:1].float() for key in ("ct", "xrays"))
        in_hu = {name: self.imaging.to_hu(volume[0, 0]) for name, volume in volumes.items()}
        slices = volume_figure(in_hu, self.imaging.to_hu(truth[0, 0]))
        self.writer.add_figure("slices", slices, step)
        geometry = output["label"]["geometry"].of_case(0)
        drrs = {name: self.reprojection.project(volume, geometry)[0] for name, volume in volumes.items()}
        self.writer.add_figure("X-rays and reprojections", xray_figure(xrays[0], drrs), step)
        self.writer.flush()


def _is_first(engine: Engine, iteration: int) -> bool:
    return engine.state.epoch_length is None or iteration % engine.state.epoch_length == 1 % engine.state.epoch_length
