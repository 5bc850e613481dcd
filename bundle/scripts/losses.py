"""Losses of the three stages; each stage adds terms of higher frequency. All volumes are scaled to [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from lpips import LPIPS
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, l1_loss

from .errors import PretrainedWeightsError
from .geometry import BiplanarGeometry
from .region import Region
from .reprojection import Reprojection
from .stages import upsample
from .ssim import structural_similarity

VGG16 = torchvision.models.VGG16_Weights.IMAGENET1K_V1


class SSIMLoss(nn.Module):
    """One minus the 3-D structural similarity, see :func:`~scripts.ssim.structural_similarity`."""

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Volumes `(B, 1, S, S, S)` with S of at least 11, to a scalar."""
        return 1 - structural_similarity(prediction, truth).mean()


class TriPlanarVGGLoss(nn.Module):
    """
    LPIPS distance (Zhang et al., 2018, arXiv:1801.03924) of axial, coronal and sagittal slices, on VGG-16 features.

    MONAI's `PerceptualLoss` is the same with pretrained weights, but downloads them even when it is told not to.

    Args:
        weights: "pretrained" takes the ImageNet weights of torchvision, downloaded on first use; "untrained" leaves
            VGG-16 at its random initialisation, fixed by `seed`, which is for trying things out without a network;
            anything else is the path of a torchvision VGG-16 state dict.
        fraction: share of the slices of each axis that is compared, drawn anew at each step.
        seed: of the untrained mode.

    Raises:
        PretrainedWeightsError: when the weights cannot be had; the message says how to get them.
    """

    def __init__(self, weights: str = "pretrained", fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.fraction = fraction
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lpips = LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if weights != "untrained":
            self._load(_downloaded_vgg16() if weights == "pretrained" else weights)
        self.requires_grad_(False)

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Volumes `(B, 1, S, S, S)` with S of at least 16, to a scalar."""
        return torch.stack([self._along(axis, prediction, truth) for axis in (2, 3, 4)]).mean()

    def _along(self, axis: int, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        count = prediction.shape[axis]
        drawn = torch.randperm(count)[: max(1, round(self.fraction * count))].to(prediction.device)
        return self.lpips(*(self._slices(volume, axis, drawn) for volume in (prediction, truth))).mean()

    @staticmethod
    def _slices(volume: torch.Tensor, axis: int, drawn: torch.Tensor) -> torch.Tensor:
        slices = volume.index_select(axis, drawn).movedim(axis, 1).flatten(0, 1)
        return 2 * slices.expand(-1, 3, -1, -1) - 1

    def _load(self, path: str) -> None:
        vgg16 = _read_state_dict(path)
        for name, parameter in self.lpips.net.named_parameters():
            name = f"features.{name.split('.', 1)[1]}"
            found = vgg16.get(name)
            if getattr(found, "shape", None) != parameter.shape:
                shape = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                raise PretrainedWeightsError(
                    f"{path}: '{name}' {shape}, expected {tuple(parameter.shape)}; the file is no state dict of "
                    f"torchvision's VGG-16 ({VGG16.url.rpartition('/')[2]} is)."
                )
            parameter.data.copy_(found)


class GradientMagnitudeLoss(nn.Module):
    """Mean absolute difference of the gradients' magnitudes, by forward differences in scaled units per voxel."""

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Volumes `(B, 1, S, S, S)`, to a scalar."""
        return l1_loss(_gradient_magnitude(prediction), _gradient_magnitude(truth))


class DRRReprojectionLoss(nn.Module):
    """
    Mean absolute difference between the X-rays and the projections of the volume, both as scaled line integrals.

    Args:
        geometry: the nominal set-up.
        hu_window: lowest and highest HU of the volume's scale.
        xray_scale: line integral that the X-rays' scale calls 1.
    """

    def __init__(self, geometry: BiplanarGeometry, hu_window: Sequence[float], xray_scale: float) -> None:
        super().__init__()
        self.geometry, self.reprojection = geometry, Reprojection(hu_window, xray_scale)

    def forward(
        self,
        prediction: torch.Tensor,
        xrays: torch.Tensor,
        base: torch.Tensor | None = None,
        region: Region | None = None,
        geometry: BiplanarGeometry | None = None,
    ) -> torch.Tensor:
        """
        A volume `(B, 1, S, S, S)` and the X-rays `(B, 2, P, P)`, compared at 2S pixels, to a scalar. `geometry` is that of
        these X-rays, the nominal one by default.

        With a `region` the prediction holds that part, and `base`, a whole volume, the rest: line integrals are linear,
        so that those of the base and those of what the part changes add up.
        """
        if region is None:
            drr = self.project(prediction, geometry)
        else:
            attenuation = self.reprojection.attenuation
            change = attenuation(prediction) - attenuation(region.of(base))
            drr = self.project(base, geometry) + self._films(change, region, geometry)
        return l1_loss(drr, adaptive_avg_pool2d(xrays, drr.shape[-1]))

    def project(self, volume: torch.Tensor, geometry: BiplanarGeometry | None = None) -> torch.Tensor:
        """Scaled line integrals of a scaled volume `(B, 1, S, S, S)`: `(B, 2, 2S, 2S)`."""
        return self._films(self.reprojection.attenuation(volume), Region.whole(volume.shape[-1]), geometry)

    def _films(self, mu: torch.Tensor, region: Region, geometry: BiplanarGeometry | None) -> torch.Tensor:
        return self.reprojection.films(mu, geometry or self.geometry, region, region.size)


class Stage1Loss(nn.Module):
    """
    Weighted L1 and SSIM. A term of weight 0 is left out, here and in the later stages.

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
        self, prediction: torch.Tensor, truth: torch.Tensor, xrays: torch.Tensor, **drr
    ) -> dict[str, torch.Tensor]:
        """Each term by name, before its weight. `drr` are further arguments of :class:`DRRReprojectionLoss`."""
        return {name: self._term(name, prediction, truth, xrays, **drr) for name in self.losses}

    def forward(self, prediction: torch.Tensor, truth: torch.Tensor, xrays: torch.Tensor, **drr) -> torch.Tensor:
        """Volumes `(B, 1, X, Y, Z)` and X-rays `(B, 2, P, P)` to the weighted sum of the terms."""
        return self.weigh(self.terms(prediction, truth, xrays, **drr))

    def weigh(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return sum(self.weights[name] * term for name, term in terms.items())

    def _add(self, name: str, weight: float, make: Callable[..., nn.Module], *arguments) -> None:
        if weight:
            self.weights[name], self.losses[name] = weight, make(*arguments)

    def _term(self, name: str, prediction: torch.Tensor, truth: torch.Tensor, xrays: torch.Tensor, **drr) -> torch.Tensor:
        return self.losses[name](prediction, truth)


class Stage2Loss(Stage1Loss):
    """
    Stage 1's terms, VGG and, when it is asked for, DRR reprojection.

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
        **reprojection,
    ) -> None:
        super().__init__(l1, ssim)
        self._add("vgg", vgg, TriPlanarVGGLoss, vgg_weights, vgg_fraction)
        self._add("drr", drr, partial(DRRReprojectionLoss, **reprojection))

    def _term(self, name: str, prediction: torch.Tensor, truth: torch.Tensor, xrays: torch.Tensor, **drr) -> torch.Tensor:
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

    def __init__(self, gradient: float = 0.2, drr: float = 0.3, **stage2) -> None:
        super().__init__(drr=drr, **stage2)
        self._add("gradient", gradient, GradientMagnitudeLoss)


class MultiScaleLoss(nn.Module):
    """
    The loss of one stage on the cascade's output, against the truth averaged to that stage's size.

    After each call :attr:`terms` holds the total and every term by name, for the log.

    Args:
        stage: 1, 2 or 3.
        arguments: those of :class:`Stage1Loss`, :class:`Stage2Loss` or :class:`Stage3Loss`.

    Raises:
        ValueError: when `stage` is none of them.
    """

    def __init__(self, stage: int, **arguments) -> None:
        super().__init__()
        losses = {1: Stage1Loss, 2: Stage2Loss, 3: Stage3Loss}
        if stage not in losses:
            raise ValueError(f"MultiScaleLoss: stage is {stage!r}, expected 1, 2 or 3.")
        self.stage = stage
        self.loss = losses[stage](**arguments)
        self.names = ("loss", *self.loss.weights)
        self.terms: dict[str, float] = {}

    def forward(self, volumes: Sequence[torch.Tensor], target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Args:
            volumes: the cascade's output, at least as far as this stage.
            target: "ct", the truth `(B, 1, S, S, S)` at any multiple of the stage's size, "xrays", `(B, 2, P, P)`, their
                "geometry" where it is not the nominal one, and, when the stage's volume is only a part, its "region".

        Returns:
            A scalar.
        """
        prediction, region = volumes[self.stage - 1], target.get("region")
        drr = {"geometry": target.get("geometry")}
        if region is not None and self.stage > 1:
            drr |= {"base": upsample(volumes[self.stage - 2]), "region": region}
        region = region or Region.whole(prediction.shape[-1])
        truth = region.of(adaptive_avg_pool3d(target["ct"], region.size))
        terms = self.loss.terms(prediction, truth, target["xrays"], **drr)
        total = self.loss.weigh(terms)
        values = torch.stack([value.detach().float() for value in (total, *terms.values())])
        self.terms = dict(zip(("loss", *terms), values.tolist()))  # at once: each transfer makes the GPU wait
        return total


def _gradient_magnitude(volume: torch.Tensor) -> torch.Tensor:
    core = volume[..., :-1, :-1, :-1]
    steps = [volume[..., 1:, :-1, :-1] - core, volume[..., :-1, 1:, :-1] - core, volume[..., :-1, :-1, 1:] - core]
    return torch.stack(steps).square().sum(0).add(1e-8).sqrt()


def _downloaded_vgg16() -> str:
    """Path of torchvision's ImageNet weights in the hub's folder, downloaded when they are not there."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(VGG16.url))
    if os.path.isfile(path):
        return path
    try:
        VGG16.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise PretrainedWeightsError(
            f"The VGG-16 weights of the perceptual loss could not be downloaded from {VGG16.url} ({error}). Either "
            f"place that file at {path}, or name it in the config as loss#vgg_weights, or set loss#vgg_weights to "
            f"'untrained' to go on with random features, which is good for trying things out and not for results."
        ) from error
    return path


def _read_state_dict(path: str) -> Mapping[str, torch.Tensor]:
    if not os.path.isfile(path):
        raise PretrainedWeightsError(
            f"loss#vgg_weights names {path}, which is not a file; expected a torchvision VGG-16 state dict, "
            f"'pretrained' or 'untrained'."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise PretrainedWeightsError(
            f"{path}: cannot be read as a checkpoint of VGG-16 ({type(error).__name__}); expected a torchvision "
            f"state dict. Remove the file or replace it by {VGG16.url}."
        ) from error
    if not isinstance(state, Mapping):
        raise PretrainedWeightsError(
            f"{path}: holds a {type(state).__name__}, expected the state dict of torchvision's VGG-16."
        )
    return state
