"""
Which views a network has met in training, and whether it has met one alone; what it receives for radiographs of others.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..io.sidecar import Sidecar, sidecar_path, write_sidecar
from ..projection.geometry import FRONTAL_VIEWS, LATERAL_VIEWS, BiplanarGeometry, signs_of_views
from ..radiographs.augmentation import RandGeometry

Views = Sequence[tuple[str, str]]
"""Pairs of views, frontal and lateral, such as `[("PA", "LL")]`."""
NAME = "views"
VIEW_DROPOUT = "view_dropout"
"""Field of the sidecar file of known views, where it is above 0."""


def met_views(augment_geometry: RandGeometry | None, geometry: BiplanarGeometry, base: str | None = None) -> Views:
    """
    The pairs of views that weights have met after a training.

    Args:
        augment_geometry: draws the acquisition geometries that the network receives; None for the nominal one.
        geometry: the nominal one.
        base: the weights of the stages before the trained one, which have met what :func:`known_views` says. A pair
            counts only when they have met its frontal view too; its lateral view does not matter to them.
    """
    drawn = (augment_geometry and augment_geometry.views) or [geometry.views]
    if base is None:
        return drawn
    known = known_views(base, geometry)
    return [pair for pair in drawn if pair[0] in {frontal for frontal, _ in known}] or known


def met_view_dropout(view_dropout: float, base: str | None = None) -> float:
    """
    The smallest view dropout that any stage of weights was trained with.

    Args:
        view_dropout: that of the trained stage.
        base: the weights of the stages before it; None for none.
    """
    return min(view_dropout, read_view_dropout(base)) if view_dropout and base is not None else view_dropout


def write_known_views(weights: str, views: Views, view_dropout: float = 0.0) -> None:
    """
    Writes `NAME_views.json` next to weights, a sidecar file: the pairs of views that they have met in training, and,
    where it is above 0, the smallest view dropout of their stages.

    Raises:
        OutputError: when it cannot be written.
    """
    alone = {VIEW_DROPOUT: view_dropout} if view_dropout else {}
    write_sidecar(sidecar_path(weights, NAME), weights, {NAME: [list(pair) for pair in views], **alone})


def known_views(weights: str, geometry: BiplanarGeometry) -> list[tuple[str, str]]:
    """What :func:`read_known_views` reads, or else the views of the geometry that the weights are used in."""
    return read_known_views(weights) or [geometry.views]


def read_known_views(weights: str) -> list[tuple[str, str]] | None:
    """
    The pairs of views that weights have met in training, by their sidecar file `NAME_views.json`; None without one.

    Raises:
        CheckpointError: when the file cannot be used, or was made for other weights.
    """
    sidecar = _sidecar(weights)
    if sidecar is None:
        return None
    views = sidecar.content.get(NAME)
    if not isinstance(views, list) or not views or not all(map(_is_pair, views)):
        raise sidecar.refusal(NAME, f"is {views!r}", f"pairs of one of {FRONTAL_VIEWS} and one of {LATERAL_VIEWS}")
    return [tuple(pair) for pair in views]


def read_view_dropout(weights: str) -> float:
    """
    The smallest view dropout that any stage of weights was trained with, by their sidecar file `NAME_views.json`: 0
    where that does not say, or there is none. Weights reconstruct from one X-ray alone where it is above 0.

    Raises:
        CheckpointError: when the file cannot be used, or was made for other weights.
    """
    sidecar = _sidecar(weights)
    if sidecar is None or VIEW_DROPOUT not in sidecar.content:
        return 0.0
    return sidecar.number(VIEW_DROPOUT, above=0.0, most=1.0)


def scored_alone(only: str | None, weights: str) -> str | None:
    """
    The X-ray that an evaluation gives weights alone, `only`, as it is.

    Warns:
        UserWarning: when there is one, and the weights were not trained so.
    """
    if only is not None and not read_view_dropout(weights):
        warnings.warn(
            f"{weights}: were trained on pairs alone, expected weights of a training with view_dropout where field "
            f"'only' is {only!r}. The scores say what they lose, and not what one X-ray is worth.",
            stacklevel=2,
        )
    return only


def _sidecar(weights: str) -> Sidecar | None:
    path = sidecar_path(weights, NAME)
    next_step = f"Train again, or remove it: {weights} then count as trained on pairs of the configured views."
    return Sidecar(path, weights, next_step) if os.path.isfile(path) else None


def _is_pair(views: Any) -> bool:
    return isinstance(views, list) and len(views) == 2 and views[0] in FRONTAL_VIEWS and views[1] in LATERAL_VIEWS


def as_known(geometry: BiplanarGeometry, known: Views) -> BiplanarGeometry:
    """
    The acquisition geometry that a network receives which has met some views only. Whether the lateral radiograph is LL
    or RL it always receives, see :class:`~scripts.ProgressiveCascadeModel`. For a frontal view that it has not met it
    receives the first one that it has met, which costs less than the true one: measured by `--robustness`, the rows of
    the views.

    Args:
        geometry: of the radiographs.
        known: the pairs of views that were met in training.

    Warns:
        UserWarning: when a frontal radiograph has a view that was not met.
    """
    frontal = {pair[0] for pair in known}
    cases = [case.views for case in geometry.cases_apart()]
    unknown = sorted({pair[0] for pair in cases} - frontal)
    if not unknown:
        return geometry
    nearest = known[0][0]
    warnings.warn(
        f"field 'frontal': the radiograph's view is {unknown[0]}, expected {' or '.join(sorted(frontal))}, the view "
        f"that these weights were trained on. The network receives {nearest}, which costs 0.7 to 0.9 dB at stage 1 "
        f"(two patients, projected X-rays); given the true view it would lose more. Take the radiograph as {nearest}, "
        "or train with both views.",
        stacklevel=2,
    )
    received = [(view if view in frontal else nearest, lateral) for view, lateral in cases]
    return replace(geometry, views=received[0] if len(set(received)) == 1 else signs_of_views(received))
