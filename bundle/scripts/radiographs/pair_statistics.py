"""What the values and sizes of a pair's line integrals are like, and how far those of another pair are from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from ..io.atomic_write import NOTICE
from ..io.sidecar import Sidecar, made_by, write_sidecar
from ..projection.attenuation import WATER_ATTENUATION_PER_MM
from ..projection.geometry import BiplanarGeometry
from .frequency_bands import BANDS, BandStatistics, band_statistics, shares_of_bands

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the values in the body."""
WATER_LEVELS = (0.5, 0.85)
"""Quantiles over the rows: a usual one, and one of those with little lung."""
ALONG_RAYS = {"frontal": "depth", "lateral": "width"}
"""Which of the body's extents the rays of a view run along."""
FIGURES = (
    *(f"{view} {level:.0%} quantile" for view in ALONG_RAYS for level in LEVELS),
    *(f"{view} {level:.0%} quantile over {extent}" for view, extent in ALONG_RAYS.items() for level in LEVELS),
    *(f"mass over water's, {level:.0%} quantile of rows" for level in WATER_LEVELS),
    "width",
    "depth",
)
"""Names of what is compared, the logarithm of each."""
BODY_INTEGRAL = 0.48
"""Line integral of 23 mm of water: more is the body."""
EDGE_INTEGRAL, EDGE_SOFTNESS = 0.24, 0.08
"""Where the body's outline is drawn, and how softly, so that the figures change smoothly with the values."""
REACH_MM = 170.0
"""From the middle, along the body: what is compared; further rows are the ends of the volume."""
LEAST_ROWS, LEAST_PIXELS, LEAST_CHORD_MM = 10, 200, 80.0
"""Fewer rows or pixels of the body say nothing; a narrower row is none of a trunk."""
MIN_PAIRS = 2 * len(FIGURES)
SHOWN_PIXELS = 96
"""Of the detector on which the figures of known pairs are taken: 5 mm a side, as where radiographs are fitted."""
BORDERS = {"top": (0.03, 0.2), "bottom": (0.03, 0.2), "left": (0.0, 0.1), "right": (0.0, 0.1)}
"""Fractions of the detector that a radiograph of a known pair does not show, smallest and largest."""
CUT_INTEGRAL = 0.6
"""A row is cut where more than this lies beyond the border."""
SHRINKAGE = 0.1
"""Fraction of the correlation that is replaced by the unit matrix: there are few patients."""


class PairStatistics(NamedTuple):
    """
    Means, standard deviations and correlation of :data:`FIGURES` over known pairs, and the shares of their bands.

    Attributes:
        mean: `(24,)`.
        deviation: `(24,)`.
        correlation: `(24, 24)`, positive definite.
        bands: of both views.
    """

    mean: np.ndarray
    deviation: np.ndarray
    correlation: np.ndarray
    bands: BandStatistics

    def whitened(self, figures: Float[np.ndarray, " 24"]) -> Float[np.ndarray, " 24"]:
        """
        The figures as independent numbers of variance 1, whose sum of squares is Mahalanobis's distance, squared. What
        is not known of them, NaN, is left out, and is 0.
        """
        known = np.flatnonzero(np.isfinite(comparable(figures)))
        root = np.linalg.cholesky(self.correlation[np.ix_(known, known)])
        found = np.zeros(len(figures))
        found[known] = np.linalg.solve(root, ((figures - self.mean) / self.deviation)[known])
        return found


def statistics_of(figures: Float[np.ndarray, "B 24"], shares: Float[np.ndarray, "C 2 8"]) -> PairStatistics:
    """
    Of the figures of known pairs, in which some may not be known, NaN, and of each at least two are; and of the shares
    of their bands, of which the same holds.
    """
    known = np.ma.masked_invalid(figures)
    mean, deviation = known.mean(0).filled(0.0), known.std(0).filled(1.0).clip(min=1e-6)
    correlation = np.ma.corrcoef(known, rowvar=False).filled(0.0)
    values, axes = np.linalg.eigh((1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(FIGURES)))
    return PairStatistics(mean, deviation, axes * values.clip(min=SHRINKAGE / 2) @ axes.T, band_statistics(shares))


def figures_of_pair(
    line_integrals: Float[np.ndarray, "2 P P"],
    seen: Bool[np.ndarray, "2 P P"],
    geometry: BiplanarGeometry,
    whole: Bool[np.ndarray, "2 P"] | None = None,
) -> Float[np.ndarray, " 24"]:
    """
    Logarithms of: quantiles of the values in the body, of both views; the same over the water that the body's extent
    along the rays would be; the mass of a row over that of its rectangle of water, which width and depth span, as
    quantiles over the rows; median width and depth in mm. NaN is what is not known.

    Args:
        line_integrals: frontal, lateral, dimensionless, on the geometry's detector.
        seen: where the radiographs show anything.
        geometry: of the acquisition.
        whole: rows in which each radiograph does not cut the body; by default all.
    """
    row_mm = geometry.pixel_mm / geometry.magnification(0.0)
    centres = (np.arange(geometry.detector_pixels) - (geometry.detector_pixels - 1) / 2) * row_mm
    chords = np.stack([_chords(each) * row_mm for each in line_integrals])
    rows = (chords > LEAST_CHORD_MM) & (np.abs(centres) < REACH_MM) & seen.any(2)
    rows &= True if whole is None else whole
    width, depth = (
        np.median(chord[known]) if known.sum() >= LEAST_ROWS else np.nan for chord, known in zip(chords, rows)
    )
    quantiles = [np.log(_quantiles(each[mask])) for each, mask in zip(line_integrals, seen)]
    over = [each - np.log(extent * WATER_ATTENUATION_PER_MM) for each, extent in zip(quantiles, (depth, width))]
    both, water = rows.all(0), np.full(len(WATER_LEVELS), np.nan)
    if both.sum() >= LEAST_ROWS:
        mass = line_integrals.sum(2).mean(0)[both] * row_mm
        ratios = mass / (chords[0] * chords[1])[both] / WATER_ATTENUATION_PER_MM
        water = np.log(np.quantile(ratios, WATER_LEVELS))
    return np.concatenate([*quantiles, *over, water, np.log([width, depth])])


def comparable(figures: Float[np.ndarray, " 24"]) -> Float[np.ndarray, " 24"]:
    """The figures, each quantile in one form alone: over the body's extent where that is known."""
    found, count = figures.copy(), len(ALONG_RAYS) * len(LEVELS)
    found[:count][np.isfinite(figures[count : 2 * count])] = np.nan
    return found


def _quantiles(values: np.ndarray) -> np.ndarray:
    body = values[values > BODY_INTEGRAL]
    return np.quantile(body, LEVELS) if body.size >= LEAST_PIXELS else np.full(len(LEVELS), EDGE_INTEGRAL)


def _chords(line_integrals: np.ndarray) -> np.ndarray:
    """Pixels of each row that are the body."""
    return (1 / (1 + np.exp(-np.clip((line_integrals - EDGE_INTEGRAL) / EDGE_SOFTNESS, -50, 50)))).sum(1)


def fit_statistics(
    records: Iterable[Mapping[str, Any]],
    prepare_batch: Callable,
    draws: int,
    crops: int,
    xray_scale: float,
    seed: int,
    path: str,
    weights: str,
) -> None:
    """
    Writes the sidecar file of a pair's calibration: the figures of the training's projections, as radiographs that show
    a random part of the detector.

    Args:
        records: batches of one record, such as a `DataLoader` yields.
        prepare_batch: the training's, with augmented CTs, nominal geometry and clean X-rays.
        draws: number of augmented samples of a record.
        crops: number of parts that are shown of each.
        xray_scale: line integral that is scaled to 1.
        seed: of the parts.
        path: the file to write.
        weights: the weights that it lies beside.

    Raises:
        InputError: when there are too few pairs.
    """
    random, figures, shares = np.random.RandomState(seed), [], []
    for batch in records:
        for _ in range(draws):
            xrays, target, *_ = prepare_batch(batch)
            pair = xray_scale * xrays[0].float().cpu().numpy()
            geometry = target["geometry"].of_case(0)
            figures.append(figures_of_parts(pair, geometry, crops, random))
            shares.append(shares_of_part(pair, geometry, random))
    pairs = sum(map(len, figures))
    if pairs < MIN_PAIRS:
        raise InputError(
            f"calibration: {pairs} pairs of X-rays, expected at least {MIN_PAIRS} for {len(FIGURES)} figures; "
            f"set draws or crops higher."
        )
    found = statistics_of(np.concatenate(figures), np.stack(shares))
    content = {name: getattr(found, name).tolist() for name in ("mean", "deviation", "correlation")}
    bands = {f"band_{name}": value.tolist() for name, value in found.bands._asdict().items()}
    write_sidecar(path, weights, {"notice": NOTICE, "pairs": pairs, "figures": list(FIGURES), **content, **bands})


def read_statistics(path: str, weights: str) -> PairStatistics:
    """
    What :func:`fit_statistics` wrote.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when the correlation is none.
    """
    file, count = Sidecar(path, weights, made_by("calibration", weights)), len(FIGURES)
    file.require("figures", list(FIGURES), "those that this version compares")
    correlation = file.numbers("correlation", (count, count), least=-2.0, most=2.0)
    if not (np.allclose(correlation, correlation.T) and np.linalg.eigvalsh(correlation)[0] > 0):
        raise file.refusal("correlation", "holds another matrix", "a symmetric, positive definite one")
    bands = BandStatistics(
        file.numbers("band_mean", (2, BANDS), most=0.0), file.numbers("band_deviation", (2, BANDS), above=0.0)
    )
    deviation = file.numbers("deviation", (count,), above=0.0)
    return PairStatistics(file.numbers("mean", (count,)), deviation, correlation, bands)


def figures_of_parts(
    pair: Float[np.ndarray, "2 P P"], geometry: BiplanarGeometry, parts: int, random: np.random.RandomState
) -> Float[np.ndarray, "parts 24"]:
    """
    The figures of radiographs that show random parts of a pair's detector, see :data:`BORDERS`.

    Args:
        pair: line integrals on the geometry's detector.
        geometry: of the acquisition.
        parts: how many.
        random: draws the parts.
    """
    coarse = geometry.with_pixels(SHOWN_PIXELS)
    reduced = adaptive_avg_pool2d(torch.as_tensor(pair), SHOWN_PIXELS).double().numpy()
    return np.stack([_figures_of_part(reduced, coarse, random) for _ in range(parts)])


def shares_of_part(
    pair: Float[np.ndarray, "2 P P"], geometry: BiplanarGeometry, random: np.random.RandomState
) -> Float[np.ndarray, "2 8"]:
    """The shares of the bands of radiographs that show a random part of a pair's detector; arguments as above."""
    pixel_mm = (geometry.pixel_mm, geometry.pixel_mm)
    return np.stack([shares_of_bands(*each, pixel_mm) for each in zip(pair, _shown(pair, random))])


def _shown(pair: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    low, high = np.array(list(BORDERS.values())).T
    seen = np.zeros(pair.shape, bool)
    for mask in seen:
        top, bottom, left, right = (random.uniform(low, high) * len(mask)).astype(int)
        mask[top : len(mask) - bottom, left : len(mask) - right] = True
    return seen


def _figures_of_part(pair: np.ndarray, geometry: BiplanarGeometry, random: np.random.RandomState) -> np.ndarray:
    seen = _shown(pair, random)
    whole = (pair * ~seen).max(2) < CUT_INTEGRAL
    return figures_of_pair(np.where(seen, pair, 0.0), seen, geometry, whole)
