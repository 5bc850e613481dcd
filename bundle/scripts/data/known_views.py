"""Which views a network has met in training, and what it receives for radiographs of others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..io.sidecar import Sidecar, sidecar_path, write_sidecar
from ..projection.geometry import FRONTAL_VIEWS, LATERAL_VIEWS, BiplanarGeometry, signs_of_views

Views = Sequence[tuple[str, str]]
"""Pairs of views, frontal and lateral, such as `[("PA", "LL")]`."""
NAME = "views"


def write_known_views(weights: str, views: Views) -> None:
    """
    Writes `NAME_views.json` beside weights: the pairs of views that they have met in training.

    Raises:
        OutputError: when it cannot be written.
    """
    write_sidecar(sidecar_path(weights, NAME), weights, {NAME: [list(pair) for pair in views]})


def known_views(weights: str, geometry: BiplanarGeometry) -> list[tuple[str, str]]:
    """What :func:`read_known_views` reads, or else the views of the geometry that the weights are used in."""
    return read_known_views(weights) or [geometry.views]


def read_known_views(weights: str) -> list[tuple[str, str]] | None:
    """
    The pairs of views that weights have met in training, as `NAME_views.json` beside them has it; None where it is not.

    Raises:
        CheckpointError: when the file cannot be used, or was made for other weights.
    """
    path = sidecar_path(weights, NAME)
    if not os.path.isfile(path):
        return None
    companion = Sidecar(
        path, weights, f"Train again, or remove it: {weights} then count as trained on the configured views."
    )
    views = companion.content.get(NAME)
    if not isinstance(views, list) or not views or not all(map(_is_pair, views)):
        raise companion.refusal(NAME, f"is {views!r}", f"pairs of one of {FRONTAL_VIEWS} and one of {LATERAL_VIEWS}")
    return [tuple(pair) for pair in views]


def _is_pair(views: Any) -> bool:
    return isinstance(views, list) and len(views) == 2 and views[0] in FRONTAL_VIEWS and views[1] in LATERAL_VIEWS


def as_known(geometry: BiplanarGeometry, known: Views) -> BiplanarGeometry:
    """
    The set-up as a network is told it that has met some views only. Whether the lateral film is LL or RL it may always
    be told, see :class:`~scripts.ProgressiveCascadeModel`. A frontal view that it has not met, told, costs more than
    the first one that it has met, told instead: measured by `--robustness`, the rows of the views.

    Args:
        geometry: the set-up that the films were taken in.
        known: the pairs of views that were met in training.

    Warns:
        UserWarning: when a frontal film has a view that was not met.
    """
    frontal = {pair[0] for pair in known}
    cases = [case.views for case in geometry.cases_apart()]
    unknown = sorted({pair[0] for pair in cases} - frontal)
    if not unknown:
        return geometry
    nearest = known[0][0]
    warnings.warn(
        f"field 'frontal': the film's view is {unknown[0]}, expected {' or '.join(sorted(frontal))}, the view that "
        f"these weights were trained on. The network is told {nearest}, which costs 0.7 to 0.9 dB at stage 1 (two "
        "patients, "
        f"projected X-rays); told the truth it would lose more. Take the film as {nearest}, or train with both views.",
        stacklevel=2,
    )
    told = [(view if view in frontal else nearest, lateral) for view, lateral in cases]
    return replace(geometry, views=told[0] if len(set(told)) == 1 else signs_of_views(told))
