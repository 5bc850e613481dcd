"""Pictures in TensorBoard: slices of the truth and of every stage, and the X-rays beside the reprojections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from ..losses.reprojection import DRRReprojectionLoss
from ..projection.attenuation import scaled_to_hu
from ..projection.geometry import BiplanarGeometry
from .figures import volume_figure, xray_figure


class TensorBoardPictures:
    """
    An Ignite handler for a validator: shows the first validation case after each validation.

    Args:
        log_dir: TensorBoard's folder.
        geometry: the nominal set-up.
        hu_window: lowest and highest HU of the scale.
        xray_scale: line integral that the X-rays' scale calls 1.
    """

    def __init__(
        self,
        log_dir: str,
        geometry: BiplanarGeometry,
        hu_window: Sequence[float],
        xray_scale: float,
    ) -> None:
        self.writer = SummaryWriter(log_dir)
        self.hu_window = tuple(hu_window)
        self.reprojection = DRRReprojectionLoss(geometry, hu_window, xray_scale)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_is_first), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        output, step = engine.state.output, engine.state.epoch
        volumes = {f"stage {i}": volume[:1].float() for i, volume in enumerate(output["pred"], start=1)}
        truth, xrays = (output["label"][key][:1].float() for key in ("ct", "xrays"))
        in_hu = {name: scaled_to_hu(volume[0, 0], self.hu_window) for name, volume in volumes.items()}
        slices = volume_figure(in_hu, scaled_to_hu(truth[0, 0], self.hu_window))
        self.writer.add_figure("slices", slices, step)
        geometry = output["label"]["geometry"].of_case(0)
        drrs = {name: self.reprojection.project(volume, geometry)[0] for name, volume in volumes.items()}
        self.writer.add_figure("X-rays and reprojections", xray_figure(xrays[0], drrs), step)
        self.writer.flush()


def _is_first(engine: Engine, iteration: int) -> bool:
    return engine.state.epoch_length is None or iteration % engine.state.epoch_length == 1 % engine.state.epoch_length
