"""Figures of reconstructions: slices in three planes with their errors, and X-rays next to reprojections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io.atomic_write import NOTICE
from ..io.radiograph import XRAY_KEYS
from ..projection.imaging import BOTH_VIEWS

DISPLAY_WINDOW_HU = (-1000.0, 500.0)
ERROR_RANGE_HU = 500.0
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
PANEL_INCHES = 2.3


def volume_figure(volumes: Mapping[str, torch.Tensor], truth: torch.Tensor | None = None, title: str = "") -> Figure:
    """
    Middle slices in three planes, as a radiologist sees them: patient's right, and anterior in sagittal slices, on the
    left.

    Args:
        volumes: `(S, S, S)` in HU by name, RAS+, of any sizes.
        truth: the ground truth, `(S, S, S)` in HU; with it each volume's error is shown next to the volumes.
        title: a line above the slices.
    """
    columns: dict[str, torch.Tensor] = {} if truth is None else {f"ground truth {truth.shape[0]}³": truth}
    columns |= {f"{name} {volume.shape[0]}³": volume for name, volume in volumes.items()}
    errors = {} if truth is None else {f"error of {name}": _error(volume, truth) for name, volume in volumes.items()}
    figure, axes = _grid(len(PLANES), len(columns) + len(errors), title, bar_inches=0.85)
    for row, (plane, axis) in zip(axes, PLANES.items()):
        for place, (name, volume) in zip(row, columns.items()):
            low, high = DISPLAY_WINDOW_HU
            shown = place.imshow(middle_slice(volume, axis), cmap="gray", vmin=low, vmax=high)
            place.set_title(name if plane == "axial" else "", fontsize=9)
        for place, (name, error) in zip(row[len(columns) :], errors.items()):
            signed = place.imshow(middle_slice(error, axis), cmap="RdBu_r", vmin=-ERROR_RANGE_HU, vmax=ERROR_RANGE_HU)
            place.set_title(name if plane == "axial" else "", fontsize=9)
        row[0].set_ylabel(plane, fontsize=9)
    bar = {"location": "bottom", "shrink": 0.5, "aspect": 40, "pad": 0.02}
    figure.colorbar(shown, ax=axes[:, : len(columns)], label="HU", **bar)
    if errors:
        figure.colorbar(signed, ax=axes[:, len(columns) :], label="error in HU: red is too dense", **bar)
    return figure


def xray_figure(
    xrays: torch.Tensor,
    reprojections: Mapping[str, torch.Tensor],
    title: str = "",
    given: Sequence[int] = BOTH_VIEWS,
) -> Figure:
    """
    Args:
        xrays: `(2, H, W)`, frontal and lateral.
        reprojections: `(2, h, w)` by name, on the same scale.
        title: a line above the X-rays.
        given: the views that are shown.
    """
    figure, axes = _grid(len(given), 1 + len(reprojections), title)
    for view, row in zip(given, axes):
        low, high = xrays[view].min().item(), xrays[view].max().item()
        shown = {"X-ray": xrays, **{f"reprojection of {key}": each for key, each in reprojections.items()}}
        for place, (label, pair) in zip(row, shown.items()):
            place.imshow(pair[view].cpu(), cmap="gray", vmin=low, vmax=high)
            place.set_title(label if view == given[0] else "", fontsize=9)
        row[0].set_ylabel(XRAY_KEYS[view], fontsize=9)
    return figure


def preview_figure(
    xrays: torch.Tensor,
    hu: torch.Tensor,
    title: str = "",
    half_width: torch.Tensor | None = None,
    calibration: str = "",
    given: Sequence[int] = BOTH_VIEWS,
) -> Figure:
    """
    Both X-rays `(2, H, W)`, or those of the `given` views, and the middle slices of the volume `(S, S, S)` in HU, in
    one row; then, where it is given, the middle coronal slice of the half-width of the volume's prediction interval
    `(S, S, S)` in HU, bright where it is wide, over what its scale rests on.
    """
    figure, axes = _grid(1, len(given) + len(PLANES) + (half_width is not None), title)
    low, high = DISPLAY_WINDOW_HU
    for place, view in zip(axes[0], given):
        place.imshow(xrays[view].cpu(), cmap="gray")
        place.set_title(f"{XRAY_KEYS[view]} X-ray", fontsize=9)
    for place, (plane, axis) in zip(axes[0, len(given) :], PLANES.items()):
        place.imshow(middle_slice(hu, axis), cmap="gray", vmin=low, vmax=high)
        place.set_title(f"reconstruction {hu.shape[0]}³, {plane}", fontsize=9)
    if half_width is not None:
        axes[0, -1].imshow(middle_slice(half_width, PLANES["coronal"]), cmap="inferno", vmin=0, vmax=ERROR_RANGE_HU)
        axes[0, -1].set_title(f"half-width, 0 to {ERROR_RANGE_HU:.0f} HU, coronal", fontsize=9)
        axes[0, -1].set_xlabel(calibration, fontsize=8)
    return figure


def _grid(rows: int, columns: int, title: str, bar_inches: float = 0.0) -> tuple[Figure, np.ndarray]:
    heading = f"{title}\n{NOTICE}" if title else NOTICE
    height = PANEL_INCHES * rows + 0.4 + 0.2 * len(heading.splitlines()) + bar_inches
    figure = Figure(figsize=(PANEL_INCHES * columns + 0.2, height), layout="constrained", dpi=110)
    figure.suptitle(heading, fontsize=10, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        _bare(place)
    return figure, axes


def _bare(place: Axes) -> None:
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set_visible(False)


def _error(volume: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return volume - torch.nn.functional.adaptive_avg_pool3d(truth[None, None], volume.shape[0])[0, 0]


def middle_slice(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """The middle slice along `axis`, its rows and columns flipped to run from superior or anterior, and from right."""
    return volume.select(axis, volume.shape[axis] // 2).flip(0, 1).T.cpu()
