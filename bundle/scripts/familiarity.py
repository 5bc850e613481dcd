"""How unlike the X-rays of the training a pair is, from a few of its features, for a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch.nn.functional import adaptive_avg_pool2d

from .companion_files import read_companion, write_companion
from .errors import InputError
from .pictures import NOTICE
from .transforms import XRAY_KEYS

FAMILIARITY_KEY = "familiarity"
"""Field of a record with what :meth:`Familiarity.assess` says."""
SIDE, COARSE_SIDE = 64, 16
SHRINKAGE = 0.02
"""Part of the correlation matrix that is replaced by the unit matrix, so that it can be inverted."""
FIELDS = ("mean_films", "feature_mean", "feature_deviation", "correlation", "threshold")
FEATURES = (
    *(f"{view} like {which}" for view in XRAY_KEYS for which in ("its mean", "upside down", "mirrored", "the other mean")),
    *(f"{view} roughness" for view in XRAY_KEYS),
    "rows agree",
    "rows change alike",
)


def reduced(xrays: torch.Tensor) -> torch.Tensor:
    """X-rays `(..., 2, P, P)`, averaged to 64 pixels a side."""
    return adaptive_avg_pool2d(torch.as_tensor(xrays).float(), SIDE)


def film_features(films: torch.Tensor, mean_films: torch.Tensor) -> np.ndarray:
    """
    What is compared of pairs of X-rays, in the order of :data:`FEATURES`, `(B, 12)`.

    Of each film, how it correlates at 16 x 16 pixels with the mean film of its view, with that turned upside down, with
    that mirrored, and with the mean film of the other view; and its mean difference from row to row. Of the pair, how the
    means of the rows of both films correlate, and the changes of these from row to row: a row of either film is made of
    nearly the same slice of the body.

    Args:
        films: from :func:`reduced`, `(B, 2, 64, 64)`.
        mean_films: mean film of each view, `(2, 16, 16)`.
    """
    coarse, features = adaptive_avg_pool2d(films, COARSE_SIDE), []
    for view in range(len(XRAY_KEYS)):
        mean, other = mean_films[view], mean_films[1 - view]
        features += [_correlation(coarse[:, view], each) for each in (mean, mean.flip(0), mean.flip(1), other)]
    features += [films[:, view].diff(dim=1).abs().mean((1, 2)) for view in range(len(XRAY_KEYS))]
    rows = films.mean(-1)
    features += [_correlation(rows[:, 0], rows[:, 1]), _correlation(rows[:, 0].diff(), rows[:, 1].diff())]
    return torch.stack(features, dim=1).double().numpy()


class Familiarity:
    """
    Mean, deviation and correlation of the features of the training's X-rays, and the distance that few of them exceed.

    The distance is that of Mahalanobis (1936) over the square root of the number of features: about 1 for a pair like
    those of the training.

    Args:
        mean_films: `(2, 16, 16)`, see :func:`film_features`.
        feature_mean: a number for each feature.
        feature_deviation: a number for each feature.
        correlation: of the features, a matrix that can be inverted.
        threshold: the distance beyond which a pair is flagged.
    """

    def __init__(
        self,
        mean_films: Sequence[Sequence[Sequence[float]]],
        feature_mean: Sequence[float],
        feature_deviation: Sequence[float],
        correlation: Sequence[Sequence[float]],
        threshold: float,
    ) -> None:
        self.mean_films = torch.as_tensor(mean_films).float()
        self.mean, self.deviation = np.asarray(feature_mean), np.asarray(feature_deviation)
        self.correlation, self.threshold = np.asarray(correlation), threshold
        self.inverse = np.linalg.inv(self.correlation)

    def standardised(self, films: torch.Tensor) -> np.ndarray:
        """Features of reduced films in deviations from the training's mean, `(B, 12)`."""
        return (film_features(films, self.mean_films) - self.mean) / self.deviation

    def distances(self, films: torch.Tensor) -> np.ndarray:
        """Of reduced films `(B, 2, 64, 64)`: `(B,)`."""
        features = self.standardised(films)
        return np.sqrt(np.einsum("bi,ij,bj->b", features, self.inverse, features) / len(self.mean))

    def assess(self, xrays: torch.Tensor) -> dict[str, Any]:
        """
        One pair `(2, P, P)`: its distance, the threshold, whether it is flagged, and how many deviations each feature is
        off, the largest first.
        """
        films = reduced(xrays)[None]
        distance, off = float(self.distances(films)[0]), self.standardised(films)[0].tolist()
        ranked = sorted(zip(FEATURES, off), key=lambda feature: -abs(feature[1]))
        return {
            "notice": NOTICE,
            "distance": round(distance, 3),
            "threshold": round(self.threshold, 3),
            "flagged": distance > self.threshold,
            "deviations": {name: round(value, 2) for name, value in ranked},
        }

    def as_numbers(self) -> dict[str, Any]:
        """The arguments of this class."""
        return {
            "mean_films": [[[round(pixel, 5) for pixel in row] for row in film] for film in self.mean_films.tolist()],
            "feature_mean": self.mean.tolist(),
            "feature_deviation": self.deviation.tolist(),
            "correlation": self.correlation.tolist(),
            "threshold": self.threshold,
        }


def familiarity_of(films: torch.Tensor, quantile: float) -> Familiarity:
    """From reduced films of the training `(B, 2, 64, 64)`; `quantile` of them lies within the threshold."""
    mean_films = adaptive_avg_pool2d(films.mean(0), COARSE_SIDE)
    features = film_features(films, mean_films)
    deviation = features.std(0).clip(min=1e-6)
    correlation = np.cov(((features - features.mean(0)) / deviation).T, bias=True)
    correlation = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(FEATURES))
    found = Familiarity(mean_films, features.mean(0), deviation, correlation, threshold=0.0)
    found.threshold = float(np.quantile(found.distances(films), quantile))
    return found


def flagged_when_left_out(films: torch.Tensor, names: Sequence[str], quantile: float) -> dict[str, float]:
    """For each patient, the part of its pairs that is flagged when only the other patients are known."""
    shares = {}
    for name in dict.fromkeys(names):
        own = torch.tensor([each == name for each in names])
        if own.all():
            break
        known = familiarity_of(films[~own], quantile)
        shares[name] = float((known.distances(films[own]) > known.threshold).mean())
    return shares


def reduced_pairs(
    records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int = 1
) -> tuple[torch.Tensor, list[str]]:
    """
    X-rays of records, see :func:`reduced`, `(B, 2, 64, 64)`, and the name of each pair's record.

    Args:
        records: batches of one record, such as a `DataLoader` gives.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch`, which may augment.
        draws: X-rays of a record.
    """
    films, names = [], []
    for batch in records:
        for _ in range(draws):
            films.append(reduced(prepare_batch(batch)[0])[0])
            names.append(str(batch["name"][0]))
    return torch.stack(films), names


def fit_familiarity(
    records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int, quantile: float, path: str, weights: str
) -> None:
    """
    Writes the familiarity of the training's X-rays, with the share of flags among patients that were left out.

    Args:
        records: see :func:`reduced_pairs`.
        prepare_batch: the training's.
        draws: X-rays of a record; there have to be more of all records than features.
        quantile: part of the X-rays within the threshold.
        path: the file to write.
        weights: the weights that were trained on these records.

    Raises:
        InputError: when there are too few X-rays.
    """
    films, names = reduced_pairs(records, prepare_batch, draws)
    if len(films) <= len(FEATURES):
        raise InputError(
            f"familiarity: {len(films)} pairs of X-rays, expected more than the {len(FEATURES)} features; set draws to "
            f"{len(FEATURES) // max(1, len(films) // draws) + 1} or more."
        )
    shares = flagged_when_left_out(films, names, quantile)
    content = familiarity_of(films, quantile).as_numbers()
    write_companion(path, weights, {"notice": NOTICE, "pairs": len(films), "flagged_when_left_out": shares, **content})


def read_familiarity(path: str, weights: str) -> Familiarity:
    """
    What :func:`fit_familiarity` wrote.

    Raises:
        CheckpointError: see :func:`~scripts.companion_files.read_companion`.
    """
    content = read_companion(path, weights, "familiarity", FIELDS)
    return Familiarity(**{name: content[name] for name in FIELDS})


class AssessFamiliarityd(Transform):
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
            warnings.warn(
                f"field 'frontal' and field 'lateral': these X-rays are unlike those of the training: distance "
                f"{found['distance']:.2f}, expected at most {found['threshold']:.2f}; furthest off is '{name}', by {off:+.1f} "
                f"deviations. Do not rely on the reconstruction; look whether the films are of one patient, in order, "
                f"upright and not inverted."
            )
        return {**record, FAMILIARITY_KEY: found}


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of pictures or profiles `(B, ...)` with one or as many others, each as a whole: `(B,)`; 0 where one is constant."""
    first, second = first.flatten(1), second.expand_as(first).flatten(1)
    first, second = (each - each.mean(1, keepdim=True) for each in (first, second))
    return (first * second).mean(1) / (first.square().mean(1) * second.square().mean(1)).sqrt().clamp(min=1e-6)
