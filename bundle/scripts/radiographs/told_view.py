"""Which plane a radiograph shows, "frontal", "lateral" or neither: by its tags; by its image where they do not say."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from ..errors import InputError
from ..io.radiograph import XRAY_KEYS, Radiograph, Scale
from ..io.radiograph_reader import read_radiograph
from .view_check import CONTRADICTED
from .view_classifier import SURE, UNRECOGNISED, VIEW_CLASSIFIER, ViewProbabilities, read_view_classifier


@dataclass(frozen=True)
class ToldView:
    """
    Attributes:
        plane: "frontal" or "lateral"; None for neither.
        by: in plain words, by what that was told, such as "its tags: PA".
        is_declared: whether the tags say the plane.
        scale: what the file holds, see :class:`~scripts.io.radiograph.Radiograph`; None where it cannot be read.
    """

    plane: str | None
    by: str
    is_declared: bool = False
    scale: Scale | None = None


def tell_view(path: str) -> ToldView:
    """
    Tags come first: View Position, View Code Sequence, Patient Orientation. An image that clearly contradicts them, by
    :data:`~scripts.radiographs.view_check.CONTRADICTED`, makes the radiograph neither. Where tags do not say, the
    image has to leave no doubt, by :data:`~scripts.radiographs.view_classifier.SURE`. What cannot be read as a
    radiograph, or is oblique, is neither. Warnings of the reader are left to whoever uses the radiograph.

    Args:
        path: of a DICOM file.

    Raises:
        CheckpointError: when the view classifier's file is there and cannot be used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            radiograph = read_radiograph(path, XRAY_KEYS[0])
    except InputError as error:
        return ToldView(None, str(error).removeprefix(f"{path}: field '{XRAY_KEYS[0]}'").lstrip(": "))
    seen = read_view_classifier(str(VIEW_CLASSIFIER))(radiograph) if VIEW_CLASSIFIER.exists() else None
    if radiograph.plane is not None:
        return _declared(radiograph, radiograph.plane, seen)
    return _undeclared(radiograph, seen)


def _declared(radiograph: Radiograph, plane: str, seen: ViewProbabilities | None) -> ToldView:
    tags = f"its tags: {radiograph.view or plane}"
    other = next(key for key in XRAY_KEYS if key != plane)
    if seen and seen.certainty >= UNRECOGNISED and seen.plane[other] > CONTRADICTED:
        return ToldView(None, f"{tags}, against its image: {other}, probability {seen.plane[other]:.2f}", True)
    return ToldView(plane, tags, True, radiograph.scale)


def _undeclared(radiograph: Radiograph, seen: ViewProbabilities | None) -> ToldView:
    if seen is None:
        return ToldView(None, f"its tags do not say, and {VIEW_CLASSIFIER.name}, which looks at images, is missing")
    if seen.certainty < UNRECOGNISED:
        return ToldView(None, f"its image: no radiograph of a chest, probability {seen.certainty:.2f}")
    plane, probability = max(seen.plane.items(), key=lambda each: each[1])
    if probability < SURE:
        return ToldView(None, f"its image leaves it open: {plane}, probability {probability:.2f}")
    return ToldView(plane, f"its image: {plane}, probability {probability:.2f}", scale=radiograph.scale)
