"""How often a view classifier is right: on projections of patients whom it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..io.atomic_write import write_json
from ..io.radiograph import XRAY_KEYS
from ..radiographs.view_classifier import POSES, SURE, ViewClassifier, ViewProbabilities
from ..training.view_classifier_training import projected_patients, train_view_network, view_batch

QUESTIONS = ("recognised", "plane", "rotation", "polarity", "facing", "frontal not mirrored")
SCORED = 200
"""Images of each patient that is left out."""


def measure_held_out(
    records: Iterable[Mapping[str, Any]],
    prepare_batch: Callable,
    draws: int,
    folds: int,
    steps: int,
    batch_size: int,
    path: str,
) -> None:
    """
    Trains a classifier for each fold of the patients without them, and scores it on them, each projection shown at
    random as in training. Prints the rates and writes them with those of each patient.

    Args:
        folds: how many; every patient is left out once. All else as for
            :func:`~scripts.training.view_classifier_training.fit_view_classifier`.
        path: the JSON file to write.

    Raises:
        InputError: when there are fewer patients than folds, or fewer than two folds.
        OutputError: when the file cannot be written.
    """
    patients = projected_patients(records, prepare_batch, draws)
    names = list(patients.xrays)
    if not 2 <= folds <= len(names):
        raise InputError(f"folds: is {folds}, expected 2 to {len(names)}, the number of patients.")
    found: dict[str, list[tuple[str, ViewProbabilities]]] = {}
    for fold in range(folds):
        own = names[fold::folds]
        seen = patients.of([name for name in names if name not in own])
        classifier = ViewClassifier(train_view_network(seen, steps, batch_size))
        for name in own:
            images, classes = view_batch(patients.of([name]), SCORED, others=0)
            planes = [XRAY_KEYS[number // POSES] for number in classes.tolist()]
            found[name] = list(zip(planes, classifier.probabilities(images)))
            print(f"{name}: {rates(found[name])}", flush=True)
    pooled = rates([each for patient in found.values() for each in patient])
    print(f"all: {pooled}")
    write_json(path, {"all": pooled, "patients": {name: rates(each) for name, each in found.items()}})


def rates(found: Sequence[tuple[str, ViewProbabilities]]) -> dict[str, dict[str, float]]:
    """
    Of images in display orientation, each with the plane that it shows: for each of :data:`QUESTIONS`, the fraction of
    the images whose likeliest answer is right, and the fraction whose answer is wrong and counts as sure.
    """
    answered: dict[str, list[float]] = {question: [] for question in QUESTIONS}
    for plane, seen in found:
        for question, probability in right_answers(plane, seen).items():
            answered[question].append(probability)
    return {
        question: {
            "images": len(probabilities),
            "right": round(sum(p > 0.5 for p in probabilities) / len(probabilities), 4),
            "surely_wrong": round(sum(p < 1 - SURE for p in probabilities) / len(probabilities), 4),
        }
        for question, probabilities in answered.items()
        if probabilities
    }


def right_answers(plane: str, seen: ViewProbabilities) -> dict[str, float]:
    """The probability that each question's right answer has, for an image in display orientation."""
    ours = {"facing": seen.facing["left"]} if plane == "lateral" else {"frontal not mirrored": 1 - seen.mirrored}
    return {
        "recognised": seen.recognised,
        "plane": seen.plane[plane],
        "rotation": seen.rotation[0],
        "polarity": 1 - seen.inverted,
        **ours,
    }
