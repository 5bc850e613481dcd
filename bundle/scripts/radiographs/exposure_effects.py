"""Random effects of a real exposure on projections: scatter, limbs at the border, local contrast, and cut sides."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import cos, pi, sin
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .scatter import with_scatter
from .unseen import SKIN_MM, beyond_border, continued


class _RandEffectd(RandomizableTransform, MapTransform):
    """What the transforms of this file have in common: X-rays `(2, P, P)`, each by itself, all or none of a record."""

    def __init__(self, keys: KeysCollection, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(None)
        for key in self.keys if self._do_transform else ():
            record[key] = torch.cat([self.changed(xray[None, None])[0] for xray in record[key]])
        return record

    def changed(self, xray: Tensor) -> Tensor:
        """One X-ray `(1, 1, P, P)` after the effect, drawn by the transform's own generator."""
        raise NotImplementedError


class RandScatterd(_RandEffectd):
    """
    Adds scattered radiation as one smooth term: T = (P + r G P) / (1 + r), with P = exp(-p) the transmission of the
    line integral p, G a Gaussian blur and r the ratio of scatter to primary in the open beam, as in
    :mod:`scripts.radiographs.scatter`. That scatter is the primary, convolved with a wide kernel: Boone and Seibert,
    Medical Physics 15 (1988).

    Args:
        keys: X-rays, `(2, P, P)`, as line integrals over `xray_scale`.
        xray_scale: line integral that is scaled to 1.
        detector_mm: side of the detector.
        ratio: smallest and largest r, 0 or more.
        width_mm: smallest and largest standard deviation of the blur, on the detector.
        prob: probability that anything is done.
    """

    def __init__(
        self,
        keys: KeysCollection,
        xray_scale: float,
        detector_mm: float,
        ratio: Sequence[float],
        width_mm: Sequence[float],
        prob: float,
    ) -> None:
        super().__init__(keys, prob)
        self.xray_scale, self.detector_mm = xray_scale, detector_mm
        self.ratio, self.width_mm = tuple(ratio), tuple(width_mm)

    def changed(self, xray: Tensor) -> Tensor:
        ratio, width = self.R.uniform(*self.ratio), self.R.uniform(*self.width_mm)
        line_integrals = xray[0, 0].cpu().numpy() * self.xray_scale
        read = with_scatter(line_integrals, ratio, width, self.detector_mm / xray.shape[-1]) / self.xray_scale
        return torch.as_tensor(read, dtype=xray.dtype, device=xray.device)[None, None]


class RandLocalContrastd(_RandEffectd):
    """
    Weights bands of detail otherwise, as programs do that show radiographs: multi-frequency processing, after Vuylsteke
    and Schoeters, Multiscale image contrast amplification, SPIE 2167 (1994). What is coarser than the first of `sides`
    stays as it is.

    Args:
        keys: X-rays, `(2, P, P)`.
        sides: pixels along a side at which the image is split into bands, coarsest first.
        weights: for each band, from each of `sides` to the next and to the full size, the smallest and largest weight.
        prob: probability that anything is done.

    Raises:
        ValueError: when there is not one range of weights for each side.
    """

    def __init__(
        self, keys: KeysCollection, sides: Sequence[int], weights: Sequence[Sequence[float]], prob: float
    ) -> None:
        super().__init__(keys, prob)
        self.sides, self.weights = tuple(sides), tuple(weights)
        if len(self.sides) != len(self.weights):
            raise ValueError(f"weights has {len(self.weights)} ranges, expected {len(self.sides)}, one for each side.")

    def changed(self, xray: Tensor) -> Tensor:
        smooth = [
            interpolate(adaptive_avg_pool2d(xray, min(side, xray.shape[-1])), xray.shape[-2:], mode="bilinear")
            for side in self.sides
        ]
        bands = [finer - coarser for coarser, finer in zip(smooth, [*smooth[1:], xray])]
        weighted = (self.R.uniform(*weights) * band for weights, band in zip(self.weights, bands))
        return (smooth[0] + sum(weighted)).clamp(min=0)


class RandLimbsd(_RandEffectd):
    """
    Puts arms, shoulders or hands at the border: line integrals of ellipsoids of soft tissue whose middles lie about it,
    in each X-ray others, as a patient lifts the arms for the lateral one.

    Args:
        keys: X-rays, `(2, P, P)`.
        most: most of them in an X-ray, each there with a probability of a half.
        peak: smallest and largest value that one adds in its middle.
        prob: probability that anything is done.
    """

    def __init__(self, keys: KeysCollection, most: int, peak: Sequence[float], prob: float) -> None:
        super().__init__(keys, prob)
        self.most, self.peak = most, tuple(peak)

    def changed(self, xray: Tensor) -> Tensor:
        line = torch.linspace(-1, 1, xray.shape[-1], device=xray.device)
        down, right = torch.meshgrid(line, line, indexing="ij")
        for _ in range(self.R.binomial(self.most, 0.5)):
            where, turned = self.R.uniform(0, 2 * pi), self.R.uniform(0, pi)
            far = self.R.uniform(0.9, 1.3) / max(abs(cos(where)), abs(sin(where)))
            x, y = right - far * cos(where), down - far * sin(where)
            thick, long = self.R.uniform(0.1, 0.4), self.R.uniform(0.2, 1.0)
            squared = ((x * cos(turned) + y * sin(turned)) / thick) ** 2
            squared = squared + ((y * cos(turned) - x * sin(turned)) / long) ** 2
            xray = xray + self.R.uniform(*self.peak) * (1 - squared).clamp(min=0).sqrt()
        return xray


class ContinueBeyondBorderd(MapTransform):
    """
    Beyond the border of what is exposed the values go on and fade, as :class:`~scripts.CalibratePaird` gives them to
    the network, see :mod:`scripts.radiographs.unseen`.

    Args:
        keys: X-rays, `(2, P, P)`, line integrals over `xray_scale`.
        mask_key: field with the mask of the exposed area, a rectangle in each.
        xray_scale: line integral that is scaled to 1.
        detector_mm: side of the detector.
    """

    def __init__(self, keys: KeysCollection, mask_key: str, xray_scale: float, detector_mm: float) -> None:
        super().__init__(keys)
        self.mask_key, self.xray_scale, self.detector_mm = mask_key, xray_scale, detector_mm

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        seen = torch.as_tensor(record[self.mask_key]).cpu().numpy()
        if seen.all():
            return record
        beyond_mm = beyond_border(seen) * (self.detector_mm / seen.shape[-1])
        for key in self.keys:
            nearest = torch.stack([_of_nearest(xray, mask) for xray, mask in zip(record[key], record[self.mask_key])])
            line_integrals = nearest.cpu().numpy() * self.xray_scale
            going_on = continued(line_integrals, beyond_mm, SKIN_MM) / self.xray_scale
            record[key] = torch.as_tensor(going_on, dtype=record[key].dtype, device=record[key].device)
        return record


def _of_nearest(xray: Tensor, mask: Tensor) -> Tensor:
    """The values of a rectangle, beyond it those of its nearest pixel."""
    for axis in (0, 1):
        shown = mask.any(1 - axis).nonzero()
        first, last = (int(shown[0]), int(shown[-1])) if len(shown) else (0, mask.shape[axis] - 1)
        places = torch.arange(mask.shape[axis], device=xray.device).clamp(first, last)
        xray = xray.index_select(axis, places)
    return xray
