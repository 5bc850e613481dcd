"""Losses of the three stages; each stage adds terms of higher frequency. All volumes are scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

from ..projection.region import Region
from ..projection.resampling import upsample
from .gradient import GradientMagnitudeLoss
from .perceptual import TriPlanarVGGLoss
from .reprojection import DRRReprojectionLoss
from .ssim import SSIMLoss

if TYPE_CHECKING:
    from jaxtyping import Float


class Stage1Loss(nn.Module):
    """
    Weighted L1 and SSIM. A term of weight 0 is omitted, here and in the later stages.

    Args:
        l1: weight of the mean absolute error.
        ssim: weight of :class:`SSIMLoss`.
    """

    def __init__(self, l1: float = 1.0, ssim: float = 0.5) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self.losses = nn.ModuleDict()
        self._add("l1", l1, nn.L1Loss)
        self._add("ssim", ssim, SSIMLoss)

    def terms(
        self,
        prediction: Float[Tensor, "B 1 X Y Z"],
        truth: Float[Tensor, "B 1 X Y Z"],
        xrays: Float[Tensor, "B 2 P P"],
        **drr: Any,
    ) -> dict[str, Float[Tensor, ""]]:
        """Each term by name, before its weight. `drr` are further arguments of :class:`DRRReprojectionLoss`."""
        return {name: self._term(name, prediction, truth, xrays, **drr) for name in self.losses}

    def forward(
        self,
        prediction: Float[Tensor, "B 1 X Y Z"],
        truth: Float[Tensor, "B 1 X Y Z"],
        xrays: Float[Tensor, "B 2 P P"],
        **drr: Any,
    ) -> Float[Tensor, ""]:
        """The weighted sum of the terms."""
        return self.weigh(self.terms(prediction, truth, xrays, **drr))

    def weigh(self, terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        return reduce(torch.add, (self.weights[name] * term for name, term in terms.items()))

    def _add(self, name: str, weight: float, make: Callable[..., nn.Module], *arguments: Any) -> None:
        if weight:
            self.weights[name], self.losses[name] = weight, make(*arguments)

    def _term(self, name: str, prediction: Tensor, truth: Tensor, xrays: Tensor, **drr: Any) -> Tensor:
        return self.losses[name](prediction, truth)


class Stage2Loss(Stage1Loss):
    """
    Stage 1's terms, VGG and, where its weight is not 0, DRR reprojection.

    Args:
        l1: weight of the mean absolute error.
        ssim: weight of :class:`SSIMLoss`.
        vgg: weight of :class:`TriPlanarVGGLoss`.
        vgg_weights: its `weights`.
        vgg_fraction: its `fraction`.
        drr: weight of :class:`DRRReprojectionLoss`.
        reprojection: its arguments, which `drr` needs.
    """

    def __init__(
        self,
        l1: float = 1.0,
        ssim: float = 0.5,
        vgg: float = 0.1,
        vgg_weights: str = "pretrained",
        vgg_fraction: float = 0.1,
        drr: float = 0.0,
        **reprojection: Any,
    ) -> None:
        super().__init__(l1, ssim)
        self._add("vgg", vgg, TriPlanarVGGLoss, vgg_weights, vgg_fraction)
        self._add("drr", drr, partial(DRRReprojectionLoss, **reprojection))

    def _term(self, name: str, prediction: Tensor, truth: Tensor, xrays: Tensor, **drr: Any) -> Tensor:
        if name == "drr":
            return self.losses[name](prediction, xrays, **drr)
        return super()._term(name, prediction, truth, xrays, **drr)


class Stage3Loss(Stage2Loss):
    """
    Stage 2's terms, DRR reprojection among them, and gradient magnitude.

    Args:
        gradient: weight of :class:`GradientMagnitudeLoss`.
        drr: weight of :class:`DRRReprojectionLoss`.
        stage2: further arguments of :class:`Stage2Loss`.
    """

    def __init__(self, gradient: float = 0.2, drr: float = 0.3, **stage2: Any) -> None:
        super().__init__(drr=drr, **stage2)
        self._add("gradient", gradient, GradientMagnitudeLoss)


class MultiScaleLoss(nn.Module):
    """
    The loss of one stage on the cascade's output, against the ground truth averaged to that stage's size.

    After each call :attr:`terms` holds the total and every term by name, for the log.

    Args:
        stage: 1, 2 or 3.
        arguments: those of :class:`Stage1Loss`, :class:`Stage2Loss` or :class:`Stage3Loss`.

    Raises:
        ValueError: when `stage` is none of them.
    """

    def __init__(self, stage: int, **arguments: Any) -> None:
        super().__init__()
        losses = {1: Stage1Loss, 2: Stage2Loss, 3: Stage3Loss}
        if stage not in losses:
            raise ValueError(f"MultiScaleLoss: stage is {stage!r}, expected 1, 2 or 3.")
        self.stage = stage
        self.loss = losses[stage](**arguments)
        self.names = ("loss", *self.loss.weights)
        self.terms: dict[str, float] = {}

    def forward(self, volumes: Sequence[Float[Tensor, "B 1 _ _ _"]], target: Mapping[str, Any]) -> Float[Tensor, ""]:
        """
        Args:
            volumes: the cascade's output, at least as far as this stage.
            target: "ct", the ground truth `(B, 1, S, S, S)` at any multiple of the stage's size, "xrays",
                `(B, 2, P, P)`, their "geometry" where it is not the nominal one, and the "region" of a stage's volume
                that is not the whole.
        """
        prediction = volumes[self.stage - 1]
        region: Region | None = target.get("region")
        drr: dict[str, Any] = {"geometry": target.get("geometry")}
        if region is not None and self.stage > 1:
            drr |= {"base": upsample(volumes[self.stage - 2]), "region": region}
        region = region or Region.whole(prediction.shape[-1])
        truth = region.of(adaptive_avg_pool3d(target["ct"], region.size))
        terms = self.loss.terms(prediction, truth, target["xrays"], **drr)
        total = self.loss.weigh(terms)
        values = torch.stack([value.detach().float() for value in (total, *terms.values())])
        self.terms = dict(zip(("loss", *terms), values.tolist()))  # at once: each transfer makes the GPU wait
        return total
