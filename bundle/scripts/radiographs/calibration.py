"""
A pair of radiographs calibrates itself: which scale, contrast, size and place make of two images with no unit the line
integrals of one body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

from ..io.radiograph import XRAY_KEYS, Radiograph
from ..projection.consistency import EpipolarPlanes
from ..projection.geometry import BiplanarGeometry
from .characteristic_curve import CharacteristicCurve
from .pair_statistics import FIGURES, PairStatistics, figures_of_pair
from .placed_radiograph import PlacedRadiograph, nominal_pixel_mm
from .scatter import without_scatter
from .sharing import shares
from .unseen import CUT_MM, SKIN_MM, beyond_border, continued

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

CALIBRATION_KEY = "pair_calibration"
"""
Field of a record, which a batch can hold: the `content` of a :class:`CalibratedPair` as JSON, its `seen`, and the
`frontal` and the `lateral` image as they were read.
"""
DETECTOR = 1.25
"""Side of the detector that is fitted on, over the geometry's: nothing of a radiograph is beyond it."""
PIXEL_MM, PLANES = 5.0, 45
"""Its pixels, and the planes that are compared: coarse, since the fit reads them hundreds of times."""
SHARED_PIXEL_MM, SHARED_PLANES = 2.5, 161
"""The same, where the difference that is left is shared out."""
CONSISTENCY = (0.004, 0.03)
"""
Standard deviation of the logarithm of one view's integral over the other's, in planes that nothing cuts: the fit starts
with the second, and goes on with what is left of the difference, within these.
"""
OBSERVATIONS, FEW = 25, 3
"""Neighbouring planes say nearly the same: all together count as so many; of few that are whole, less."""
LEAST_MASS = 0.02
"""Of a plane that holds any of the body: some millimetres of water over its width."""
ROW_IS_WHOLE = 0.5
"""What :attr:`PlacedRadiograph.whole` is at least of a row that a radiograph does not cut."""
TYPICAL = 0.5
"""What a deviation of the figures counts: a dozen patients say less of others than their covariance has it."""
GAMMA = (0.1, 0.4)
"""Mean and standard deviation of the logarithm of a gamma."""
RELATIVE_SIZE = 0.08
"""Standard deviation of the logarithm of the lateral radiograph's size over the frontal one's."""
COMMON_SIZE = 0.05
"""Mean and standard deviation of the logarithm of both sizes over the nominal ones: radiographs are a little larger."""
SHIFT_UNIT_MM = 50.0
"""Shift of 1, so that all parameters are of like size."""
STEP = 0.05
"""Of a parameter's standard deviation, for differences."""
STARTS = {
    "relative size": (-0.1, 0.1),
    "shift": (-0.4, 0.4),
    "scatter": (0.02,),
}
"""Every combination of what is free of these is a start: the fit has several minima. All else starts at its mean."""
WIDTHS_MM = (20.0, 40.0, 80.0)
"""Of the scatter's blur, from which the fit starts anew."""
EVALUATIONS = {"start": 5, "width": 10, "end": 20}
"""Most steps of the fit from each start, from the best two with each width, and at the end."""
CONTRADICTION = 8.0
"""Half of the sum of squares that what a file says may cost before it is called contradicted: four deviations."""
NAMES = (
    *(f"{view} {name}" for view in XRAY_KEYS for name in ("floor", "lower quartile", "upper quartile")),
    "relative size",
    "shift",
    "size",
    "scatter",
)


@dataclass(frozen=True)
class Prior:
    """
    What is known of a parameter before: normal about a mean, within bounds.

    Args:
        mean: the most probable value.
        deviation: standard deviation, 0 for what is known and stays as it is.
        low: lower bound.
        high: upper bound.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class PairCalibration:
    """
    What makes line integrals of two radiographs.

    Attributes:
        curves: of the frontal and the lateral one.
        sizes: of the pixels of each, over the nominal ones, see :func:`nominal_pixel_mm`.
        shift_mm: how much lower the lateral one lies, on the detector.
        scatter_ratio: see :mod:`scripts.radiographs.scatter`; 0 for none.
        scatter_width_mm: as there.
    """

    curves: tuple[CharacteristicCurve, CharacteristicCurve]
    sizes: tuple[float, float]
    shift_mm: float
    scatter_ratio: float
    scatter_width_mm: float

    def line_integrals(
        self, placed: Sequence[PlacedRadiograph], fading_mm: float | None = None
    ) -> tuple[Float[np.ndarray, "2 P P"], Bool[np.ndarray, "2 P P"]]:
        """
        Of both radiographs on their detector, and where the radiographs show anything.

        Args:
            placed: the radiographs.
            fading_mm: how they go on beyond their borders, see :mod:`scripts.radiographs.unseen`; None for zeros.
        """
        pixel_mm = placed[0].geometry.pixel_mm
        read = [each.read(size, shift) for each, size, shift in zip(placed, self.sizes, (0.0, self.shift_mm))]
        seen = np.stack([mask for _, mask in read])
        found = [curve.line_integrals(values) for curve, (values, _) in zip(self.curves, read)]
        if self.scatter_ratio > 0:
            found = [without_scatter(each, self.scatter_ratio, self.scatter_width_mm, pixel_mm) for each in found]
        if fading_mm is None:
            return np.where(seen, np.stack(found), 0.0), seen
        return continued(np.stack(found), beyond_border(seen) * pixel_mm, fading_mm), seen


@dataclass(frozen=True)
class Consistency:
    """
    How well both views agree.

    Attributes:
        heights_mm: where each plane crosses the middle of the body.
        integrals: of each view and plane, `(2, K)`, dimensionless.
        weights: of each plane: 1 where neither radiograph cuts the body, less the more of the body their borders cut.
    """

    heights_mm: np.ndarray
    integrals: np.ndarray
    weights: np.ndarray

    @property
    def difference(self) -> float:
        """Weighted mean of the relative difference of both views' integrals."""
        frontal, lateral = self.integrals
        relative = np.abs(frontal - lateral) / ((frontal + lateral) / 2).clip(min=1e-6)
        return float(self.weights @ relative / max(float(self.weights.sum()), 1e-6))

    @property
    def uncut(self) -> float:
        """How many of the planes count, as a fraction."""
        return float(self.weights.mean())


@dataclass(frozen=True)
class CalibratedPair:
    """
    A calibrated pair on the geometry's detector.

    Attributes:
        line_integrals: `(2, P, P)`, with what was left of the difference shared out, see
            :mod:`scripts.radiographs.sharing`.
        seen: `(2, P, P)`, where the radiographs show anything.
        calibration: what was found.
        consistency: before the rest was shared out.
        cost: half of the sum of the squared residuals of the fit.
        scale_known: whether a file's values have a unit, so that the factor common to both radiographs is known.
        typical: Mahalanobis distance of the pair's figures from the training's, over the square root of their number.
        contradictions: sentences about what a file says and the pair does not bear out.
        assumed: sentences about what had to be assumed.
        flags: sentences about why the reconstruction should not be relied on.
        common_factor: with which all line integrals were multiplied, see :mod:`scripts.radiographs.common_scale`.
    """

    line_integrals: np.ndarray
    seen: np.ndarray
    calibration: PairCalibration
    consistency: Consistency
    scale_known: bool
    cost: float
    typical: float
    contradictions: tuple[str, ...]
    assumed: tuple[str, ...]
    flags: tuple[str, ...] = ()
    common_factor: float = 1.0

    def as_content(self) -> dict[str, Any]:
        """For a JSON file."""
        found = self.calibration
        views = {
            view: {**asdict(curve), "size": size, "seen": float(seen.mean())}
            for view, curve, size, seen in zip(XRAY_KEYS, found.curves, found.sizes, self.seen)
        }
        consistency = self.consistency
        planes = {
            "heights_mm": consistency.heights_mm.round(1).tolist(),
            **{view: each.round(4).tolist() for view, each in zip(XRAY_KEYS, consistency.integrals)},
            "weights": consistency.weights.round(6).tolist(),
        }
        return {
            **views,
            "lateral_lower_by_mm": found.shift_mm,
            "scatter_to_primary": found.scatter_ratio,
            "scatter_width_mm": found.scatter_width_mm,
            "scale_known": self.scale_known,
            "common_factor": self.common_factor,
            "relative_difference": consistency.difference,
            "uncut_planes": consistency.uncut,
            "typical": self.typical,
            "cost": self.cost,
            "flagged": bool(self.flags),
            "flags": list(self.flags),
            "contradictions": list(self.contradictions),
            "assumed": list(self.assumed),
            "consistency": planes,
        }


def pair_of_content(content: Mapping[str, Any], line_integrals: np.ndarray, seen: np.ndarray) -> CalibratedPair:
    """The inverse of :meth:`CalibratedPair.as_content`, up to what that rounds."""
    frontal, lateral = (content[view] for view in XRAY_KEYS)
    curves = tuple(CharacteristicCurve(each["scale"], each["floor"], each["gamma"]) for each in (frontal, lateral))
    calibration = PairCalibration(
        curves,
        (frontal["size"], lateral["size"]),
        content["lateral_lower_by_mm"],
        content["scatter_to_primary"],
        content["scatter_width_mm"],
    )
    said = content["consistency"]
    integrals = np.array([said[view] for view in XRAY_KEYS])
    consistency = Consistency(np.array(said["heights_mm"]), integrals, np.array(said["weights"]))
    sentences = (tuple(content[name]) for name in ("contradictions", "assumed", "flags"))
    figures = (content[name] for name in ("scale_known", "cost", "typical"))
    return CalibratedPair(
        line_integrals, seen, calibration, consistency, *figures, *sentences, content["common_factor"]
    )


def needs_calibration(radiographs: Sequence[Radiograph]) -> bool:
    """
    Whether one of them has no known size. Presentation images of known size are not better off than by their
    percentiles, see `benchmarks/calibration.md` of the repository.
    """
    return any(each.pixel_mm is None for each in radiographs)


def calibrate_pair(
    radiographs: Sequence[Radiograph], geometry: BiplanarGeometry, statistics: PairStatistics
) -> CalibratedPair:
    """
    Seeks scale, floor and gamma of each radiograph, their relative size and shift, a common size, and the share of
    scatter, by least squares. The evidence: both views agree in each plane through both sources, as far as no border
    cuts it, see :class:`EpipolarPlanes`; values, masses and sizes are those of known pairs, see
    :mod:`scripts.radiographs.pair_statistics`; and priors. What a file says stays as it is. Deterministic.

    Args:
        radiographs: frontal, lateral, in display orientation, upright and with more attenuation larger.
        geometry: of the acquisition.
        statistics: of the pairs that the network was trained on.
    """
    placed = [
        PlacedRadiograph(each, geometry, nominal_pixel_mm(each, geometry), bands)
        for each, bands in zip(radiographs, zip(*statistics.bands))
    ]
    fit = _Fit(radiographs, placed, geometry, statistics)
    starts = [fit.run(start, WIDTHS_MM[1], EVALUATIONS["start"]) for start in fit.starts()]
    nearest = sorted(starts, key=lambda each: each.cost)[:2]
    fit.tighten(nearest[0].x, WIDTHS_MM[1])
    tried = [(fit.run(start.x, width, EVALUATIONS["width"]), width) for start in nearest for width in WIDTHS_MM]
    best, width = min(tried, key=lambda each: each[0].cost)
    fit.tighten(best.x, width)
    best = fit.run(best.x, width, EVALUATIONS["end"])
    found = fit.calibration(best.x, width)
    line_integrals, seen = found.line_integrals(placed, SKIN_MM)
    fine = _wide(geometry, SHARED_PIXEL_MM)
    on_fine = found.line_integrals([each.on(fine) for each in placed], CUT_MM)[0]
    factors = shares(on_fine, EpipolarPlanes(fine, SHARED_PLANES), fit.planes.slopes, fit.weights, geometry)
    figures = fit.figures(best.x, width)
    return CalibratedPair(
        line_integrals * factors,
        seen,
        found,
        fit.consistency(best.x, width),
        any(each.scale != "presentation" for each in radiographs),
        float(best.cost),
        float(np.sqrt((figures**2).sum() / max(np.count_nonzero(figures), 1)) / TYPICAL),
        fit.contradictions(best, width),
        _assumed(radiographs, geometry),
    )


def _wide(geometry: BiplanarGeometry, pixel_mm: float) -> BiplanarGeometry:
    side = DETECTOR * geometry.detector_size_mm
    return replace(geometry, detector_size_mm=side, detector_pixels=round(side / pixel_mm))


def _priors(
    radiographs: Sequence[Radiograph], placed: Sequence[PlacedRadiograph], statistics: PairStatistics
) -> dict[str, Prior]:
    """
    Of all parameters. The quartiles of a presentation's body are those of known pairs, within a factor of 1.6. Of a
    transmission image the bare beam is uncertain by 0.3.
    """
    priors: dict[str, Prior] = {}
    for view, radiograph, each in zip(XRAY_KEYS, radiographs, placed):
        extent, zero = float(each.high - each.low), float(each.normalised(np.zeros(())))
        if radiograph.scale == "presentation":
            floor = Prior(each.floor, 0.05, each.floor - 0.2, min(each.floor + 0.2, each.quartiles[0] - 0.02))
        else:
            floor = Prior(zero, 0.0 if radiograph.scale == "line_integral" else 0.3 / extent, zero - 0.5, zero + 0.5)
        priors[f"{view} floor"] = floor
        for name, level in (("lower quartile", "25%"), ("upper quartile", "75%")):
            usual = float(statistics.mean[FIGURES.index(f"{view} {level} quantile")])
            deviation = 0.5 if radiograph.scale == "presentation" else 0.0
            priors[f"{view} {name}"] = Prior(usual, deviation, usual - 2, usual + 2)
    known = [radiograph.pixel_mm is not None for radiograph in radiographs]
    size = 0.0 if any(known) else COMMON_SIZE
    return priors | {
        "relative size": Prior(0.0, 0.0 if all(known) else RELATIVE_SIZE, -0.4, 0.4),
        "shift": Prior(0.0, 0.4, -2.0, 2.0),
        "size": Prior(size, size, -0.3, 0.3),
        "scatter": Prior(0.0, 0.3, 0.0, 1.5),
    }


class _Fit:
    """The least-squares problem of a pair, on a coarse detector."""

    def __init__(
        self,
        radiographs: Sequence[Radiograph],
        placed: Sequence[PlacedRadiograph],
        geometry: BiplanarGeometry,
        statistics: PairStatistics,
    ) -> None:
        self.radiographs, self.statistics = radiographs, statistics
        self.geometry = _wide(geometry, PIXEL_MM)
        self.placed = [each.on(self.geometry) for each in placed]
        self.planes = EpipolarPlanes(self.geometry, PLANES)
        self._set_priors(_priors(radiographs, self.placed, statistics))
        self.tolerance = CONSISTENCY[1]
        self.weights, self.whole = np.zeros(PLANES), np.zeros((2, self.geometry.detector_pixels), bool)

    def _set_priors(self, priors: dict[str, Prior]) -> None:
        self.priors, self.free = priors, [name for name in NAMES if priors[name].deviation > 0]
        free = [priors[name] for name in self.free]
        self.means, self.deviations, *self.bounds = (
            np.array([getattr(prior, name) for prior in free]) for name in ("mean", "deviation", "low", "high")
        )

    def starts(self) -> list[np.ndarray]:
        names = [name for name in STARTS if name in self.free]
        found = []
        for values in product(*(STARTS[name] for name in names)):
            start = dict(zip(self.free, self.means)) | dict(zip(names, values))
            found.append(np.array([start[name] for name in self.free]))
        return found

    def calibration(self, free: np.ndarray, width_mm: float) -> PairCalibration:
        value = {name: prior.mean for name, prior in self.priors.items()} | dict(zip(self.free, free))
        frontal, lateral = (self._curve(view, value) for view in range(2))
        sizes = self._sizes(value)
        return PairCalibration(
            (frontal, lateral), sizes, float(SHIFT_UNIT_MM * value["shift"]), float(value["scatter"]), width_mm
        )

    def _sizes(self, value: dict[str, float]) -> tuple[float, float]:
        """Of both views' pixels over the nominal ones. Where only one file says its own, the other is resized."""
        frontal, lateral = value["size"], value["size"] + value["relative size"]
        if self.radiographs[0].pixel_mm is None and self.radiographs[1].pixel_mm is not None:
            frontal, lateral = frontal - value["relative size"], value["size"]
        return exp(frontal), exp(lateral)

    def _curve(self, view: int, value: dict[str, float]) -> CharacteristicCurve:
        each, name = self.placed[view], XRAY_KEYS[view]
        floor = float(value[f"{name} floor"])
        if self.radiographs[view].scale != "presentation":
            return CharacteristicCurve(float(each.high - each.low), floor, 1.0)
        logs = value[f"{name} lower quartile"], value[f"{name} upper quartile"]
        return CharacteristicCurve.through(floor, each.quartiles, logs)

    def run(self, start: np.ndarray, width_mm: float, evaluations: int) -> OptimizeResult:
        """From a start, with what the borders cut as it is there."""
        low, high = self.bounds
        start = np.clip(start, low + 1e-6, high - 1e-6)
        self._look_at_borders(self.calibration(start, width_mm))
        return least_squares(
            self.residuals,
            start,
            self.differences,
            self.bounds,
            x_scale=self.deviations,
            max_nfev=evaluations,
            args=(width_mm,),
        )

    def residuals(self, free: np.ndarray, width_mm: float) -> np.ndarray:
        """Of the planes, which count less the further off they are, of the figures and of the priors."""
        found = self.calibration(free, width_mm)
        line_integrals, seen = found.line_integrals(self.placed, SKIN_MM)
        gammas = np.log(np.maximum([each.gamma for each in found.curves], 1e-2))
        logs = np.log(self.planes.integrals(line_integrals).clip(min=1e-3))
        off = (logs[0] - logs[1]) / self.tolerance
        robust = np.sign(off) * np.sqrt(8 * (np.sqrt(1 + off**2 / 4) - 1))
        figures = figures_of_pair(np.where(seen, line_integrals, 0), seen, self.geometry, self.whole)
        return np.concatenate(
            [
                np.sqrt(self.weights * OBSERVATIONS / (self.weights.sum() + FEW)) * robust,
                TYPICAL * self.statistics.whitened(figures),
                (free - self.means) / self.deviations,
                (gammas - GAMMA[0]) / GAMMA[1],
            ]
        )

    def differences(self, free: np.ndarray, width_mm: float) -> np.ndarray:
        """Derivatives of the residuals: their own rounding is too rough for the steps that SciPy would choose."""
        at, columns = self.residuals(free, width_mm), []
        for index, deviation in enumerate(self.deviations):
            step = STEP * deviation
            other = free.copy()
            other[index] += step if free[index] + step < self.bounds[1][index] else -step
            columns.append((self.residuals(other, width_mm) - at) / (other - free)[index])
        return np.stack(columns, axis=1)

    def tighten(self, free: np.ndarray, width_mm: float) -> None:
        """Sets the tolerance to what is left of the difference between both views."""
        integrals = self.consistency(free, width_mm).integrals.clip(min=1e-3)
        squares = self.weights @ np.diff(np.log(integrals), axis=0)[0] ** 2 / max(float(self.weights.sum()), 1e-6)
        self.tolerance = float(np.clip(np.sqrt(squares), *CONSISTENCY))

    def figures(self, free: np.ndarray, width_mm: float) -> np.ndarray:
        return self.residuals(free, width_mm)[PLANES : PLANES + len(FIGURES)]

    def consistency(self, free: np.ndarray, width_mm: float) -> Consistency:
        line_integrals, _ = self.calibration(free, width_mm).line_integrals(self.placed, SKIN_MM)
        heights = self.planes.slopes * self.planes.isocentre_mm
        return Consistency(heights, self.planes.integrals(line_integrals), self.weights)

    def contradictions(self, best: OptimizeResult, width_mm: float) -> tuple[str, ...]:
        """What of the sizes that the files say a fit without them finds otherwise, at a lower cost."""
        if "relative size" in self.free:
            return ()
        kept, weights, whole = self.priors, self.weights, self.whole
        self._set_priors(kept | {"relative size": replace(kept["relative size"], deviation=RELATIVE_SIZE)})
        start = dict(zip([name for name in NAMES if kept[name].deviation > 0], best.x))
        freed = self.run(np.array([start.get(name, 0.0) for name in self.free]), width_mm, EVALUATIONS["width"])
        relative = exp(dict(zip(self.free, freed.x))["relative size"])
        self._set_priors(kept)
        self.weights, self.whole = weights, whole
        if best.cost - freed.cost < CONTRADICTION:
            return ()
        return (
            f"By their pixel spacings the radiographs do not fit each other: the pair itself says that the lateral one "
            f"is {relative:.2f} times as large. The spacings are used; check Imager Pixel Spacing (0018,1164).",
        )

    def _look_at_borders(self, found: PairCalibration) -> None:
        """Sets what each plane counts, and which rows of the detector are cut by neither radiograph."""
        mass = self.planes.integrals(found.line_integrals(self.placed, SKIN_MM)[0])
        weights = (mass > LEAST_MASS).all(0).astype(float)
        middle = (self.geometry.detector_pixels - 1) / 2
        inner = slice(self.geometry.detector_pixels // 4, -self.geometry.detector_pixels // 4)
        places, whole = (np.arange(self.geometry.detector_pixels) - middle) * self.geometry.pixel_mm, []
        for each, positions, size, shift in zip(self.placed, self.planes.positions, found.sizes, (0.0, found.shift_mm)):
            down_mm = (positions[0][:, inner] - middle) * self.geometry.pixel_mm
            weights = weights * each.reaches(down_mm, size, shift).all(1) * each.whole_at(down_mm, size, shift).mean(1)
            whole.append(each.whole_at(places, size, shift) > ROW_IS_WHOLE)
        self.weights, self.whole = weights, np.stack(whole)


def _assumed(radiographs: Sequence[Radiograph], geometry: BiplanarGeometry) -> tuple[str, ...]:
    """What no file says and the pair cannot tell."""
    found = [f"Views {geometry.views[0]} and {geometry.views[1]}."]
    if not any(each.source_to_patient_mm for each in radiographs):
        found.append(f"The source is {geometry.source_to_isocentre_mm:g} mm from the middle of the patient.")
    if all(each.pixel_mm is None for each in radiographs):
        found.append("The common size is that of a usual chest radiograph and body, within about 5 %.")
    if all(each.scale == "presentation" for each in radiographs):
        found.append("The common scale is that of bodies of the training's density.")
    return tuple(found)
