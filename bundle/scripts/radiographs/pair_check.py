"""What the images of a pair say of themselves before it is calibrated, and whether a calibration can be relied on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..io.radiograph import XRAY_KEYS, Radiograph
from .calibration import CalibratedPair
from .view_classifier import SURE, UNRECOGNISED, VIEW_CLASSIFIER, ViewProbabilities, read_view_classifier

LARGEST_DIFFERENCE = 0.15
"""Of both views' integrals: more is two patients, two breaths, or no pair."""
LEAST_UNCUT = 0.02
"""Fraction of the planes that have to count for that."""
LARGEST_DEVIATION = 3.0
"""Mahalanobis distance of the figures over the square root of their number: known pairs have about 1."""


def as_it_looks(field: str, radiograph: Radiograph, where: str) -> Radiograph:
    """
    A presentation image of which no tag says how it lies, brought to display orientation and polarity where the view
    classifier is sure of it: inverted, or a lateral one mirrored. All else is left as it is.

    Args:
        field: "frontal" or "lateral".
        radiograph: as it was read.
        where: start of each message.

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
        f"{where}: nothing says how it is stored, and by its image it is {' and '.join(done)} here. Look at the "
        f"preview; declare radiograph_orientation, or export DICOM, if that is wrong."
    )
    return replace(radiograph, image=np.ascontiguousarray(image), exposed=np.ascontiguousarray(exposed))


def appearance_flags(radiographs: Mapping[str, Radiograph]) -> list[str]:
    """Sentences about radiographs that do not look like what they are given as; none without the view classifier."""
    if not VIEW_CLASSIFIER.exists():
        return []
    classifier = read_view_classifier(str(VIEW_CLASSIFIER))
    return [
        sentence
        for field, radiograph in radiographs.items()
        if radiograph.plane is None
        for sentence in _flags_of_view(field, classifier(radiograph))
    ]


def calibration_flags(pair: CalibratedPair) -> list[str]:
    """Sentences about what a calibration leaves open."""
    found = list(pair.contradictions)
    if pair.consistency.uncut > LEAST_UNCUT and pair.consistency.difference > LARGEST_DIFFERENCE:
        found.append(
            f"The two radiographs do not show one body: their masses differ by {pair.consistency.difference:.0%} along "
            f"it, expected at most {LARGEST_DIFFERENCE:.0%}."
        )
    if not pair.typical <= LARGEST_DEVIATION:
        found.append(
            f"Values and sizes are those of no chest known here: distance {pair.typical:.1f}, expected at most "
            f"{LARGEST_DEVIATION:g}."
        )
    return found


def _flags_of_view(field: str, seen: ViewProbabilities) -> list[str]:
    if seen.certainty < UNRECOGNISED:
        return [f"The {field} radiograph does not look like one of a chest (probability {seen.certainty:.2f})."]
    other = next(key for key in XRAY_KEYS if key != field)
    degrees, upright = max(seen.rotation.items(), key=lambda each: each[1]), seen.rotation[0]
    found = []
    if seen.plane[other] > SURE:
        found.append(f"The {field} radiograph looks {other} (probability {seen.plane[other]:.2f}).")
    if upright < 1 - SURE:
        found.append(f"The {field} radiograph looks rotated by {degrees[0]} degrees (probability {degrees[1]:.2f}).")
    if seen.inverted > SURE:
        found.append(f"The {field} radiograph looks inverted (probability {seen.inverted:.2f}).")
    if field == "lateral" and seen.plane[field] > SURE and seen.facing["right"] > SURE:
        found.append(f"The lateral radiograph faces the other way (probability {seen.facing['right']:.2f}).")
    return found
