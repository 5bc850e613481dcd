"""Features of a pretrained VGG-16 as a loss, on slices of three planes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
import torchvision
from lpips import LPIPS
from torch import Tensor, nn

from ..errors import PretrainedWeightsError
from ..io.foreign_files import LONGEST_START, foreign_content

if TYPE_CHECKING:
    from jaxtyping import Float

VGG16 = torchvision.models.VGG16_Weights.IMAGENET1K_V1


class TriPlanarVGGLoss(nn.Module):
    """
    LPIPS distance (Zhang et al., 2018, arXiv:1801.03924) of axial, coronal and sagittal slices, on VGG-16 features.

    MONAI's `PerceptualLoss` is the same with pretrained weights, but downloads them also with `pretrained=False`.

    Args:
        weights: "pretrained" takes the ImageNet weights of torchvision, downloaded on first use; "untrained" leaves
            VGG-16 at its random initialisation, fixed by `seed`, which is for trying things out without a network;
            anything else is the path of a torchvision VGG-16 state dict.
        fraction: of the slices of each axis that is compared, drawn anew at each step.
        seed: of the untrained mode.

    Raises:
        PretrainedWeightsError: when the weights cannot be had; the message says how to get them.
    """

    def __init__(self, weights: str = "pretrained", fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.fraction = fraction
        features = None
        if weights != "untrained":
            features = _vgg16_features(_downloaded_vgg16() if weights == "pretrained" else weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lpips = LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if features is not None:
            for name, parameter in self.lpips.net.named_parameters():  # such as slice5.28.weight
                parameter.data.copy_(features[name.split(".", 1)[1]])
        self.requires_grad_(False)

    def forward(self, prediction: Float[Tensor, "B 1 X Y Z"], truth: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, ""]:
        """The loss of volumes of at least 16 voxels a side."""
        return torch.stack([self._along(axis, prediction, truth) for axis in (2, 3, 4)]).mean()

    def _along(self, axis: int, prediction: Tensor, truth: Tensor) -> Tensor:
        count = prediction.shape[axis]
        drawn = torch.randperm(count)[: max(1, round(self.fraction * count))].to(prediction.device)
        return self.lpips(*(self._slices(volume, axis, drawn) for volume in (prediction, truth))).mean()

    @staticmethod
    def _slices(volume: Tensor, axis: int, drawn: Tensor) -> Tensor:
        slices = volume.index_select(axis, drawn).movedim(axis, 1).flatten(0, 1)
        return 2 * slices.expand(-1, 3, -1, -1) - 1


def _vgg16_features(path: str) -> Mapping[str, Tensor]:
    """The parameters of VGG-16's convolutions, checked, such as `28.weight`."""
    vgg16, prefix = _read_state_dict(path), "features."
    with torch.device("meta"):  # shapes alone: no memory, and no random number
        expected = torchvision.models.vgg16(weights=None).features.state_dict()
    for name, parameter in expected.items():
        found = vgg16.get(prefix + name)
        if getattr(found, "shape", None) != parameter.shape:
            shape = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise PretrainedWeightsError(
                f"{path}: '{prefix}{name}' {shape}, expected {tuple(parameter.shape)}; the file is no state dict of "
                f"torchvision's VGG-16 ({VGG16.url.rpartition('/')[2]} is)."
            )
    return {name: vgg16[prefix + name] for name in expected}


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


def _found(path: str) -> str | None:
    """What lies in the place of the weights, where that is known."""
    with open(path, "rb") as file:
        return foreign_content(file.read(LONGEST_START), may_be_zip=True)


def _read_state_dict(path: str) -> Mapping[str, Tensor]:
    if not os.path.isfile(path):
        raise PretrainedWeightsError(
            f"loss#vgg_weights names {path}, which is not a file; expected a torchvision VGG-16 state dict, "
            f"'pretrained' or 'untrained'."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        found = None if isinstance(error, OSError) else _found(path)
        raise PretrainedWeightsError(
            f"{path}: cannot be read as a checkpoint of VGG-16 ({found or type(error).__name__}); expected a "
            f"torchvision state dict. Remove the file or replace it by {VGG16.url}."
        ) from error
    if not isinstance(state, Mapping):
        raise PretrainedWeightsError(
            f"{path}: holds a {type(state).__name__}, expected the state dict of torchvision's VGG-16."
        )
    return state
