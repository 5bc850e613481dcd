"""The X-ray set-up: where the source and the detector are, for a frontal and a lateral view of one cube."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, isinf

import torch

from .errors import InputError

FRONTAL_VIEWS = ("AP", "PA")
LATERAL_VIEWS = ("LL", "RL")


@dataclass(frozen=True)
class BiplanarGeometry:
    """
    Two cone-beam views of a cube that is centred on the isocentre, its axes X, Y, Z running to Right, Anterior,
    Superior (RAS+).

    A point at depth `t` towards the source, seen from the isocentre, is magnified on the detector by
    `source_to_detector / (source_to_isocentre - t)`. Both distances infinite is the parallel beam, magnification 1.

    Films are oriented as they are read: rows run from superior to inferior; the frontal view's columns run from the
    patient's right to the left, the lateral view's from anterior to posterior.

    Args:
        source_to_isocentre_mm: distance of the X-ray source from the centre of the cube.
        source_to_detector_mm: distance of the X-ray source from the detector (DICOM 0018,1110).
        fov_mm: side of the cube.
        detector_size_mm: side of the square detector.
        detector_pixels: pixels along a side of the detector.
        views: DICOM view positions of the two films: "AP" or "PA", then "LL" (left side at the detector) or "RL".

    Raises:
        InputError: when the cube reaches the source, the detector lies before the isocentre, the detector does not
            cover the cube's shadow, or a view is unknown.
    """

    source_to_isocentre_mm: float = 1600.0
    source_to_detector_mm: float = 1800.0
    fov_mm: float = 360.0
    detector_size_mm: float = 480.0
    detector_pixels: int = 512
    views: tuple[str, str] = ("PA", "LL")

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        for name in ("fov_mm", "detector_size_mm", "detector_pixels"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"BiplanarGeometry: {name} is {value}, expected a positive number.")
        if len(self.views) != 2 or self.views[0] not in FRONTAL_VIEWS or self.views[1] not in LATERAL_VIEWS:
            raise InputError(
                f"BiplanarGeometry: views are {self.views}, expected one of {FRONTAL_VIEWS} and one of {LATERAL_VIEWS}."
            )
        if isinf(self.source_to_isocentre_mm) != isinf(self.source_to_detector_mm):
            raise InputError(
                f"BiplanarGeometry: source_to_isocentre_mm is {self.source_to_isocentre_mm} and source_to_detector_mm "
                f"{self.source_to_detector_mm}; a parallel beam has both infinite, a cone beam neither."
            )
        if not self.source_to_isocentre_mm > self.fov_mm / 2:
            raise InputError(
                f"BiplanarGeometry: source_to_isocentre_mm is {self.source_to_isocentre_mm}, which puts the source "
                f"inside the cube of {self.fov_mm} mm; expected more than {self.fov_mm / 2}."
            )
        if not self.is_parallel and not self.source_to_detector_mm > self.source_to_isocentre_mm:
            raise InputError(
                f"BiplanarGeometry: source_to_detector_mm is {self.source_to_detector_mm}, which puts the detector "
                f"before the isocentre; expected more than {self.source_to_isocentre_mm}."
            )
        shadow = self.fov_mm * self.magnification(self.fov_mm / 2)
        if shadow > self.detector_size_mm * (1 + 1e-6):
            raise InputError(
                f"BiplanarGeometry: detector_size_mm is {self.detector_size_mm}, but the cube of {self.fov_mm} mm casts "
                f"a shadow of {shadow:.1f} mm; expected at least that."
            )

    @property
    def is_parallel(self) -> bool:
        return isinf(self.source_to_isocentre_mm)

    @property
    def pixel_mm(self) -> float:
        return self.detector_size_mm / self.detector_pixels

    def magnification(self, depth_mm: float | torch.Tensor) -> float | torch.Tensor:
        """Magnification on the detector of a plane `depth_mm` from the isocentre towards the source."""
        if self.is_parallel:
            return depth_mm * 0.0 + 1.0
        return self.source_to_detector_mm / (self.source_to_isocentre_mm - depth_mm)

    def depth_sign(self, view: int) -> float:
        """+1 where the source of the view lies on the positive side of its axis (anterior, right), else -1."""
        return 1.0 if self.views[view] in ("AP", "LL") else -1.0

    def with_pixels(self, detector_pixels: int) -> BiplanarGeometry:
        """The same detector, read out with another number of pixels."""
        return replace(self, detector_pixels=detector_pixels)
