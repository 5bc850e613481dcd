"""
View classification: what a radiograph shows and how it lies, by its image alone: frontal or lateral, which way up,
which way a lateral one faces, whether a frontal one is a mirror image, and whether dark stands for bright.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from ..errors import InputError
from ..io.atomic_write import NOTICE, write_json
from ..io.radiograph import XRAY_KEYS, Radiograph, checked_image
from ..io.sidecar import Sidecar
from .detector_placement import BORDER_LEVEL, Area

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SIDE = 32
"""Pixels along a side of what is classified: lungs, heart and spine are left, ribs and letters are not."""
LOCAL = 9
"""Pixels along a side of the neighbourhood that a pixel is compared with, about that of a heart."""
LEAST_DEVIATION = 0.1
"""Standard deviation of ranks, from -1 to 1, that counts as contrast: a flat neighbourhood is not blown up."""
WIDTHS = (12, 16, 24)
"""Channels of the convolutions. Wider ones told held-out patients' projections apart no better."""
AIR_SHARE, LARGEST_AIR = 0.9, 0.4
"""
Fraction of a row or column that has to be dark or bright as a border is for it to be cropped, and the fraction of a
side that is cropped at most: how much air lies beside the patient says nothing of the view. With the air left in, 4 of
24 projections of 12 CTs onto the whole detector were taken for the other plane.
"""
TURNS, MIRRORED, INVERTED = 4, 2, 2
POSES = TURNS * MIRRORED * INVERTED
SURE = 0.9
"""
Probability from which an answer counts as sure, so that a caller may act on it where nothing is declared; below, it is
open. Chosen on the real radiographs of development, see `docs/radiographs.md`.
"""
UNRECOGNISED = 0.5
"""Certainty below which an image counts as no radiograph of a chest; above, one thing is likelier than all else."""
VIEW_CLASSIFIER = Path(__file__).resolve().parents[2] / "models" / "view_classifier.json"
"""The coefficients that ship with the bundle."""
MADE_BY = (
    "It is made by: python -m monai.bundle run --config_file \"['bundle/configs/train.json',"
    "'bundle/configs/weights/all.json','bundle/configs/views.json']\" --bundle_root bundle --dataset_dir DIR"
)


@dataclass(frozen=True)
class ViewProbabilities:
    """
    What an image may be. Every answer is a probability; which one counts the caller decides, see :data:`SURE`.

    Attributes:
        recognised: that it is a radiograph of a chest at all, 0 to 1.
        joint: if it is one, the probability of each view and pose, `(2, 2, 2, 4)`, of the sum 1. Axes: frontal,
            lateral; as it should be, inverted; as it should be, mirrored; rotated anticlockwise by 0, 90, 180, 270
            degrees, from display orientation or its mirror image.
    """

    recognised: float
    joint: Float[np.ndarray, "2 2 2 4"]

    @property
    def certainty(self) -> float:
        """
        That it is a chest in its likeliest plane, rotation and polarity: `recognised` times the largest such
        probability. Below :data:`UNRECOGNISED` the image is to be taken for none: what is no chest but was never met
        may be recognised as one, but then lies hardly any one way.
        """
        return self.recognised * float(self.joint.sum(2).max())

    @property
    def plane(self) -> dict[str, float]:
        """Of "frontal" and "lateral"."""
        return _named(XRAY_KEYS, self.joint.sum((1, 2, 3)))

    @property
    def rotation(self) -> dict[int, float]:
        """By how many degrees, anticlockwise, the image is rotated from upright: 0, 90, 180 or 270."""
        return dict(zip((0, 90, 180, 270), self.joint.sum((0, 1, 2)).tolist()))

    @property
    def facing(self) -> dict[str, float]:
        """If it is lateral, where anterior is once it is upright: "left", as in display orientation, or "right"."""
        return _named(("left", "right"), self.joint[1].sum((0, 2)))

    @property
    def mirrored(self) -> float:
        """If it is frontal, that the heart is on the other side: a mirror image, or dextrocardia."""
        return _named(("no", "yes"), self.joint[0].sum((0, 2)))["yes"]

    @property
    def inverted(self) -> float:
        """Of the polarity: that what attenuates more is darker."""
        return float(self.joint[:, 1].sum())

    def __str__(self) -> str:
        """All answers in one line; one that is not sure is called open."""
        plane, sides = self.plane, {"left": self.facing} if self.plane["lateral"] > 0.5 else {}
        answers = [
            _answer("plane", plane),
            _answer("rotation", {f"{degrees} degrees": p for degrees, p in self.rotation.items()}),
            *(_answer("facing", {f"anterior on the {side}": p for side, p in each.items()}) for each in sides.values()),
            _answer("polarity", {"as it should be": 1 - self.inverted, "inverted": self.inverted}),
        ]
        known = "" if self.certainty >= UNRECOGNISED else " not recognised as"
        return f"{known} a radiograph of a chest ({self.certainty:.2f}); {'; '.join(answers)}".strip()


class ViewNetwork(nn.Module):
    """
    Scores of standardised images: three convolutions, then one linear layer, for an image in display orientation.

    Whatever else an image may be is asked by undoing it: all sixteen poses, four rotations of the image and of its
    mirror image, in both polarities, are scored by the same coefficients. So the probability of a pose does not depend
    on how the image was stored: what a rotated image is said to be is rotated, exactly.
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.layers = nn.Sequential(
            nn.Conv2d(2, first, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, 1, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(third * (SIDE // 4) ** 2, len(XRAY_KEYS) + 1),
        )

    def forward(self, images: Float[Tensor, "B 2 S S"]) -> Float[Tensor, "B 33"]:
        """Logits of frontal in each pose, of lateral in each, and of neither; see :func:`undone`."""
        scores = self.layers(undone(images).flatten(0, 1)).unflatten(0, (len(images), POSES))
        return torch.cat([scores[..., 0], scores[..., 1], scores[..., 2].mean(1, keepdim=True)], dim=1)


class ViewClassifier:
    """
    Args:
        network: a trained one.
    """

    def __init__(self, network: ViewNetwork) -> None:
        self.network = network.eval()

    def __call__(
        self, image: Radiograph | np.ndarray, exposed: Bool[np.ndarray, "H W"] | None = None
    ) -> ViewProbabilities:
        """
        Args:
            image: a radiograph, or an image `(H, W)` of any unit, in which more attenuation should be larger.
            exposed: of an image: where it shows anything; by default everywhere. A radiograph has its own.

        Raises:
            InputError: when the image is not `(H, W)`, not finite, or constant where it is exposed.
        """
        radiograph = image if isinstance(image, Radiograph) else _as_radiograph(image, exposed)
        area = _without_air(radiograph.image, radiograph.exposed)
        values, mask = (
            torch.from_numpy(each[area].copy())[None, None] for each in (radiograph.image, radiograph.exposed)
        )
        return self.probabilities(standardised(values, mask))[0]

    @torch.no_grad()
    def probabilities(self, images: Float[Tensor, "B 2 S S"]) -> list[ViewProbabilities]:
        """Of standardised images."""
        logits = self.network(images).double()
        recognised = 1 - logits.softmax(1)[:, -1]
        joint = logits[:, :-1].softmax(1).reshape(-1, len(XRAY_KEYS), INVERTED, MIRRORED, TURNS)
        return [ViewProbabilities(float(known), each.numpy()) for known, each in zip(recognised, joint)]


def classify(
    image: Radiograph | np.ndarray, exposed: Bool[np.ndarray, "H W"] | None = None, path: str | Path = VIEW_CLASSIFIER
) -> ViewProbabilities:
    """
    What a radiograph shows and how it lies, see :class:`ViewClassifier`, by the coefficients of a file.

    Raises:
        CheckpointError: when the file is missing or cannot be used, see :func:`read_view_classifier`.
        InputError: when the image cannot be classified.
    """
    return read_view_classifier(str(path))(image, exposed)


def standardised(images: Float[Tensor, "B 1 H W"], exposed: Bool[Tensor, "B 1 H W"]) -> Float[Tensor, "B 2 S S"]:
    """
    Images without unit, scale, brightness and size: averaged to :data:`SIDE` pixels a side, and there, of each exposed
    pixel, its rank among all, -1 to 1, and how many local standard deviations the rank is off its local mean.

    Ranks are the same after every increasing curve, and change their sign with the polarity. The shape of the image is
    given up, which collimation decides.
    """
    parts, images = exposed.float(), images.float()
    sums, weights = (adaptive_avg_pool2d(each, SIDE) for each in (torch.where(exposed, images, 0.0), parts))
    seen = weights > 0.5
    ranks = _ranks(sums / weights.clamp(min=1e-6), seen)
    off = ranks - _local_mean(ranks)
    deviation = _local_mean(off.square()).sqrt()
    return torch.cat([ranks, off / (deviation + LEAST_DEVIATION)], dim=1) * seen


def undone(images: Float[Tensor, "B C S S"]) -> Float[Tensor, "B 16 C S S"]:
    """
    Standardised images with each pose taken back: at ((inverted · 2) + mirrored) · 4 + k the image that is in display
    orientation if this one is inverted, a mirror image, then rotated anticlockwise by k quarter turns.
    """
    upright = [images.rot90(-turns, (-2, -1)) for turns in range(TURNS)]
    either = torch.stack([*upright, *(each.flip(-1) for each in upright)], dim=1)
    return torch.cat([either, -either], dim=1)


def write_view_classifier(path: str, network: ViewNetwork, content: dict[str, Any]) -> None:
    """
    Writes the coefficients, rounded to five digits, and what else is to be known of them.

    Raises:
        OutputError: when the file cannot be written.
    """
    layers = {_field(name): _rounded(value.double().tolist()) for name, value in network.state_dict().items()}
    write_json(path, {"notice": NOTICE, **content, "input": {"side": SIDE, "local": LOCAL}, "network": layers})


@lru_cache(maxsize=4)
def read_view_classifier(path: str) -> ViewClassifier:
    """
    What :func:`write_view_classifier` wrote.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when it was made for images that are
            standardised otherwise.
    """
    file = Sidecar(path, None, MADE_BY)
    for field, value in {"input.side": SIDE, "input.local": LOCAL}.items():
        file.require(field, value, "as images are standardised here")
    network = ViewNetwork()
    layers = {
        name: torch.from_numpy(file.numbers(f"network.{_field(name)}", tuple(value.shape))).float()
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(layers)
    return ViewClassifier(network)


def _as_radiograph(image: np.ndarray, exposed: np.ndarray | None) -> Radiograph:
    image = np.asarray(image)
    mask = np.ones(image.shape, bool) if exposed is None else np.asarray(exposed, bool)
    if image.ndim != 2 or mask.shape != image.shape:
        raise InputError(f"image: has shape {image.shape}, its mask {mask.shape}, expected one shape (H, W) for both.")
    return Radiograph("image", checked_image(image, mask, "image:"), mask, "presentation")


def _without_air(image: np.ndarray, exposed: np.ndarray) -> Area:
    """Rows and columns without borders and air, which are of the darkest or the brightest values, or not exposed."""
    low, high = float(image[exposed].min()), float(image[exposed].max())
    tolerance = BORDER_LEVEL * (high - low)
    flat = (image <= low + tolerance) | (image >= high - tolerance) | ~exposed
    sides = []
    for axis, length in enumerate(image.shape):
        kept = np.flatnonzero(flat.mean(1 - axis) < AIR_SHARE)
        first, stop = (int(kept[0]), int(kept[-1]) + 1) if kept.size else (0, length)
        widest = int(LARGEST_AIR * length)
        sides.append(slice(min(first, widest), max(stop, length - widest)))
    return sides[0], sides[1]


def _ranks(images: Float[Tensor, "B 1 S S"], seen: Bool[Tensor, "B 1 S S"]) -> Float[Tensor, "B 1 S S"]:
    """Of each pixel among those seen, -1 to 1; equal ones have the mean of theirs."""
    values = images.flatten(1).contiguous()
    ordered = torch.where(seen.flatten(1), values, torch.inf).sort(dim=1).values
    sides = [torch.searchsorted(ordered, values, right=right) for right in (False, True)]
    return (sum(sides) / seen.flatten(1).sum(1, keepdim=True).clamp(min=1) - 1).clamp(-1, 1).reshape(images.shape)


def _local_mean(images: Tensor) -> Tensor:
    return avg_pool2d(images, LOCAL, 1, LOCAL // 2, count_include_pad=False)


def _field(name: str) -> str:
    """Of a parameter: a sidecar's fields are named by place, with dots between."""
    return name.replace(".", "_")


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.5g}")


def _named(names: tuple[str, ...], masses: np.ndarray) -> dict[str, float]:
    """Probabilities, given that one of the names is true."""
    return dict(zip(names, (masses / max(float(masses.sum()), 1e-12)).tolist()))


def _answer(question: str, probabilities: dict[str, float]) -> str:
    answer, probability = max(probabilities.items(), key=lambda each: each[1])
    return f"{question} is {'open: ' if probability < SURE else ''}{answer} {probability:.2f}"
