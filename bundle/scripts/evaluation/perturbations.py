"""
Perturbations of the acquisition that the network is not told of: each function lists those of one kind.

A perturbation changes the geometry that a CT is projected in, or the X-rays that come of it. The network receives the
nominal geometry unless the perturbation says otherwise, and the ground truth stays where it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monai.transforms import AdjustContrastd, Compose, Flipd, MaskIntensityd
from scipy.spatial.transform import Rotation

from ..projection.geometry import BiplanarGeometry, at_distance
from ..radiographs.augmentation import RandCollimationd, RandPoissonNoised, RandScaleIntensityRangePercentilesd

BODY_AXES = {"superior": 0, "right": 1, "anterior": 2}
"""Places of the patient's axes in the order in which :func:`turned` turns about them."""
VIEW_ANGLES = {"frontal": "ZXY", "lateral": "ZYX"}
"""The axes of a view's `angles_deg`, each as turned by those before, see :class:`~scripts.BiplanarGeometry`."""


@dataclass(frozen=True)
class Condition:
    """One way to take the X-rays of a case."""

    change: str
    """What is changed, such as "source distance"."""
    value: float | str | None = None
    """How much, or which; None where there is only one way."""
    unit: str = ""
    geometry: BiplanarGeometry | None = None
    """The set-up that the CT is projected in; None for the nominal one."""
    told: BiplanarGeometry | None = None
    """The set-up that the network is told; None for the nominal one."""
    ct: Compose | None = None
    """Changes the record `{"ct"}`, and so the truth too; None for nothing."""
    films: Compose | None = None
    """Changes the record `{"xrays", "exposed"}`, both `(2, P, P)`; None for nothing."""


AS_TOLD = Condition("as the network is told")


def with_nominal(changes: Sequence[Sequence[Condition]]) -> list[Condition]:
    """The conditions of all changes in one list, after :data:`AS_TOLD`, with which they are compared."""
    return [AS_TOLD, *(condition for conditions in changes for condition in conditions)]


def turned(
    change: str, geometry: BiplanarGeometry, axes: Sequence[str], views: Sequence[str], degrees: Sequence[float]
) -> list[Condition]:
    """
    The patient turned, right-handed, about the positive direction of the body's axes, by the same angle about each.

    Args:
        change: what the conditions are called.
        geometry: the nominal set-up, along the axes.
        axes: of "superior", "right" and "anterior"; the turns follow one another in this order, each about the axis as
            turned before.
        views: those in which the patient stands so, of "frontal" and "lateral".
        degrees: the angles.
    """

    def set_up(angle: float) -> BiplanarGeometry:
        patient = Rotation.from_euler("ZXY", [angle if axis in axes else 0.0 for axis in BODY_AXES], degrees=True)
        angles = [
            patient.inv().as_euler(order, degrees=True) if view in views else (0.0,) * 3
            for view, order in VIEW_ANGLES.items()
        ]
        return replace(geometry, angles_deg=tuple(tuple(map(float, of_view)) for of_view in angles))

    return [Condition(change, angle, "degrees", geometry=set_up(angle)) for angle in degrees]


def source_distance(change: str, geometry: BiplanarGeometry, percent: Sequence[float]) -> list[Condition]:
    """Source and detector farther away by a part of their distances, or nearer."""
    return [Condition(change, part, "%", geometry=at_distance(geometry, 1 + part / 100)) for part in percent]


def photon_noise(change: str, xray_scale: float, photons: Sequence[float]) -> list[Condition]:
    """The noise of so many photons that would reach a pixel through air, see :class:`~scripts.RandPoissonNoised`."""
    noises = {count: RandPoissonNoised("xrays", xray_scale, (count, count), prob=1.0) for count in photons}
    return [Condition(change, count, "photons", films=Compose([noise])) for count, noise in noises.items()]


def gamma(change: str, exponents: Sequence[float]) -> list[Condition]:
    """The X-rays' values, between their lowest and their highest, to a power."""
    return [Condition(change, power, films=Compose([AdjustContrastd("xrays", power)])) for power in exponents]


def collimated(change: str, percent: Sequence[float]) -> list[Condition]:
    """At each side of each film a random part is lost, up to so much of its length."""
    shut = {part: RandCollimationd("exposed", part / 100, prob=1.0) for part in percent}
    mask = MaskIntensityd("xrays", mask_key="exposed")
    return [Condition(change, part, "%", films=Compose([collimator, mask])) for part, collimator in shut.items()]


def without_scale(change: str, percentiles: Sequence[float], standard_range: Sequence[float]) -> list[Condition]:
    """As films without an absolute scale are read, see :class:`~scripts.RandScaleIntensityRangePercentilesd`."""
    standardised = RandScaleIntensityRangePercentilesd("xrays", "exposed", percentiles, standard_range, prob=1.0)
    return [Condition(change, films=Compose([standardised]))]


def exchanged_views(change: str) -> list[Condition]:
    """The lateral film given as the frontal one, and the other way round."""
    return [Condition(change, films=Compose([_exchanged]))]


def other_views(geometry: BiplanarGeometry, views: Sequence[Sequence[str]]) -> list[Condition]:
    """
    Pairs taken from other sides, such as AP and LL. The network is told so, or is told the nominal views all the same,
    or, where both views are others, the nominal frontal one alone, see :func:`~scripts.data.known_views.as_known`.
    """
    frontal, lateral = geometry.views
    taken = {" ".join(pair): replace(geometry, views=tuple(pair)) for pair in views}
    told = [Condition("other views, told so", name, geometry=set_up, told=set_up) for name, set_up in taken.items()]
    untold = [
        Condition(f"other views, told {frontal} {lateral}", name, geometry=set_up) for name, set_up in taken.items()
    ]
    half_told = [
        Condition(
            f"other views, told {frontal}",
            name,
            geometry=set_up,
            told=replace(set_up, views=(frontal, set_up.views[1])),
        )
        for name, set_up in taken.items()
        if set_up.views[0] != frontal and set_up.views[1] != lateral
    ]
    return told + untold + half_told


def mirrored_patient(change: str) -> list[Condition]:
    """Right and left exchanged in the CT itself, and so in the truth: what a pair with RL has to come near to."""
    return [Condition(change, ct=Compose([Flipd("ct", spatial_axis=0)]))]


def _exchanged(record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    return {**record, **{key: record[key].flip(0) for key in ("xrays", "exposed")}}
