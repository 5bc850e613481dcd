"""
View check: whether radiographs look like what their fields, tags and declared orientation say of them, for a warning.
Nothing is rotated or swapped for it; what nobody declared is inverted or mirrored where the image leaves no doubt.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..io.radiograph import XRAY_KEYS, Radiograph
from .view_classifier import (
    MADE_BY,
    SURE,
    UNRECOGNISED,
    VIEW_CLASSIFIER,
    ViewClassifier,
    ViewProbabilities,
    read_view_classifier,
)

CONTRADICTED = 0.98
"""Probability from which the image is held against the file's own tags, or a frontal image called a mirror image."""
LOOK = "It is used as declared: look at it"


def warn_of_appearance(radiographs: Mapping[str, Radiograph]) -> None:
    """
    Looks at the images. Where a file says what it is, its image has to contradict it clearly to be told.

    Args:
        radiographs: `frontal` and `lateral`, or one of them.

    Raises:
        CheckpointError: when the view classifier's file is there and cannot be used.

    Warns:
        UserWarning: when an image does not look like a chest radiograph; when the two look swapped, both frontal or
            both lateral; when one looks rotated or inverted; when a lateral one faces the other way, or a frontal one
            is a mirror image; or when the view classifier's file is missing, so that nothing was looked at.
    """
    classifier = _classifier(radiographs)
    if classifier is None:
        return
    seen = {field: classifier(radiograph) for field, radiograph in radiographs.items()}
    unknown = [field for field, each in seen.items() if each.certainty < UNRECOGNISED]
    for field in unknown:
        _warn_of_unrecognised(field, radiographs[field], seen[field])
    if not unknown and not _warn_of_planes(radiographs, seen):
        for field, radiograph in radiographs.items():
            _warn_of_pose(field, radiograph, seen[field])


def as_it_looks(field: str, radiograph: Radiograph) -> Radiograph:
    """
    A presentation image of which no tag says how it lies, brought to display orientation and polarity where the view
    classifier is sure of it: inverted, or a lateral one mirrored. All else is left as it is.

    Args:
        field: "frontal" or "lateral".
        radiograph: as it was read.

    Warns:
        UserWarning: what was done.
    """
    if radiograph.scale != "presentation" or radiograph.is_oriented or not VIEW_CLASSIFIER.exists():
        return radiograph
    seen = read_view_classifier(str(VIEW_CLASSIFIER))(radiograph)
    if seen.certainty < UNRECOGNISED or seen.plane[field] < SURE or seen.rotation[0] < SURE:
        return radiograph
    image, exposed, done = radiograph.image, radiograph.exposed, []
    if seen.inverted > SURE:
        image, done = image[exposed].max() + image[exposed].min() - image, [*done, "inverted"]
    if field == "lateral" and seen.facing["right"] > SURE:
        image, exposed, done = image[:, ::-1], exposed[:, ::-1], [*done, "mirrored, so that anterior is on the left"]
    if not done:
        return radiograph
    warnings.warn(
        f"{radiograph.path}: field '{field}': nothing says how it is stored, and by its image it is "
        f"{' and '.join(done)} here. Look at the preview; export DICOM, which says how it lies, if that is wrong.",
        stacklevel=2,
    )
    return replace(radiograph, image=np.ascontiguousarray(image), exposed=np.ascontiguousarray(exposed))


def _classifier(radiographs: Mapping[str, Radiograph]) -> ViewClassifier | None:
    if not VIEW_CLASSIFIER.exists():
        warnings.warn(
            f"{VIEW_CLASSIFIER}: no such file, so that {' and '.join(each.path for each in radiographs.values())} are "
            f"not looked at: that they are {' and '.join(radiographs)}, upright and not inverted is taken as declared. "
            f"{MADE_BY}"
        )
        return None
    return read_view_classifier(str(VIEW_CLASSIFIER))


def _warn_of_unrecognised(field: str, radiograph: Radiograph, seen: ViewProbabilities) -> None:
    if radiograph.plane is None:
        warnings.warn(
            f"{radiograph.path}: field '{field}' does not look like a chest radiograph (probability "
            f"{seen.certainty:.2f}), expected a {field} one. {LOOK}."
        )


def _warn_of_planes(radiographs: Mapping[str, Radiograph], seen: dict[str, ViewProbabilities]) -> bool:
    """Whether there was something to tell."""
    other = dict(zip(XRAY_KEYS, reversed(XRAY_KEYS)))
    wrong = [
        field
        for field, radiograph in radiographs.items()
        if seen[field].plane[other[field]] > (SURE if radiograph.plane is None else CONTRADICTED)
    ]
    if not wrong:
        return False
    field = wrong[-1]
    said = "" if radiographs[field].plane is None else f", against its tags, which say {radiographs[field].plane}"
    warnings.warn(
        f"{radiographs[field].path}: field '{field}' looks {other[field]} (probability "
        f"{seen[field].plane[other[field]]:.2f}){said}, expected a {field} radiograph; "
        f"{_beside(radiographs, wrong, other[field])}."
    )
    return True


def _beside(radiographs: Mapping[str, Radiograph], wrong: list[str], other: str) -> str:
    """What the other radiograph shows, where there is one, and what is done."""
    if other not in radiographs:
        return f"it is used as named: look at it, and name it '{other}' if it is {other}"
    found = "the two look swapped" if len(wrong) == 2 else f"both look {other}"
    return f"with field '{other}', {radiographs[other].path}, {found}. They are used as named: look at them"


def _warn_of_pose(field: str, radiograph: Radiograph, seen: ViewProbabilities) -> None:
    enough = CONTRADICTED if radiograph.is_oriented else SURE
    where = f"{radiograph.path}: field '{field}'"
    degrees, probability = max(seen.rotation.items(), key=lambda each: each[1])
    if degrees and probability > enough:
        lies = "upside down" if degrees == 180 else f"rotated by {degrees} degrees anticlockwise"
        warnings.warn(
            f"{where} seems to lie {lies} (probability {probability:.2f}), expected the head at the top. {LOOK}, and "
            "correct radiograph_orientation."
        )
    elif field == "lateral" and seen.facing["right"] > enough:
        warnings.warn(
            f"{where} seems to face the other way (probability {seen.facing['right']:.2f}), expected anterior on the "
            f"left as declared. {LOOK}, and correct radiograph_orientation."
        )
    elif field == "frontal" and seen.mirrored > CONTRADICTED:
        warnings.warn(
            f"{where} seems to be a mirror image (probability {seen.mirrored:.2f}), expected the heart on the right of "
            f"the image. {LOOK}; it may be dextrocardia."
        )
    if seen.inverted > (CONTRADICTED if radiograph.scale != "presentation" else SURE):
        warnings.warn(
            f"{where} seems to be inverted (probability {seen.inverted:.2f}), expected bone brighter than lung. "
            f"{LOOK}, and invert it, or correct the scale."
        )
