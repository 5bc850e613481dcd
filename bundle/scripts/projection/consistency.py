"""The consistency condition of two cone-beam views: what both say of each plane through their sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import map_coordinates

from ..errors import InputError
from .geometry import BiplanarGeometry

if TYPE_CHECKING:
    from jaxtyping import Float

VIEWS = 2
"""Frontal and lateral."""
COUNT = 61
"""Planes: twice as many say the same of a projected CT, within a twentieth."""


class EpipolarPlanes:
    """
    Planes through both sources, in which two cone-beam views of one object agree.

    In such a plane let `a` be the attenuation, `r` a point's distance from the line through the sources (the baseline),
    and `phi` a ray's angle from the normal of that line. In polar coordinates about the source, at radius `s`,
    `r = s cos(phi)` and the element of area is `s ds dphi`, so that

        integral of p(phi) / cos(phi) dphi  =  integral of a / r over the plane,

    which does not name the source: it is the same for both views. This is the fan-beam condition of moment zero, in
    each epipolar plane (Clackdoyle, 2013; Lesaint et al., 2017). It holds where no ray that meets the object is
    missing. Of AP with LL and of PA with RL, both integrals are the same function of their image: there, exchanged
    images are as consistent as the right ones.

    Args:
        geometry: of one pair, a cone beam.
        count: number of planes, evenly spaced, all those that both detectors hold from edge to edge.

    Raises:
        InputError: when the beam is parallel, or the geometry that of several pairs.

    Attributes:
        positions: of each view `(2, count, P)`, rows and columns in pixels of the lines in which the planes cut the
            detector.
        slopes: of the planes, `(count,)`: how far they rise in a mm from the baseline, towards superior.
        isocentre_mm: distance of the isocentre from the baseline.
        weights: of each view `(count, P)`, what the line's pixels count in its integral.
    """

    def __init__(self, geometry: BiplanarGeometry, count: int = COUNT) -> None:
        if geometry.is_parallel or geometry.cases is not None:
            raise InputError("EpipolarPlanes: the geometry is a parallel beam or a batch, expected one cone-beam pair.")
        rays = [_central_ray(geometry, view) for view in range(VIEWS)]
        sources = [origin + geometry.source_to_isocentre_mm * step for origin, step in rays]
        along = _unit(sources[1] - sources[0])
        inwards = _unit(along * (along @ sources[0]) - sources[0])
        upright = np.cross(along, inwards)
        upright *= np.sign(upright[2])
        columns = _pixel_places(geometry)
        lines = [_EpipolarLines(geometry, view, along, inwards, upright, columns) for view in range(VIEWS)]
        steepest = min(line.steepest() for line in lines)
        self.geometry, self.slopes = geometry, np.linspace(-steepest, steepest, count)
        self.isocentre_mm = float(-sources[0] @ inwards)
        self._frame = along, inwards, upright
        placed = [line.at(self.slopes) for line in lines]
        self.positions = [positions for positions, _ in placed]
        self.weights = [weights for _, weights in placed]

    def integrals(self, xrays: Float[np.ndarray, "2 P P"]) -> Float[np.ndarray, "2 count"]:
        """
        Of each view and plane the integral that both views have in common, in the unit of the X-rays.

        Args:
            xrays: line integrals, frontal and lateral, on the geometry's detector.
        """
        found = [
            (weights * map_coordinates(xray, positions, order=1, mode="nearest")).sum(-1)
            for xray, positions, weights in zip(np.asarray(xrays), self.positions, self.weights)
        ]
        return np.stack(found)

    def slopes_at_pixels(self, geometry: BiplanarGeometry) -> Float[np.ndarray, "2 P P"]:
        """The slope of the plane through each pixel of a detector of the same views and distances."""
        along, inwards, upright = self._frame
        places = _pixel_places(geometry)
        lines = [_EpipolarLines(geometry, view, along, inwards, upright, places) for view in range(VIEWS)]
        return np.stack([line.slopes_at(places) for line in lines])


class _EpipolarLines:
    """On one detector, where planes through the baseline cut it: the plane of slope `t` holds `inwards + t upright`."""

    def __init__(
        self,
        geometry: BiplanarGeometry,
        view: int,
        along: np.ndarray,
        inwards: np.ndarray,
        upright: np.ndarray,
        columns: np.ndarray,
    ) -> None:
        self.geometry, self.columns = geometry, columns
        self.along, self.inwards, self.upright = along, inwards, upright
        middle, at_column, at_row = (
            np.array(geometry.ray(*place, view)[1], dtype=float) for place in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        )
        self.middle, self.across, self.down = -middle, middle - at_column, middle - at_row

    def rows(self, slopes: np.ndarray) -> np.ndarray:
        """In mm from the middle, `(slopes, columns)`; a ray's direction is linear in its row and column."""
        normals = self.upright - slopes[:, None] * self.inwards
        at_middle = self.middle + self.columns[:, None] * self.across
        return -(normals @ at_middle.T) / (normals @ self.down)[:, None]

    def slopes_at(self, rows: np.ndarray) -> np.ndarray:
        """Of the planes through the pixels of these rows, `(rows, columns)`."""
        directions = self.middle + self.columns[:, None] * self.across + rows[:, None, None] * self.down
        return (directions @ self.upright) / (directions @ self.inwards)

    def steepest(self) -> float:
        """The largest slope of which the detector holds the line and that of its opposite, from edge to edge."""
        half = self.geometry.detector_size_mm / 2 - self.geometry.pixel_mm / 2
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            fits = np.abs(self.rows(np.array([-middle, middle]))).max() <= half
            low, high = (middle, high) if fits else (low, middle)
        return low

    def at(self, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions `(2, slopes, columns)` in pixels, and weights by the trapezoidal rule in the angle."""
        rows = self.rows(slopes)
        directions = self.middle + self.columns[:, None] * self.across + rows[..., None] * self.down
        towards = _unit(self.inwards + slopes[:, None] * self.upright)
        tangent = (directions @ self.along) / np.einsum("kpi,ki->kp", directions, towards)
        angles = np.arctan(tangent)
        steps = np.abs(np.diff(angles))
        weights = np.zeros_like(angles)
        weights[:, :-1] += steps / 2
        weights[:, 1:] += steps / 2
        pixels = self.geometry.detector_pixels
        in_pixels = [each / self.geometry.pixel_mm + (pixels - 1) / 2 for each in (rows, self.columns)]
        positions = np.stack(np.broadcast_arrays(*in_pixels))
        return positions, weights * np.sqrt(1 + tangent**2)


def relative_difference(integrals: Float[np.ndarray, "2 count"]) -> float:
    """
    How far two views are from consistent: the mean absolute difference of their integrals over the planes, after the
    best common factor by least squares, over the frontal view's mean. 0 for projections of one object.
    """
    frontal, lateral = integrals
    factor = (frontal @ lateral) / max(float(lateral @ lateral), np.finfo(float).tiny)
    return float(np.abs(frontal - factor * lateral).mean() / max(float(frontal.mean()), np.finfo(float).tiny))


def _central_ray(geometry: BiplanarGeometry, view: int) -> tuple[np.ndarray, np.ndarray]:
    origin, step = geometry.ray(0.0, 0.0, view)
    return np.array(origin, dtype=float), np.array(step, dtype=float)


def _pixel_places(geometry: BiplanarGeometry) -> np.ndarray:
    """The pixels' centres in mm from the detector's middle."""
    pixels = geometry.detector_pixels
    return (np.arange(pixels) - (pixels - 1) / 2) * geometry.pixel_mm


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
