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

FAMILIARITY_KEY = "familiarity"
"""Field of a record with what :meth:`Familiarity.assess` says."""
SIDE, COARSE_SIDE = 64, 16
SHRINKAGE = 0.02
"""Part of the correlation matrix that is replaced by the unit matrix, so that it can be inverted."""
LEAST_PATIENTS = 3
"""To measure false alarms one is left out, and another for the threshold."""
NEARER = 0.9
"""A pair counts as mistaken when undoing a mistake brings it nearer than this part of its distance."""
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


def inverted(films: torch.Tensor) -> torch.Tensor:
    """Films `(..., H, W)`, bright for dark."""
    return films.amax((-2, -1), keepdim=True) - films


def of_view(view: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The change of pairs `(..., 2, H, W)` that changes the films of one view."""

    def changed(films: torch.Tensor) -> torch.Tensor:
        pair = [change(film) if key == view else film for key, film in zip(XRAY_KEYS, films.unbind(-3))]
        return torch.stack(pair, dim=-3)

    return changed


MISTAKES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exchanged": lambda films: films.flip(-3),
    "both upside down": lambda films: films.flip(-2),
    **{f"{view} upside down": of_view(view, lambda film: film.flip(-2)) for view in XRAY_KEYS},
    "both turned to the left": lambda films: films.rot90(1, (-2, -1)),
    "both turned to the right": lambda films: films.rot90(-1, (-2, -1)),
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


def film_features(films: torch.Tensor, mean_films: torch.Tensor) -> np.ndarray:
    """
    What is compared of pairs of X-rays, in the order of :data:`FEATURES`, `(B, 12)`.

    Of each film, how it correlates at 16 x 16 pixels with the mean film of its view, with that turned upside down, with
    that mirrored, and with the mean film of the other view; and its mean difference from row to row. Of the pair, how
    the means of the rows of both films correlate, and the changes of these from row to row: a row of either film is
    made of nearly the same slice of the body.

    Args:
        films: from :func:`reduced`, `(B, 2, 64, 64)`.
        mean_films: mean film of each view, `(2, 16, 16)`, on the CPU as well.
    """
    coarse, features = adaptive_avg_pool2d(films, COARSE_SIDE), []
    for view in range(len(XRAY_KEYS)):
        mean, other = mean_films[view], mean_films[1 - view]
        features += [_correlation(coarse[:, view], each) for each in (mean, mean.flip(0), mean.flip(1), other)]
    features += [films[:, view].diff(dim=1).abs().mean((1, 2)) for view in range(len(XRAY_KEYS))]
    rows = films.mean(-1)
    features += [_correlation(rows[:, 0], rows[:, 1]), _correlation(rows[:, 0].diff(), rows[:, 1].diff())]
    return torch.stack(features, dim=1).double().numpy()


class Reference:
    """
    Mean, deviation and correlation of the features of known X-rays, and how far others are from them.

    The distance is that of Mahalanobis (1936) over the square root of the number of features: about 1 for a pair like
    the known ones.

    Args:
        mean_films: `(2, 16, 16)`, see :func:`film_features`.
        mean: a number for each feature.
        deviation: a number for each feature.
        correlation: of the features, a matrix that can be inverted.
    """

    def __init__(
        self, mean_films: torch.Tensor, mean: np.ndarray, deviation: np.ndarray, correlation: np.ndarray
    ) -> None:
        self.mean_films, self.mean, self.deviation, self.correlation = mean_films, mean, deviation, correlation
        self.inverse = np.linalg.inv(correlation)

    def standardised(self, films: torch.Tensor) -> np.ndarray:
        """Features of reduced films in deviations from the mean, `(B, 12)`."""
        return (film_features(films, self.mean_films) - self.mean) / self.deviation

    def distances(self, films: torch.Tensor) -> np.ndarray:
        """Of reduced films `(B, 2, 64, 64)`: `(B,)`."""
        features = self.standardised(films)
        return np.sqrt(np.einsum("bi,ij,bj->b", features, self.inverse, features) / len(self.mean))


@dataclass(frozen=True)
class FalseAlarms:
    """
    How often the X-rays of a patient who is not known are flagged, though nothing is wrong with them.

    Args:
        shares: for each patient, the share of its pairs that is flagged where the other patients alone are known.
    """

    shares: tuple[float, ...]

    @property
    def flagged(self) -> int:
        """Patients of whom more than half of the pairs are flagged."""
        return sum(share > 0.5 for share in self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's 95 % interval of Clopper and Pearson (1934), if patients are drawn independently."""
        low, high = binomtest(self.flagged, len(self.shares)).proportion_ci(0.95, method="exact")
        return round(float(low), 4), round(float(high), 4)

    def as_content(self) -> dict[str, Any]:
        """For a JSON file: the figures, and a sentence."""
        patients, (low, high) = len(self.shares), self.interval
        statement = (
            f"{self.flagged} of {patients} training patients were flagged, in more than half of their pairs, when each "
            f"was left out in turn: a false-alarm rate of {100 * self.flagged / patients:.0f} %, 95 % interval "
            f"{100 * low:.0f} to {100 * high:.0f} %."
        )
        figures = {"patients": patients, "flagged": self.flagged, "interval": [low, high], "shares": self.shares}
        return {**figures, "statement": statement}


class Findings(NamedTuple):
    """What pairs of X-rays are flagged by, an entry for each pair."""

    distances: np.ndarray
    mistakes: list[str | None]
    """Of :data:`MISTAKES`, the one without which the pair would be much nearer."""

    def flagged(self, threshold: float) -> np.ndarray:
        """Whether a distance is not known to lie within the threshold, or a mistake was found."""
        return is_beyond(self.distances, threshold) | np.array([mistake is not None for mistake in self.mistakes])


def findings(reference: Reference, films: torch.Tensor) -> Findings:
    """Of reduced films `(B, 2, 64, 64)`."""
    distances = reference.distances(films)
    undone = {name: reference.distances(MISTAKES[UNDONE_BY.get(name, name)](films)) for name in MISTAKES}
    nearest = [min(undone, key=lambda name: undone[name][pair]) for pair in range(len(films))]
    is_nearer = [undone[name][pair] < NEARER * distances[pair] for pair, name in enumerate(nearest)]
    return Findings(distances, [name if nearer else None for name, nearer in zip(nearest, is_nearer)])


@dataclass(frozen=True)
class Familiarity:
    """
    The training's X-rays, and the distance from them beyond which a pair is flagged.

    Args:
        reference: what the X-rays of all training patients are like.
        left_out: for each patient, distances of its pairs from those of the other patients, see
            :func:`left_out_distances`.
        quantile: share of these distances, patients weighing alike, that the threshold does not fall short of.
        false_alarms: see :func:`held_out_shares`.
    """

    reference: Reference
    left_out: Sequence[np.ndarray]
    quantile: float
    false_alarms: FalseAlarms

    @property
    def threshold(self) -> float:
        """A distance, see :func:`quantile_over_patients`."""
        return quantile_over_patients(self.left_out, self.quantile)

    def assess(self, xrays: torch.Tensor) -> dict[str, Any]:
        """
        One pair `(2, P, P)`, on any device: its distance, the threshold, the mistake of :data:`MISTAKES` without which
        it would be much nearer, whether it is flagged, how many deviations each feature is off, the largest first, and
        :meth:`FalseAlarms.as_content`. What is not finite is flagged.
        """
        films = reduced(xrays)[None]
        found, off = findings(self.reference, films), self.reference.standardised(films)[0].tolist()
        ranked = sorted(zip(FEATURES, off), key=lambda feature: -abs(feature[1]) if isfinite(feature[1]) else -inf)
        return {
            "notice": NOTICE,
            "distance": round(float(found.distances[0]), 3),
            "threshold": round(self.threshold, 3),
            "mistake": found.mistakes[0],
            "flagged": bool(found.flagged(self.threshold)[0]),
            "deviations": {name: round(value, 2) for name, value in ranked},
            "false_alarms": self.false_alarms.as_content(),
        }

    def as_content(self) -> dict[str, Any]:
        """What :func:`read_familiarity` reads."""
        mean_films = self.reference.mean_films.tolist()
        return {
            "quantile": self.quantile,
            "threshold": self.threshold,
            "false_alarms": self.false_alarms.as_content(),
            "left_out_distances": [distances.tolist() for distances in self.left_out],
            "mean_films": [[[round(pixel, 5) for pixel in row] for row in film] for film in mean_films],
            "feature_mean": self.reference.mean.tolist(),
            "feature_deviation": self.reference.deviation.tolist(),
            "correlation": self.reference.correlation.tolist(),
        }


def is_beyond(distance: float | np.ndarray, threshold: float) -> bool | np.ndarray:
    """Whether a distance is not known to lie within the threshold: a distance that is not a number is beyond it."""
    return ~(np.asarray(distance) <= threshold)


def reference_of(films: torch.Tensor, patients: Sequence[str]) -> Reference:
    """Of reduced films `(B, 2, 64, 64)`, and whose each pair is; patients weigh alike."""
    counts = Counter(patients)
    shares = 1 / np.array([counts[patient] for patient in patients])
    weights = shares / shares.sum()
    mean_films = adaptive_avg_pool2d(torch.einsum("bvhw,b->vhw", films, torch.from_numpy(weights).float()), COARSE_SIDE)
    features = film_features(films, mean_films)
    mean = weights @ features
    deviation = np.sqrt(weights @ (features - mean) ** 2).clip(min=1e-6)
    correlation = np.cov(((features - mean) / deviation).T, aweights=weights, bias=True)
    return Reference(mean_films, mean, deviation, (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(FEATURES)))


def left_out_distances(films: torch.Tensor, patients: Sequence[str]) -> list[np.ndarray]:
    """For each patient, in the order in which they first come, the distances of its pairs from the other patients'."""
    return [reference_of(*others).distances(own) for own, others in _one_by_one(films, patients)]


def quantile_over_patients(values: Sequence[np.ndarray], quantile: float) -> float:
    """The least of the values that this share of them does not exceed, each patient's list weighing alike."""
    pooled = np.concatenate(values)
    weights = np.concatenate([np.full(len(each), 1 / len(each)) for each in values]) / len(values)
    order = np.argsort(pooled)
    reached = np.searchsorted(weights[order].cumsum(), quantile - 1e-9)
    return float(pooled[order][min(reached, len(pooled) - 1)])


def held_out_shares(films: torch.Tensor, patients: Sequence[str], quantile: float) -> tuple[float, ...]:
    """
    For each patient, the share of its pairs that is flagged when reference and threshold come from the other patients
    alone, of whom each is left out once more for the threshold. With n patients, n² references are made.
    """
    shares = []
    for own, others in _one_by_one(films, patients):
        threshold = quantile_over_patients(left_out_distances(*others), quantile)
        shares.append(float(findings(reference_of(*others), own).flagged(threshold).mean()))
    return tuple(shares)


class ReducedPairs(NamedTuple):
    """X-rays of records, see :func:`reduced`, `(B, 2, 64, 64)`, with name and patient of each pair's record."""

    films: torch.Tensor
    names: list[str]
    patients: list[str]


def reduced_pairs(records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int = 1) -> ReducedPairs:
    """
    Args:
        records: batches of one record, such as a `DataLoader` gives.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch`, which may augment.
        draws: X-rays of a record.
    """
    found = [
        (reduced(prepare_batch(batch)[0])[0], str(batch["name"][0]), str(batch["patient"][0]))
        for batch in records
        for _ in range(draws)
    ]
    films, names, patients = zip(*found)
    return ReducedPairs(torch.stack(films), list(names), list(patients))


def familiarity_of(films: torch.Tensor, patients: Sequence[str], quantile: float) -> Familiarity:
    """
    From reduced films of the training `(B, 2, 64, 64)`, and whose each pair is.

    Raises:
        InputError: when there are too few patients or pairs to leave out two patients, or a pair is not finite.
    """
    counts = sorted(Counter(patients).values())
    if len(counts) < LEAST_PATIENTS:
        raise InputError(
            f"familiarity: {len(counts)} patients, expected at least {LEAST_PATIENTS}, since the threshold comes from "
            f"patients left out. Add patients to section 'training', or leave familiarity false."
        )
    left = sum(counts[:-2])
    if left <= len(FEATURES):
        raise InputError(
            f"familiarity: {left} pairs of X-rays when two patients are left out, expected more than the "
            f"{len(FEATURES)} features; set draws to {ceil((len(FEATURES) + 1) / left)} times what it is, or more."
        )
    left_out = left_out_distances(films, patients)
    if not all(np.isfinite(distances).all() for distances in left_out):
        raise InputError(
            "familiarity: section 'training' has X-rays that are not finite; `python -m scripts.datalist DIR --check` "
            "lists what is wrong with the records."
        )
    shares = held_out_shares(films, patients, quantile)
    return Familiarity(reference_of(films, patients), left_out, quantile, FalseAlarms(shares))


def fit_familiarity(
    records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int, quantile: float, path: str, weights: str
) -> None:
    """
    Writes the familiarity of the training's X-rays.

    Args:
        records: see :func:`reduced_pairs`.
        prepare_batch: the training's.
        draws: X-rays of a record.
        quantile: see :class:`Familiarity`.
        path: the file to write.
        weights: the weights that were trained on these records.

    Raises:
        InputError: see :func:`familiarity_of`.
    """
    pairs = reduced_pairs(records, prepare_batch, draws)
    found = familiarity_of(pairs.films, pairs.patients, quantile)
    write_sidecar(path, weights, {"notice": NOTICE, **found.as_content()})


def read_familiarity(path: str, weights: str) -> Familiarity:
    """
    What :func:`fit_familiarity` wrote.

    Raises:
        CheckpointError: see :class:`~scripts.io.sidecar.Sidecar`; also when threshold or false alarms are not
            those of the distances in the file, or the correlations are none.
    """
    file, features = Sidecar(path, weights, made_by("familiarity", weights)), len(FEATURES)
    reference = Reference(
        torch.from_numpy(file.numbers("mean_films", (len(XRAY_KEYS), COARSE_SIDE, COARSE_SIDE))).float(),
        file.numbers("feature_mean", (features,)),
        file.numbers("feature_deviation", (features,), above=0.0),
        _read_correlation(file),
    )
    left_out = file.lists("left_out_distances")
    shares = file.numbers("false_alarms.shares", (len(left_out),), least=0.0, most=1.0)
    quantile = file.number("quantile", above=0.0, below=1.0)
    found = Familiarity(reference, left_out, quantile, FalseAlarms(tuple(shares.tolist())))
    file.number("threshold", above=0.0)
    file.require("threshold", found.threshold, "the quantile of left_out_distances")
    for name in ("patients", "flagged"):
        file.require(f"false_alarms.{name}", found.false_alarms.as_content()[name], "as false_alarms.shares has it")
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
    Adds `familiarity`, what :meth:`Familiarity.assess` says of the record's `image`.

    Args:
        path: a file that `familiarity.json` wrote for these weights.
        weights: the weights in use.

    Raises:
        CheckpointError: when the file is missing or cannot be used.

    Warns:
        UserWarning: when the pair is flagged.
    """

    def __init__(self, path: str, weights: str) -> None:
        self.familiarity = read_familiarity(path, weights)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = self.familiarity.assess(record["image"])
        if found["flagged"]:
            name, off = next(iter(found["deviations"].items()))
            mistake = f" They would be much nearer if they were not {found['mistake']}." if found["mistake"] else ""
            warnings.warn(
                f"field 'frontal' and field 'lateral': these X-rays are unlike those of the training: distance "
                f"{found['distance']:.2f}, expected at most {found['threshold']:.2f}; furthest off is '{name}', by "
                f"{off:+.1f} deviations.{mistake} Do not rely on the reconstruction; look whether the films are of one "
                "patient, in order, upright and not inverted. It may be a false alarm: "
                f"{found['false_alarms']['statement']}"
            )
        return {**record, FAMILIARITY_KEY: found}


def _one_by_one(
    films: torch.Tensor, patients: Sequence[str]
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, list[str]]]]:
    """Each patient's films, and films and patients of the others."""
    for patient in dict.fromkeys(patients):
        own = torch.tensor([each == patient for each in patients])
        yield films[own], (films[~own], [each for each in patients if each != patient])


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Of pictures or profiles `(B, ...)` with one or as many others, each as a whole: `(B,)`; 0 where one is constant.
    """
    first, second = first.flatten(1), second.expand_as(first).flatten(1)
    first, second = (each - each.mean(1, keepdim=True) for each in (first, second))
    return (first * second).mean(1) / (first.square().mean(1) * second.square().mean(1)).sqrt().clamp(min=1e-6)
