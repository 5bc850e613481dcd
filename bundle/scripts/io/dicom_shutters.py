"""Collimators and display shutters of a DICOM radiograph: what lies outside of them is not exposed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from ..errors import InputError
from .dicom_tags import named

SHAPES = {
    "RECTANGULAR": ("{}UpperHorizontalEdge", "{}LowerHorizontalEdge", "{}LeftVerticalEdge", "{}RightVerticalEdge"),
    "CIRCULAR": ("CenterOfCircular{}", "RadiusOfCircular{}"),
    "POLYGONAL": ("VerticesOfThePolygonal{}",),
}
"""The tags of each shape, of a "Collimator" or a "Shutter"."""


def inside_shutters(dataset: Dataset, shape: tuple[int, int], where: str) -> np.ndarray:
    """
    `(H, W)` bool: within every collimator and shutter that the file has.

    Raises:
        InputError: when a shape lacks its tags, or they hold something else than numbers.
    """
    inside = np.ones(shape, bool)
    for name in ("Collimator", "Shutter"):
        for kind in SHAPES.keys() & set(np.atleast_1d(dataset.get(f"{name}Shape") or "")):
            inside &= _inside(dataset, name, kind, shape, where)
    return inside


def _inside(dataset: Dataset, name: str, kind: str, shape: tuple[int, int], where: str) -> np.ndarray:
    keywords = [keyword.format(name) for keyword in SHAPES[kind]]
    found = [dataset.get(keyword) for keyword in keywords]
    numbers = [float(number) for value in found if value is not None for number in np.atleast_1d(value)]
    count = {"RECTANGULAR": 4, "CIRCULAR": 3}.get(kind, max(len(numbers) // 2 * 2, 6))
    if None in found or len(numbers) != count:
        raise InputError(
            f"{where}: {named(f'{name}Shape')} is {kind}, but {', '.join(map(named, keywords))} is {found}; expected "
            f"{'pairs of row and column, three or more' if kind == 'POLYGONAL' else f'{count} numbers'}."
        )
    return {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}[kind](numbers, shape)


def _rectangle(edges: list[float], shape: tuple[int, int]) -> np.ndarray:
    """Between the edges, which are rows and columns counted from 1 and do not belong to it."""
    upper, lower, left, right = (max(int(edge), 0) for edge in edges)
    inside = np.zeros(shape, bool)
    inside[upper : max(lower - 1, 0), left : max(right - 1, 0)] = True
    return inside


def _circle(centre_and_radius: list[float], shape: tuple[int, int]) -> np.ndarray:
    row, column, radius = centre_and_radius
    rows, columns = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def _polygon(vertices: list[float], shape: tuple[int, int]) -> np.ndarray:
    mask = Image.new("1", shape[::-1])
    ImageDraw.Draw(mask).polygon([(column - 1, row - 1) for row, column in zip(vertices[::2], vertices[1::2])], fill=1)
    return np.asarray(mask)
