"""The acquisition geometry: where source and detector are, for a frontal and a lateral view of one volume."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import cos, isfinite, isinf, radians, sin
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

FRONTAL_VIEWS = ("AP", "PA")
LATERAL_VIEWS = ("LL", "RL")
MAX_ANGLE_DEG = 45.0
SIGN_OF_VIEW = {"AP": 1.0, "PA": -1.0, "LL": 1.0, "RL": -1.0}
"""Side of the patient on which the source of a view is: +1 anterior or right, -1 posterior or left."""
MIRRORED_ANGLES = torch.tensor([[-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
"""What a reflection from right to left makes of the frontal and the lateral view's angles."""
Scalar = float | Tensor
"""One number for the whole batch, or a tensor of one for each of its entries."""
Matrix = tuple[tuple[Scalar, ...], ...]
Number = TypeVar("Number", Scalar, np.ndarray, Tensor)
"""One coordinate, or an array of them: the geometry is plain arithmetic, which serves all."""


@dataclass(frozen=True)
class BiplanarGeometry:
    """
    Two cone-beam views of the reconstruction volume, a cube that is centred on the isocentre, its axes X, Y, Z running
    to Right, Anterior, Superior (RAS+).

    A point at depth `t` towards the source, seen from the isocentre, is magnified on the detector by
    `source_to_detector / (source_to_isocentre - t)`. Both distances infinite is the parallel beam, magnification 1.

    Projections are in display orientation: rows run from superior to inferior; the frontal view's columns run from the
    patient's right to the left, the lateral view's from anterior to posterior.

    Distances, angles and views may differ between the entries of a batch: a tensor `(B,)` for a distance, `(B, 2, 3)`
    for the angles, `(B, 2)` for the views, see :func:`signs_of_views`. Distances and angles may require gradients.

    Args:
        source_to_isocentre_mm: distance of the X-ray source from the isocentre; for a patient there, DICOM's Distance
            Source to Patient (0018,1111).
        source_to_detector_mm: distance of the X-ray source from the detector, DICOM's Distance Source to Detector
            (0018,1110).
        fov_mm: field of view, the side of the reconstruction volume.
        detector_size_mm: side of the square detector.
        detector_pixels: pixels along a side of the detector.
        views: DICOM view positions: "AP" or "PA", then "LL" (left side at the detector) or "RL"; or a tensor of the
            sides of their sources.
        angles_deg: for each view, the rotation of source and detector together from the volume's axis: yaw about the
            patient's superior axis, then pitch about the detector's horizontal axis, then roll about the beam, the axes
            as rotated by the angles before; right-handed about the axis's positive direction (right, anterior,
            superior), at most 45 degrees.

    Raises:
        InputError: when the volume reaches the source, the detector lies before the isocentre, the detector does not
            cover the volume's footprint along its axis, a view is unknown, or an angle is too large.
    """

    source_to_isocentre_mm: float | Tensor = 1600.0
    source_to_detector_mm: float | Tensor = 1800.0
    fov_mm: float = 360.0
    detector_size_mm: float = 480.0
    detector_pixels: int = 512
    views: tuple[str, str] | Tensor = ("PA", "LL")
    angles_deg: tuple[tuple[float, float, float], ...] | Tensor = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    def __post_init__(self) -> None:
        if not isinstance(self.views, Tensor):
            object.__setattr__(self, "views", tuple(self.views))
        self._check_sizes()
        self._check_views()
        self._check_angles()
        if not isinstance(self.angles_deg, Tensor):
            object.__setattr__(self, "angles_deg", tuple(tuple(map(float, angles)) for angles in self.angles_deg))
        self._check_cases()
        self._check_distances()
        self._check_footprint()

    def _check_sizes(self) -> None:
        for name in ("fov_mm", "detector_size_mm", "detector_pixels"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"BiplanarGeometry: {name} is {value}, expected a positive number.")
        if self.detector_pixels != int(self.detector_pixels):
            raise InputError(f"BiplanarGeometry: detector_pixels is {self.detector_pixels}, expected a whole number.")

    def _check_views(self) -> None:
        if isinstance(self.views, Tensor):
            if self.views.ndim < 2 or self.views.shape[-1] != 2 or not bool((self.views.abs() == 1).all()):
                raise InputError(
                    f"BiplanarGeometry: views are a tensor {tuple(self.views.shape)}, expected (B, 2) of 1 and -1 for "
                    f"the entries of a batch; scripts.projection.geometry.signs_of_views makes it."
                )
        elif len(self.views) != 2 or self.views[0] not in FRONTAL_VIEWS or self.views[1] not in LATERAL_VIEWS:
            raise InputError(
                f"BiplanarGeometry: views are {self.views}, expected one of {FRONTAL_VIEWS} and one of {LATERAL_VIEWS}."
            )

    def _check_angles(self) -> None:
        try:
            shape: tuple[int, ...] | str = tuple(np.shape(self.angles_deg))
        except ValueError:
            shape = "rows of different lengths"
        is_per_case = isinstance(self.angles_deg, Tensor)
        if shape[-2:] != (2, 3) or (len(shape) > 2) != is_per_case:
            raise InputError(
                f"BiplanarGeometry: angles_deg has shape {shape}, expected three for each view, (2, 3), or a tensor "
                f"(B, 2, 3) for the entries of a batch."
            )
        largest = _largest(self.angles_deg)
        if not largest <= MAX_ANGLE_DEG:
            raise InputError(
                f"BiplanarGeometry: angles_deg holds {largest:g} degrees, expected at most {MAX_ANGLE_DEG:g} off the "
                f"volume's axis; a view further off is nearer to another axis."
            )

    def _check_cases(self) -> None:
        shapes = {name: tuple(field.shape) for name, field in self._tensors().items()}
        if () in shapes.values() or len({shape[0] for shape in shapes.values()}) > 1:
            raise InputError(
                f"BiplanarGeometry: its tensors have the shapes {shapes}, expected one number of batch entries, first "
                f"in each."
            )

    def _check_distances(self) -> None:
        source, detector = _bounds(self.source_to_isocentre_mm), _bounds(self.source_to_detector_mm)
        if len({isinf(bound) for bound in source + detector}) > 1:
            raise InputError(
                f"BiplanarGeometry: source_to_isocentre_mm is {self.source_to_isocentre_mm} and source_to_detector_mm "
                f"{self.source_to_detector_mm}; a parallel beam has both infinite, a cone beam neither, and the "
                f"entries of a batch are of one kind."
            )
        reach = self.fov_mm / 2 * (1 if self.is_along_axes else 3**0.5)
        if not source[0] > reach:
            raise InputError(
                f"BiplanarGeometry: source_to_isocentre_mm is {source[0]}, which puts the source inside the "
                f"reconstruction volume of {self.fov_mm} mm; expected more than {reach:g}."
            )
        if not self.is_parallel:
            gap = _bounds(self.source_to_detector_mm - self.source_to_isocentre_mm)[0]
            if not gap > 0:
                raise InputError(
                    f"BiplanarGeometry: source_to_detector_mm is {self.source_to_detector_mm}, which puts the detector "
                    f"before the isocentre; expected more than source_to_isocentre_mm, {self.source_to_isocentre_mm}."
                )

    def _check_footprint(self) -> None:
        footprint_mm = _bounds(self.fov_mm * self.magnification(self.fov_mm / 2))[1]
        if footprint_mm > self.detector_size_mm * (1 + 1e-6):
            raise InputError(
                f"BiplanarGeometry: detector_size_mm is {self.detector_size_mm}, but the reconstruction volume of "
                f"{self.fov_mm} mm has a footprint of {footprint_mm:.1f} mm; expected at least that."
            )

    @property
    def is_parallel(self) -> bool:
        return self._is_parallel

    @cached_property
    def _is_parallel(self) -> bool:
        return isinf(_bounds(self.source_to_isocentre_mm)[1])

    @property
    def is_along_axes(self) -> bool:
        """Whether both views of every batch entry look along the volume's axes."""
        return _largest(self.angles_deg) == 0

    @property
    def cases_along_axes(self) -> list[bool]:
        """Whether both views look along the volume's axes: of each batch entry, or once where all share the angles."""
        if not isinstance(self.angles_deg, Tensor):
            return [self.is_along_axes]
        return (self.angles_deg == 0).flatten(1).all(1).tolist()

    @property
    def requires_grad(self) -> bool:
        return any(field.requires_grad for field in self._tensors().values())

    @property
    def cases(self) -> int | None:
        """Batch entries that the geometry describes, each with its own values; None when all share one."""
        return next((len(field) for field in self._tensors().values()), None)

    @property
    def pixel_mm(self) -> float:
        return self.detector_size_mm / self.detector_pixels

    def magnification(self, depth_mm: Number) -> Number:
        """Magnification on the detector of a plane `depth_mm` from the isocentre towards the source."""
        if self.is_parallel:
            return depth_mm * 0.0 + 1.0
        return self.source_to_detector_mm / (self.source_to_isocentre_mm - depth_mm)

    def depth_sign(self, view: int) -> Scalar:
        """+1 where the source of the view lies on the positive side of its axis (anterior, right), else -1."""
        return self.views[..., view] if isinstance(self.views, Tensor) else SIGN_OF_VIEW[self.views[view]]

    def projected_point(self, point: tuple[Number, Number, Number], view: int) -> tuple[Number, Number]:
        """
        Where a point of the patient falls on the detector.

        Args:
            point: X, Y, Z in mm from the isocentre, each a number or an array of any shape.
            view: 0 for the frontal view, 1 for the lateral.

        Returns:
            Detector coordinates in mm from the middle: along a row, and along a column.
        """
        x, y, z = _times(_transposed(self.rotation(view)), point)
        across, depth = (x, y * self.depth_sign(view)) if view == 0 else (y, x * self.depth_sign(view))
        magnification = self.magnification(depth)
        return -across * magnification, -z * magnification

    def shadow(self, point: tuple[Number, Number, Number], view: int) -> tuple[Number, Number]:
        """:meth:`projected_point`, by its name of version 0.3, which goes in version 0.5."""
        warnings.warn("BiplanarGeometry.shadow is now projected_point; correct the call.", FutureWarning, stacklevel=2)
        return self.projected_point(point, view)

    def ray(self, along_row: Number, along_column: Number, view: int) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
        """
        The ray to a point of the detector, the inverse of :meth:`projected_point`.

        Args:
            along_row: detector coordinate in mm from the middle.
            along_column: the same along a column.
            view: 0 for the frontal view, 1 for the lateral.

        Returns:
            Where the ray crosses the plane through the isocentre, and its step per mm of depth towards the source, both
            as X, Y, Z in mm.
        """
        middle, sign = self.magnification(0.0), self.depth_sign(view)
        origin = (-along_row / middle, along_row * 0.0, -along_column / middle)
        step = (
            along_row / self.source_to_detector_mm,
            along_row * 0.0 + sign,
            along_column / self.source_to_detector_mm,
        )
        if view == 1:
            origin, step = ((y, x, z) for x, y, z in (origin, step))
        rotation = self.rotation(view)
        return _times(rotation, origin), _times(rotation, step)

    def rotation(self, view: int) -> Matrix:
        """Rows of the 3 x 3 matrix that rotates the view from the volume's axis to where it is."""
        yaw, pitch, roll = (_cosine_and_sine(self._angle(view, k)) for k in range(3))
        about_z = _rotation(*yaw, 2)
        about_horizontal, about_beam = _rotation(*pitch, view), _rotation(*roll, 1 - view)
        return _product(about_z, _product(about_horizontal, about_beam))

    def with_pixels(self, detector_pixels: int) -> BiplanarGeometry:
        """The same detector, read out with another number of pixels."""
        return replace(self, detector_pixels=detector_pixels)

    def select(self, cases: Sequence[int]) -> BiplanarGeometry:
        """The geometry of some batch entries, by their indices; itself when all share it."""
        selected: dict[str, Any] = {name: field[list(cases)] for name, field in self._tensors().items()}
        return replace(self, **selected)

    def mirrored(self) -> BiplanarGeometry:
        """
        The geometry in which the mirror image of a patient, right and left exchanged, has the mirror image of the
        frontal projection and the same lateral projection: LL becomes RL and the other way round, AP and PA stay.
        """
        views, angles = self.views, self.angles_deg
        if isinstance(views, Tensor):
            views = views * views.new_tensor([1.0, -1.0])
        else:
            views = (views[0], "RL" if views[1] == "LL" else "LL")
        if isinstance(angles, Tensor):
            angles = angles * MIRRORED_ANGLES.to(angles)
        else:
            angles = tuple(tuple(a * s for a, s in zip(*rows)) for rows in zip(angles, MIRRORED_ANGLES.tolist()))
        return replace(self, views=views, angles_deg=angles)

    def cases_apart(self) -> list[BiplanarGeometry]:
        """The geometry of each batch entry, in plain words and numbers, without gradients; one when all share it."""
        numbers = {name: field.tolist() for name, field in self._tensors().items()}
        if "views" in numbers:
            numbers["views"] = [views_of_signs(signs) for signs in numbers["views"]]
        return [replace(self, **{name: values[i] for name, values in numbers.items()}) for i in range(self.cases or 1)]

    def of_case(self, case: int) -> BiplanarGeometry:
        """The geometry of one batch entry, by its index, in plain words and numbers."""
        return self.cases_apart()[case if self.cases else 0]

    def broadcast(self, dimensions: int, like: Tensor) -> BiplanarGeometry:
        """
        The same geometry, its tensors with as many further axes of length 1, to broadcast with coordinates, of the
        dtype and on the device of `like`. It is not checked again: a GPU would have to wait for each value.
        """
        shaped = copy(self)
        for name, field in self._tensors().items():
            shape = field.shape[:1] + (1,) * dimensions + field.shape[1:]
            object.__setattr__(shaped, name, field.to(like).reshape(shape))
        return shaped

    def _angle(self, view: int, index: int) -> Scalar:
        return (
            self.angles_deg[..., view, index] if isinstance(self.angles_deg, Tensor) else self.angles_deg[view][index]
        )

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def batched(geometries: Sequence[BiplanarGeometry]) -> BiplanarGeometry:
    """
    The geometry of a batch, the inverse of :meth:`BiplanarGeometry.cases_apart`: of each entry's geometry, which may
    differ in distances, angles and views; in plain words and numbers what all share.
    """
    differing: dict[str, Any] = {}
    for name in ("source_to_isocentre_mm", "source_to_detector_mm", "views", "angles_deg"):
        values = [getattr(geometry, name) for geometry in geometries]
        if any(value != values[0] for value in values):
            is_views = name == "views"
            differing[name] = signs_of_views(values) if is_views else torch.tensor(values, dtype=torch.float64)
    return replace(geometries[0], **differing)


def signs_of_views(views: Sequence[Sequence[str]]) -> Float[Tensor, "B 2"]:
    """The pairs of views of a batch, such as `[("PA", "LL"), ("AP", "RL")]`, as :class:`BiplanarGeometry` takes views
    that differ, see :data:`SIGN_OF_VIEW`."""
    return torch.tensor([[SIGN_OF_VIEW[view] for view in pair] for pair in views])


def views_of_signs(signs: Sequence[float]) -> tuple[str, str]:
    """The two views of one batch entry, the inverse of :func:`signs_of_views`."""
    frontal, lateral = signs
    return "AP" if frontal > 0 else "PA", "LL" if lateral > 0 else "RL"


def _bounds(value: Scalar) -> tuple[float, float]:
    """The smallest and the largest of the batch."""
    if not isinstance(value, Tensor):
        return value, value
    return float(value.detach().min()), float(value.detach().max())


def _largest(values: tuple | Tensor) -> float:
    """The largest absolute value."""
    return float(values.detach().abs().max() if isinstance(values, Tensor) else np.abs(values).max())


def _cosine_and_sine(degrees: Scalar) -> tuple[Scalar, Scalar]:
    if isinstance(degrees, Tensor):
        return degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return cos(radians(degrees)), sin(radians(degrees))


def _rotation(cosine: Scalar, sine: Scalar, axis: int) -> Matrix:
    """Right-handed rotation about one axis."""
    zero = cosine * 0.0
    one = zero + 1.0
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rows = [[one if i == j else zero for j in range(3)] for i in range(3)]
    rows[first][first], rows[first][second] = cosine, -sine
    rows[second][first], rows[second][second] = sine, cosine
    return tuple(map(tuple, rows))


def _product(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(_dot(row, column) for column in _transposed(b)) for row in a)


def _transposed(rows: Matrix) -> Matrix:
    return tuple(zip(*rows))


def _times(rows: Matrix, vector: tuple[Number, Number, Number]) -> tuple[Number, ...]:
    return tuple(_dot(row, vector) for row in rows)


def _dot(row: tuple[Scalar, ...], column: tuple[Number, ...]) -> Number:
    (a, b, c), (x, y, z) = row, column
    return a * x + b * y + c * z


def at_distance(geometry: BiplanarGeometry, factor: float) -> BiplanarGeometry:
    """The geometry with both distances times a factor, which keeps the isocentre's magnification."""
    names = ("source_to_isocentre_mm", "source_to_detector_mm")
    return replace(geometry, **{name: getattr(geometry, name) * factor for name in names})
