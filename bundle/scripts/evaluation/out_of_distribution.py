"""Out-of-distribution detection: the Mahalanobis distance of a pair of X-rays from those of the training."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import Transform
from scipy.stats import binomtest
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from ..io.atomic_write import NOTICE
from ..io.radiograph import XRAY_KEYS
from ..io.sidecar import Sidecar, made_by, write_sidecar
from ..radiographs.one_view import is_without

FAMILIARITY_KEY = "familiarity"
"""Field of a record with what :meth:`OutOfDistributionDetector.assess` returns."""
SIDE, COARSE_SIDE = 64, 16
SHRINKAGE = 0.02
"""Fraction of the correlation matrix that is replaced by the unit matrix, so that it can be inverted."""
MIN_PATIENTS = 3
"""To measure false positives one is left out, and another for the threshold."""
MEAN_KEYS = ("mean_radiographs", "mean_films")
"""What the mean pair is called in a sidecar file: from version 0.5 on, and as it is written until then."""
NEARER = 0.9
"""A pair counts as mistaken when undoing a mistake brings it nearer than this fraction of its distance."""
FEATURES = (
    *(
        f"{view} like {which}"
        for view in XRAY_KEYS
        for which in ("its mean", "upside down", "mirrored", "the other mean")
    ),
    *(f"{view} roughness" for view in XRAY_KEYS),
    "rows agree",
    "rows change alike",
)


def inverted(xrays: torch.Tensor) -> torch.Tensor:
    """X-rays `(..., H, W)`, bright for dark."""
    return xrays.amax((-2, -1), keepdim=True) - xrays


def of_view(view: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The change of pairs `(..., 2, H, W)` that changes the X-rays of one view."""

    def changed(pairs: torch.Tensor) -> torch.Tensor:
        xrays = [change(xray) if key == view else xray for key, xray in zip(XRAY_KEYS, pairs.unbind(-3))]
        return torch.stack(xrays, dim=-3)

    return changed


MISTAKES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exchanged": lambda pairs: pairs.flip(-3),
    "both upside down": lambda pairs: pairs.flip(-2),
    **{f"{view} upside down": of_view(view, lambda xrays: xrays.flip(-2)) for view in XRAY_KEYS},
    "both turned to the left": lambda pairs: pairs.rot90(1, (-2, -1)),
    "both turned to the right": lambda pairs: pairs.rot90(-1, (-2, -1)),
    "both inverted": inverted,
    **{f"{view} inverted": of_view(view, inverted) for view in XRAY_KEYS},
}
"""What is done to pairs `(..., 2, H, W)` by mistake, and is seen by undoing it."""
UNDONE_BY = {
    "both turned to the left": "both turned to the right",
    "both turned to the right": "both turned to the left",
}
"""Mistakes that are not undone by themselves."""


def reduced(xrays: torch.Tensor) -> torch.Tensor:
    """X-rays `(..., 2, P, P)` of any device, averaged to 64 pixels a side, on the CPU, where the rest is computed."""
    return adaptive_avg_pool2d(torch.as_tensor(xrays).as_subclass(torch.Tensor).float().cpu(), SIDE)


def pair_features(pairs: torch.Tensor, mean_pair: torch.Tensor) -> np.ndarray:
    """
    What is compared of pairs of X-rays, in the order of :data:`FEATURES`, `(B, 12)`.

    Of each X-ray, its correlation at 16 x 16 pixels with the mean X-ray of its view, with that turned upside down, with
    that mirrored, and with the mean X-ray of the other view; and its mean difference from row to row. Of the pair, the
    correlation of the row means of both X-rays, and of their changes from row to row: a row of either X-ray is made of
    nearly the same slice of the body.

    Args:
        pairs: from :func:`reduced`, `(B, 2, 64, 64)`.
        mean_pair: mean X-ray of each view, `(2, 16, 16)`, on the CPU as well.
    """
    coarse, features = adaptive_avg_pool2d(pairs, COARSE_SIDE), []
    for view in range(len(XRAY_KEYS)):
        mean, other = mean_pair[view], mean_pair[1 - view]
        features += [_correlation(coarse[:, view], each) for each in (mean, mean.flip(0), mean.flip(1), other)]
    features += [pairs[:, view].diff(dim=1).abs().mean((1, 2)) for view in range(len(XRAY_KEYS))]
    rows = pairs.mean(-1)
    features += [_correlation(rows[:, 0], rows[:, 1]), _correlation(rows[:, 0].diff(), rows[:, 1].diff())]
    return torch.stack(features, dim=1).double().numpy()


class Reference:
    """
    Mean, standard deviation and correlation of the features of known X-rays, and how far others are from them.

    The distance is that of Mahalanobis (1936) over the square root of the number of features: about 1 for a pair like
    the known ones.

    Args:
        mean_pair: `(2, 16, 16)`, see :func:`pair_features`.
        mean: a number for each feature.
        deviation: a number for each feature.
        correlation: of the features, a matrix that can be inverted.
    """

    def __init__(
        self, mean_pair: torch.Tensor, mean: np.ndarray, deviation: np.ndarray, correlation: np.ndarray
    ) -> None:
        self.mean_pair, self.mean, self.deviation, self.correlation = mean_pair, mean, deviation, correlation
        self.inverse = np.linalg.inv(correlation)

    def standardised(self, pairs: torch.Tensor) -> np.ndarray:
        """Features of reduced pairs in standard deviations from the mean, `(B, 12)`."""
        return (pair_features(pairs, self.mean_pair) - self.mean) / self.deviation

    def distances(self, pairs: torch.Tensor) -> np.ndarray:
        """Of reduced pairs `(B, 2, 64, 64)`: `(B,)`."""
        features = self.standardised(pairs)
        return np.sqrt(np.einsum("bi,ij,bj->b", features, self.inverse, features) / len(self.mean))


@dataclass(frozen=True)
class FalsePositives:
    """
    How often the X-rays of a patient who is not known are flagged, though nothing is wrong with them: the
    leave-one-patient-out false-positive rate.

    Args:
        fractions: for each patient, the fraction of its pairs that is flagged where the other patients alone are known.
    """

    fractions: tuple[float, ...]

    @property
    def flagged(self) -> int:
        """Patients of whom more than half of the pairs are flagged."""
        return sum(fraction > 0.5 for fraction in self.fractions)

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's 95 % confidence interval of Clopper and Pearson (1934), if patients are drawn independently."""
        low, high = binomtest(self.flagged, len(self.fractions)).proportion_ci(0.95, method="exact")
        return round(float(low), 4), round(float(high), 4)

    def as_content(self) -> dict[str, Any]:
        """For a JSON file: the figures, and a sentence."""
        patients, (low, high) = len(self.fractions), self.interval
        statement = (
            f"{self.flagged} of {patients} training patients were flagged, in more than half of their pairs, when each "
            f"was left out in turn: a false-positive rate of {100 * self.flagged / patients:.0f} %, 95 % confidence "
            f"interval {100 * low:.0f} to {100 * high:.0f} %."
        )
        figures = {"patients": patients, "flagged": self.flagged, "interval": [low, high], "shares": self.fractions}
        return {**figures, "statement": statement}


class Findings(NamedTuple):
    """What pairs of X-rays are flagged by, an entry for each pair."""

    distances: np.ndarray
    mistakes: list[str | None]
    """Of :data:`MISTAKES`, the one without which the pair would be much nearer."""

    def flagged(self, threshold: float) -> np.ndarray:
        """Whether a distance is not known to lie within the threshold, or a mistake was found."""
        return is_beyond(self.distances, threshold) | np.array([mistake is not None for mistake in self.mistakes])


def findings(reference: Reference, pairs: torch.Tensor) -> Findings:
    """Of reduced pairs `(B, 2, 64, 64)`."""
    distances = reference.distances(pairs)
    undone = {name: reference.distances(MISTAKES[UNDONE_BY.get(name, name)](pairs)) for name in MISTAKES}
    nearest = [min(undone, key=lambda name: undone[name][pair]) for pair in range(len(pairs))]
    is_nearer = [undone[name][pair] < NEARER * distances[pair] for pair, name in enumerate(nearest)]
    return Findings(distances, [name if nearer else None for name, nearer in zip(nearest, is_nearer)])


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """
    The training's X-rays, and the distance from them beyond which a pair is flagged as out-of-distribution.

    Args:
        reference: what the X-rays of all training patients are like.
        left_out: for each patient, distances of its pairs from those of the other patients, see
            :func:`left_out_distances`.
        quantile: fraction of these distances, patients weighing alike, that the threshold does not fall short of.
        false_positives: see :func:`held_out_fractions`.
    """

    reference: Reference
    left_out: Sequence[np.ndarray]
    quantile: float
    false_positives: FalsePositives

    @property
    def threshold(self) -> float:
        """A distance, see :func:`quantile_over_patients`."""
        return quantile_over_patients(self.left_out, self.quantile)

    def assess(self, xrays: torch.Tensor) -> dict[str, Any]:
        """
        One pair `(2, P, P)`, on any device: its distance, the threshold, the mistake of :data:`MISTAKES` without which
        it would be much nearer, whether it is flagged, how many standard deviations each feature is off, the largest
        first, and :meth:`FalsePositives.as_content`. What is not finite is flagged.
        """
        pair = reduced(xrays)[None]
        found, off = findings(self.reference, pair), self.reference.standardised(pair)[0].tolist()
        ranked = sorted(zip(FEATURES, off), key=lambda feature: -abs(feature[1]) if isfinite(feature[1]) else -inf)
        return {
            "notice": NOTICE,
            "distance": round(float(found.distances[0]), 3),
            "threshold": round(self.threshold, 3),
            "mistake": found.mistakes[0],
            "flagged": bool(found.flagged(self.threshold)[0]),
            "deviations": {name: round(value, 2) for name, value in ranked},
            "false_alarms": self.false_positives.as_content(),
        }

    def as_content(self) -> dict[str, Any]:
        """What :func:`read_detector` reads."""
        mean_pair = self.reference.mean_pair.tolist()
        return {
            "quantile": self.quantile,
            "threshold": self.threshold,
            "false_alarms": self.false_positives.as_content(),
            "left_out_distances": [distances.tolist() for distances in self.left_out],
            MEAN_KEYS[-1]: [[[round(pixel, 5) for pixel in row] for row in mean] for mean in mean_pair],
            "feature_mean": self.reference.mean.tolist(),
            "feature_deviation": self.reference.deviation.tolist(),
            "correlation": self.reference.correlation.tolist(),
        }


def is_beyond(distance: float | np.ndarray, threshold: float) -> bool | np.ndarray:
    """Whether a distance is not known to lie within the threshold: a distance that is not a number is beyond it."""
    return ~(np.asarray(distance) <= threshold)


def reference_of(pairs: torch.Tensor, patients: Sequence[str]) -> Reference:
    """Of reduced pairs `(B, 2, 64, 64)`, and whose each pair is; patients weigh alike."""
    counts = Counter(patients)
    weights = 1 / np.array([counts[patient] for patient in patients])
    weights /= weights.sum()
    mean_pair = adaptive_avg_pool2d(torch.einsum("bvhw,b->vhw", pairs, torch.from_numpy(weights).float()), COARSE_SIDE)
    features = pair_features(pairs, mean_pair)
    mean = weights @ features
    deviation = np.sqrt(weights @ (features - mean) ** 2).clip(min=1e-6)
    correlation = np.cov(((features - mean) / deviation).T, aweights=weights, bias=True)
    return Reference(mean_pair, mean, deviation, (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(FEATURES)))


def left_out_distances(pairs: torch.Tensor, patients: Sequence[str]) -> list[np.ndarray]:
    """For each patient, in the order in which they first come, the distances of its pairs from the other patients'."""
    return [reference_of(*others).distances(own) for own, others in _one_by_one(pairs, patients)]


def quantile_over_patients(values: Sequence[np.ndarray], quantile: float) -> float:
    """The smallest of the values that this fraction of them does not exceed, each patient's list weighing alike."""
    pooled = np.concatenate(values)
    weights = np.concatenate([np.full(len(each), 1 / len(each)) for each in values]) / len(values)
    order = np.argsort(pooled)
    reached = np.searchsorted(weights[order].cumsum(), quantile - 1e-9)
    return float(pooled[order][min(reached, len(pooled) - 1)])


def held_out_fractions(pairs: torch.Tensor, patients: Sequence[str], quantile: float) -> tuple[float, ...]:
    """
    For each patient, the fraction of its pairs that is flagged when reference and threshold come from the other
    patients alone, of whom each is left out once more for the threshold. With n patients, n² references are made.
    """
    fractions = []
    for own, others in _one_by_one(pairs, patients):
        threshold = quantile_over_patients(left_out_distances(*others), quantile)
        fractions.append(float(findings(reference_of(*others), own).flagged(threshold).mean()))
    return tuple(fractions)


class ReducedPairs(NamedTuple):
    """X-rays of records, see :func:`reduced`, `(B, 2, 64, 64)`, with name and patient of each pair's record."""

    pairs: torch.Tensor
    names: list[str]
    patients: list[str]


def reduced_pairs(records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int = 1) -> ReducedPairs:
    """
    Args:
        records: batches of one record, such as a `DataLoader` yields.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch`, which may augment.
        draws: number of augmented samples of a record.
    """
    found = [
        (reduced(prepare_batch(batch)[0])[0], str(batch["name"][0]), str(batch["patient"][0]))
        for batch in records
        for _ in range(draws)
    ]
    pairs, names, patients = zip(*found)
    return ReducedPairs(torch.stack(pairs), list(names), list(patients))


def detector_of(pairs: torch.Tensor, patients: Sequence[str], quantile: float) -> OutOfDistributionDetector:
    """
    From reduced pairs of the training `(B, 2, 64, 64)`, and whose each pair is.

    Raises:
        InputError: when there are too few patients or pairs to leave out two patients, or a pair is not finite.
    """
    counts = sorted(Counter(patients).values())
    if len(counts) < MIN_PATIENTS:
        raise InputError(
            f"familiarity: {len(counts)} patients, expected at least {MIN_PATIENTS}, since the threshold comes from "
            f"patients left out. Add patients to section 'training', or leave familiarity false."
        )
    left = sum(counts[:-2])
    if left <= len(FEATURES):
        raise InputError(
            f"familiarity: {left} pairs of X-rays when two patients are left out, expected more than the "
            f"{len(FEATURES)} features; set draws to {ceil((len(FEATURES) + 1) / left)} times what it is, or more."
        )
    left_out = left_out_distances(pairs, patients)
    if not all(np.isfinite(distances).all() for distances in left_out):
        raise InputError(
            "familiarity: section 'training' has X-rays that are not finite; `python -m scripts.datalist DIR --check` "
            "lists what is wrong with the records."
        )
    fractions = held_out_fractions(pairs, patients, quantile)
    return OutOfDistributionDetector(reference_of(pairs, patients), left_out, quantile, FalsePositives(fractions))


def fit_detector(
    records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int, quantile: float, path: str, weights: str
) -> None:
    """
    Writes the sidecar file of out-of-distribution detection, fitted to the training's X-rays.

    Args:
        records: see :func:`reduced_pairs`.
        prepare_batch: the training's.
        draws: number of augmented samples of a record.
        quantile: see :class:`OutOfDistributionDetector`.
        path: the file to write.
        weights: the weights that were trained on these records.

    Raises:
        InputError: see :func:`detector_of`.
    """
    pairs = reduced_pairs(records, prepare_batch, draws)
    found = detector_of(pairs.pairs, pairs.patients, quantile)
    write_sidecar(path, weights, {"notice": NOTICE, **found.as_content()})


def read_detector(path: str, weights: str) -> OutOfDistributionDetector:
    """
    What :func:`fit_detector` wrote.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when threshold or false positives are
            not those of the distances in the file, or the correlations are none.
    """
    file, features = Sidecar(path, weights, made_by("familiarity", weights)), len(FEATURES)
    mean_key = next((key for key in MEAN_KEYS if key in file.content), MEAN_KEYS[-1])
    reference = Reference(
        torch.from_numpy(file.numbers(mean_key, (len(XRAY_KEYS), COARSE_SIDE, COARSE_SIDE))).float(),
        file.numbers("feature_mean", (features,)),
        file.numbers("feature_deviation", (features,), above=0.0),
        _read_correlation(file),
    )
    left_out = file.lists("left_out_distances")
    fractions = file.numbers("false_alarms.shares", (len(left_out),), least=0.0, most=1.0)
    quantile = file.number("quantile", above=0.0, below=1.0)
    found = OutOfDistributionDetector(reference, left_out, quantile, FalsePositives(tuple(fractions.tolist())))
    file.number("threshold", above=0.0)
    file.require("threshold", found.threshold, "the quantile of left_out_distances")
    for name in ("patients", "flagged"):
        file.require(f"false_alarms.{name}", found.false_positives.as_content()[name], "as false_alarms.shares has it")
    return found


def _read_correlation(file: Sidecar) -> np.ndarray:
    values = file.numbers("correlation", (len(FEATURES), len(FEATURES)), least=-1 - 1e-9, most=1 + 1e-9)
    symmetric, ones = np.allclose(values, values.T, atol=1e-9), np.allclose(values.diagonal(), 1, atol=1e-9)
    if not (symmetric and ones and np.linalg.eigvalsh(values)[0] > 0):
        expected = "a symmetric, positive definite matrix with ones on its diagonal"
        raise file.refusal("correlation", "holds another matrix", expected)
    return values


class DetectOutOfDistributiond(Transform):
    """
    Adds `familiarity`, what :meth:`OutOfDistributionDetector.assess` returns for the record's `image`.

    Args:
        path: a file that `familiarity.json` wrote for these weights.
        weights: the weights in use.

    Raises:
        CheckpointError: when the file is missing or cannot be used.

    Warns:
        UserWarning: when the pair is flagged; or when the record has one X-ray alone, and is not assessed.
    """

    def __init__(self, path: str, weights: str) -> None:
        self.detector = read_detector(path, weights)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if is_without(record, "out-of-distribution detection"):
            return dict(record)
        found = self.detector.assess(record["image"])
        if found["flagged"]:
            name, off = next(iter(found["deviations"].items()))
            mistake = f" They would be much nearer if they were not {found['mistake']}." if found["mistake"] else ""
            warnings.warn(
                f"field 'frontal' and field 'lateral': these X-rays are unlike those of the training: Mahalanobis "
                f"distance {found['distance']:.2f}, expected at most {found['threshold']:.2f}; furthest off is "
                f"'{name}', by {off:+.1f} standard deviations.{mistake} Do not rely on the reconstruction; check that "
                "both X-rays are of one patient, in order, upright and not inverted. It may be a false positive: "
                f"{found['false_alarms']['statement']}"
            )
        return {**record, FAMILIARITY_KEY: found}


def _one_by_one(
    pairs: torch.Tensor, patients: Sequence[str]
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, list[str]]]]:
    """Each patient's pairs, and pairs and patients of the others."""
    for patient in dict.fromkeys(patients):
        own = torch.tensor([each == patient for each in patients])
        yield pairs[own], (pairs[~own], [each for each in patients if each != patient])


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Of images or profiles `(B, ...)` with one or as many others, each as a whole: `(B,)`; 0 where one is constant.
    """
    first, second = first.flatten(1), second.expand_as(first).flatten(1)
    first, second = (each - each.mean(1, keepdim=True) for each in (first, second))
    return (first * second).mean(1) / (first.square().mean(1) * second.square().mean(1)).sqrt().clamp(min=1e-6)
