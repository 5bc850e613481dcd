"""How far a reconstruction may be off: the half-width of an interval around each voxel, from what training has erred."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch.nn.functional import avg_pool3d, pad

from .companion_files import read_companion

UNCERTAINTY_KEY = "uncertainty"
"""Field of a record with the half-width of the interval in HU, `(1, S, S, S)`."""
LEAST_HALF_WIDTH_HU = 1.0
FIELDS = ("confidence", "hu_edges", "gradient_edges", "half_widths_hu", "factor")


class ErrorTable:
    """
    Half-widths in HU by what the reconstruction itself shows at a voxel: its HU, and how steep it is there.

    Two views determine edges and the inside of tissues unequally well, and a table of the errors that were made says by
    how much. It knows neither the truth nor the depth at which something lies: what is missing from a reconstruction
    without a trace has the width of what stands in its place.

    Args:
        hu_edges: rising HU that part the rows, one fewer than there are rows.
        gradient_edges: rising HU/mm that part the columns, one fewer than there are columns.
        fov_mm: side of the cube.
        half_widths_hu: the table, rows by columns; zeros until it is fitted.
        factor: what every half-width is multiplied by, see :class:`~scripts.calibration.FactorFit`.
    """

    def __init__(
        self,
        hu_edges: Sequence[float],
        gradient_edges: Sequence[float],
        fov_mm: float,
        half_widths_hu: Sequence[Sequence[float]] | None = None,
        factor: float = 1.0,
    ) -> None:
        self.hu_edges, self.gradient_edges = torch.tensor(hu_edges).float(), torch.tensor(gradient_edges).float()
        self.fov_mm, self.factor = fov_mm, factor
        shape = (len(hu_edges) + 1, len(gradient_edges) + 1)
        self.half_widths = torch.zeros(shape) if half_widths_hu is None else torch.tensor(half_widths_hu).view(shape)

    def cells(self, hu: torch.Tensor) -> torch.Tensor:
        """Each voxel's cell, row by row from 0, of volumes `(B, 1, S, S, S)` in HU: the same shape."""
        rows = torch.bucketize(hu.contiguous(), self.hu_edges.to(hu.device))
        columns = torch.bucketize(steepness(hu, self.fov_mm / hu.shape[-1]), self.gradient_edges.to(hu.device))
        return rows * self.half_widths.shape[1] + columns

    def half_width(self, hu: torch.Tensor) -> torch.Tensor:
        """Half-width of the interval, at least 1 HU, of volumes `(B, 1, S, S, S)` in HU: the same shape."""
        widths = (self.half_widths.to(hu.device) * self.factor).clamp(min=LEAST_HALF_WIDTH_HU)
        return widths.flatten()[self.cells(hu)]

    def as_numbers(self) -> dict[str, Any]:
        """What :func:`read_error_table` reads, less the confidence."""
        return {
            "hu_edges": self.hu_edges.tolist(),
            "gradient_edges": self.gradient_edges.tolist(),
            "half_widths_hu": [[round(width, 2) for width in row] for row in self.half_widths.tolist()],
            "factor": self.factor,
        }


def read_error_table(path: str, weights: str, fov_mm: float) -> tuple[ErrorTable, float]:
    """
    The table in a file that `uncertainty.json` wrote, and its confidence.

    Raises:
        CheckpointError: see :func:`~scripts.companion_files.read_companion`.
    """
    content = read_companion(path, weights, "uncertainty", FIELDS)
    table = ErrorTable(fov_mm=fov_mm, **{name: content[name] for name in FIELDS if name != "confidence"})
    return table, content["confidence"]


def steepness(hu: torch.Tensor, voxel_mm: float) -> torch.Tensor:
    """
    Length of the gradient in HU/mm, by central differences of volumes `(B, 1, S, S, S)` averaged over 3 x 3 x 3 voxels;
    the border is repeated outwards.
    """
    smooth = avg_pool3d(pad(hu, [2] * 6, mode="replicate"), 3, stride=1)
    differences = [
        (smooth.narrow(axis, 2, hu.shape[axis]) - smooth.narrow(axis, 0, hu.shape[axis])) for axis in (2, 3, 4)
    ]
    inner = [_without_border(difference, axis) for axis, difference in zip((2, 3, 4), differences)]
    return sum(difference.square() for difference in inner).sqrt() / (2 * voxel_mm)


def _without_border(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Takes the padded voxel away at both ends of the axes other than this."""
    for other in {2, 3, 4} - {axis}:
        values = values.narrow(other, 1, values.shape[other] - 2)
    return values


class EstimateUncertaintyd(Transform):
    """
    Adds `uncertainty`, the half-width of the interval in HU around each voxel of `pred`, with its affine.

    Args:
        path: the table, a file that `uncertainty.json` wrote for these weights.
        weights: the weights that made `pred`.
        fov_mm: side of the cube.

    Raises:
        CheckpointError: when the table is missing or cannot be used.
    """

    def __init__(self, path: str, weights: str, fov_mm: float) -> None:
        self.table, self.confidence = read_error_table(path, weights, fov_mm)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = record["pred"]
        half_width = self.table.half_width(hu.as_tensor()[None])[0]
        return {**record, UNCERTAINTY_KEY: MetaTensor(half_width, affine=hu.affine)}
