"""
Perturbations of the acquisition that the network does not know of: each function lists those of one kind.

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
from ..projection.imaging import ImagingModel
from ..radiographs.augmentation import RandCollimationd, RandPoissonNoised, RandScaleIntensityRangePercentilesd
from ..training.former_names import by_former_name

BODY_AXES = {"superior": 0, "right": 1, "anterior": 2}
"""Places of the patient's axes in the order in which :func:`rotated` rotates about them."""
VIEW_ANGLES = {"frontal": "ZXY", "lateral": "ZYX"}
"""The axes of a view's `angles_deg`, each as rotated by those before, see :class:`~scripts.BiplanarGeometry`."""


@dataclass(frozen=True)
class Perturbation:
    """One perturbation of one size, under which a case is scored."""

    change: str
    """What is changed, such as "source distance"."""
    value: float | str | None = None
    """How much, or which; None where there is only one way."""
    unit: str = ""
    geometry: BiplanarGeometry | None = None
    """The acquisition geometry that the CT is projected in; None for the nominal one."""
    received: BiplanarGeometry | None = None
    """The acquisition geometry that the network receives; None for the nominal one."""
    ct: Compose | None = None
    """Changes the record `{"ct"}`, and so the ground truth too; None for nothing."""
    xrays: Compose | None = None
    """Changes the record `{"xrays", "exposed"}`, both `(2, P, P)`; None for nothing."""


FORMER_NAMES = {"exchanged_views": "swapped_views", "turned": "rotated"}
"""Functions of version 0.3, which configs may list, and those that took their place."""
NOMINAL = Perturbation("nominal")
"""The nominal acquisition, which the others are compared with."""


def with_nominal(changes: Sequence[Sequence[Perturbation]]) -> list[Perturbation]:
    """The perturbations of all changes in one list, after :data:`NOMINAL`, with which they are compared."""
    return [NOMINAL, *(perturbation for perturbations in changes for perturbation in perturbations)]


def rotated(
    change: str, geometry: BiplanarGeometry, axes: Sequence[str], views: Sequence[str], degrees: Sequence[float]
) -> list[Perturbation]:
    """
    The patient rotated, right-handed, about the positive direction of the body's axes, by the same angle about each.

    Args:
        change: what the perturbations are called.
        geometry: the nominal acquisition geometry, along the axes.
        axes: of "superior", "right" and "anterior"; the rotations follow one another in this order, each about the axis
            as rotated before.
        views: those in which the patient stands so, of "frontal" and "lateral".
        degrees: the angles.
    """

    def acquired_at(angle: float) -> BiplanarGeometry:
        patient = Rotation.from_euler("ZXY", [angle if axis in axes else 0.0 for axis in BODY_AXES], degrees=True)
        angles = [
            patient.inv().as_euler(order, degrees=True) if view in views else (0.0,) * 3
            for view, order in VIEW_ANGLES.items()
        ]
        return replace(geometry, angles_deg=tuple(tuple(map(float, of_view)) for of_view in angles))

    return [Perturbation(change, angle, "degrees", geometry=acquired_at(angle)) for angle in degrees]


def source_distance(change: str, geometry: BiplanarGeometry, percent: Sequence[float]) -> list[Perturbation]:
    """Source and detector farther away by a fraction of their distances, or nearer."""
    return [Perturbation(change, each, "%", geometry=at_distance(geometry, 1 + each / 100)) for each in percent]


def photon_noise(change: str, imaging: ImagingModel, photons: Sequence[float]) -> list[Perturbation]:
    """Poisson noise of so many photons, which would reach a pixel in air, see :class:`~scripts.RandPoissonNoised`."""
    noises = {count: RandPoissonNoised("xrays", imaging.xray_scale, (count, count), prob=1.0) for count in photons}
    return [Perturbation(change, count, "photons", xrays=Compose([noise])) for count, noise in noises.items()]


def gamma(change: str, exponents: Sequence[float]) -> list[Perturbation]:
    """The X-rays' values, between their lowest and their highest, to a power."""
    return [Perturbation(change, power, xrays=Compose([AdjustContrastd("xrays", power)])) for power in exponents]


def collimated(change: str, percent: Sequence[float]) -> list[Perturbation]:
    """At each side of each X-ray a random fraction of its length is lost, up to so much."""
    collimators = {each: RandCollimationd("exposed", each / 100, prob=1.0) for each in percent}
    mask = MaskIntensityd("xrays", mask_key="exposed")
    return [
        Perturbation(change, each, "%", xrays=Compose([collimator, mask])) for each, collimator in collimators.items()
    ]


def without_scale(change: str, percentiles: Sequence[float], standard_range: Sequence[float]) -> list[Perturbation]:
    """As uncalibrated intensities are normalised, see :class:`~scripts.RandScaleIntensityRangePercentilesd`."""
    standardised = RandScaleIntensityRangePercentilesd("xrays", "exposed", percentiles, standard_range, prob=1.0)
    return [Perturbation(change, xrays=Compose([standardised]))]


def swapped_views(change: str) -> list[Perturbation]:
    """The lateral X-ray given as the frontal one, and the other way round."""
    return [Perturbation(change, xrays=Compose([_swapped]))]


def other_views(geometry: BiplanarGeometry, views: Sequence[Sequence[str]]) -> list[Perturbation]:
    """
    Pairs taken from other sides, such as AP and LL. The network receives them as such, or as the nominal views all the
    same, or, where both views are others, as the nominal frontal one alone, see
    :func:`~scripts.data.known_views.as_known`.
    """
    frontal, lateral = geometry.views
    taken = {" ".join(pair): replace(geometry, views=tuple(pair)) for pair in views}
    as_such = [
        Perturbation("other views, received as such", name, geometry=actual, received=actual)
        for name, actual in taken.items()
    ]
    as_nominal = [
        Perturbation(f"other views, received as {frontal} {lateral}", name, geometry=actual)
        for name, actual in taken.items()
    ]
    half_nominal = [
        Perturbation(
            f"other views, received as {frontal}",
            name,
            geometry=actual,
            received=replace(actual, views=(frontal, actual.views[1])),
        )
        for name, actual in taken.items()
        if actual.views[0] != frontal and actual.views[1] != lateral
    ]
    return as_such + as_nominal + half_nominal


def mirrored_patient(change: str) -> list[Perturbation]:
    """Right and left swapped in the CT itself, and so in the ground truth: what a pair with RL has to come near to."""
    return [Perturbation(change, ct=Compose([Flipd("ct", spatial_axis=0)]))]


def _swapped(record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    return {**record, **{key: record[key].flip(0) for key in ("xrays", "exposed")}}


def __getattr__(name: str) -> Any:
    """The names of version 0.3, which go in version 0.5."""
    return by_former_name("perturbations", name, FORMER_NAMES, globals())
