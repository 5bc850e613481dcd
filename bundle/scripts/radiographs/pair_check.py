"""Why a calibrated pair should not be relied on: what its images look like, and what the calibration leaves open."""

from __future__ import annotations

from collections.abc import Mapping

from ..io.radiograph import XRAY_KEYS, Radiograph
from .calibration import CalibratedPair
from .view_classifier import SURE, UNRECOGNISED, VIEW_CLASSIFIER, ViewProbabilities, read_view_classifier

LARGEST_DIFFERENCE = 0.15
"""Of both views' integrals: more is two patients, two breaths, or no pair."""
LEAST_UNCUT = 0.02
"""Fraction of the planes that have to count for that."""
LARGEST_DEVIATION = 3.0
"""Mahalanobis distance of the figures over the square root of their number: known pairs have about 1."""


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
