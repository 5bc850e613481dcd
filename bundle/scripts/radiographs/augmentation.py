"""Random errors of X-rays: of the acquisition geometry that they are projected in, and of the detector."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile

from ..projection.geometry import BiplanarGeometry, at_distance


class RandGeometry(Randomizable):
    """
    Random acquisition geometries about a given one. The network may receive what is drawn, or not: then it is an error.

    The source's distance changes with the detector's in the same proportion, so that the plane through the isocentre
    keeps its magnification, to which real radiographs are brought as well. Each view is rotated by itself. A rotated
    view takes the projector's general path.

    Args:
        distance: largest relative change of the distances, drawn every time; 0 for none.
        degrees: largest rotation about each axis; 0 for none.
        turned: fraction of the draws in which the views are rotated.
        views: pairs of views, such as `[("PA", "LL"), ("AP", "LL")]`, each as likely; None leaves them as they are.

    Raises:
        InputError: when a view is unknown.
    """

    def __init__(
        self, distance: float, degrees: float, turned: float, views: Sequence[Sequence[str]] | None = None
    ) -> None:
        self.distance, self.degrees, self.turned = distance, degrees, turned
        self.views = None if views is None else [BiplanarGeometry(views=tuple(pair)).views for pair in views]

    def __call__(self, geometry: BiplanarGeometry) -> BiplanarGeometry:
        """An acquisition geometry about this one, which is that of one sample."""
        drawn = at_distance(geometry, 1 + self.R.uniform(-self.distance, self.distance))
        is_turned, angles = self.R.uniform() < self.turned, self.R.uniform(-self.degrees, self.degrees, (2, 3))
        if is_turned:
            drawn = replace(drawn, angles_deg=np.add(geometry.angles_deg, angles).tolist())
        return replace(drawn, views=self.views[self.R.randint(len(self.views))]) if self.views else drawn

    def nearest(self, geometry: BiplanarGeometry) -> BiplanarGeometry:
        """
        This geometry at the smallest distance that may be drawn.

        Raises:
            InputError: when the detector does not cover the reconstruction volume's footprint there.
        """
        return at_distance(geometry, 1 - self.distance)


class RandCollimationd(RandomizableTransform, MapTransform):
    """
    Narrows masks `(C, P, P)` of the exposed area to a random rectangle in each channel.

    Args:
        keys: the masks.
        largest: largest fraction of a side that is lost at each of its ends, below 0.5.
        prob: probability that anything is done.
    """

    def __init__(self, keys: KeysCollection, largest: float, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.largest = largest

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(None)
        for key in self.keys if self._do_transform else ():
            record[key] = torch.stack([self._narrowed(mask) for mask in record[key]])
        return record

    def _narrowed(self, mask: torch.Tensor) -> torch.Tensor:
        margins = self.R.uniform(0, self.largest, (2, 2)) * [[length] for length in mask.shape]
        rows, columns = (
            slice(round(first), length - round(last)) for (first, last), length in zip(margins, mask.shape)
        )
        open_part = torch.zeros_like(mask)
        open_part[rows, columns] = True
        return mask & open_part


class RandPoissonNoised(RandomizableTransform, MapTransform):
    """
    Poisson (quantum) noise of X-rays: for the line integral p, n ~ Poisson(N exp(-p)) photons are counted, and
    -log(n / N) read.

    A line integral of p gets the variance exp(p) / N. A pixel that no photon reaches reads one. The counts are drawn by
    torch's global generator of the device, all else by the transform's own.

    Args:
        keys: X-rays, as line integrals over `xray_scale`.
        xray_scale: line integral that is called 1.
        photons: smallest and largest number N of photons that would reach a pixel through air; its logarithm is
            uniform.
        prob: probability that anything is done.
    """

    def __init__(self, keys: KeysCollection, xray_scale: float, photons: Sequence[float], prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.xray_scale, self.photons = xray_scale, tuple(photons)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(None)
        exponent = self.R.uniform(*map(log, self.photons))
        for key in self.keys if self._do_transform else ():
            counts = torch.poisson(torch.exp(exponent - record[key] * self.xray_scale)).clamp(min=1)
            record[key] = (exponent - counts.log()) / self.xray_scale
        return record


class RandScaleIntensityRangePercentilesd(RandomizableTransform, MapTransform):
    """
    Shows X-rays as uncalibrated radiographs come out of :class:`~scripts.PrepareXraysd`: in each channel the
    percentiles of the exposed area are brought to the standard range.

    Args:
        keys: X-rays.
        mask_key: field with the masks of the exposed area.
        percentiles: those of `PrepareXraysd`.
        standard_range: that of `PrepareXraysd`.
        prob: probability that anything is done.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str,
        percentiles: Sequence[float],
        standard_range: Sequence[float],
        prob: float,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.mask_key, self.percentiles, self.standard_range = mask_key, list(percentiles), tuple(standard_range)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(None)
        for key in self.keys if self._do_transform else ():
            pairs = zip(record[key], record[self.mask_key])
            record[key] = torch.stack([self._standardised(xray, exposed) for xray, exposed in pairs])
        return record

    def _standardised(self, xray: torch.Tensor, exposed: torch.Tensor) -> torch.Tensor:
        low, high = percentile(xray[exposed], self.percentiles)
        bottom, top = self.standard_range
        return (xray - low) / (high - low).clamp(min=1e-6) * (top - bottom) + bottom
