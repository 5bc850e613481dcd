"""What a predicted volume and a CT of the same patient can be compared by, when posture and breath have changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

from ..anatomy.registration import LEVELS, Deformation, Registration
from ..anatomy.thorax import Thorax, find_thorax
from ..projection.attenuation import AIR_HU
from ..projection.resampling import resized, smooth_for_coarser
from .measurements import MEASURES, measure_thorax
from .metrics import dice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

VERSION = 1
"""Of these definitions: scores of two versions are not to be compared."""
VOXEL_MM = 2.8125
"""Of the grid on which all is measured: 128 voxels for 360 mm, the second stage's."""
SIZE = 128
"""Voxels along a side of the cube in which volumes are aligned."""
AFFINE_RATES = (0.1, 0.05, 0.02)
"""
Of the descents to the affine map, of which the one that ends with the least difference counts: a single one of the
first rate, which is that of the levels, went astray on a phantom that was bent by a breath.
"""
SMOOTH_LEVELS = LEVELS[1:3]
"""Lattices of 180 and 90 mm, after the affine map."""
REGISTERED = 192
"""
Voxels along a side at which cubes are given to the registration, a multiple of the 64 and 96 at which these levels read
the one that moves: of other sizes a volume would differ from itself by how it is averaged.
"""
SURVIVE = (
    "left_lung_l", "right_lung_l", "lungs_l", "thorax_width_mm", "thorax_depth_mm", "thorax_height_mm",
    "heart_width_mm", "cardiothoracic_ratio",
)  # fmt: skip
"""
Measurements that are compared. The volume of the body depends on how much of it a scan covers, and the density of the
lungs on the breath.
"""
PAIR_MEASURES = tuple(each for each in MEASURES if each.key in SURVIVE)
ALIGNED = "volumes are aligned in cubes of 128 voxels of 2.8125 mm about the middle of the box around their lungs"
PAIR_DEFINITIONS = {
    "<measurement>": "of the prediction, in the unit of `measures`, from the whole of it at voxels of 2.8125 mm; null "
    "where it cannot be taken",
    "<measurement>_ct": "the same of the CT, from the whole of it",
    "<measurement>_error": "of the prediction less of the CT, so above 0 where it is too large",
    "sd, lower_limit, upper_limit": "of an error over patients: standard deviation, and the limits of agreement of "
    "Bland and Altman (Lancet 327, 1986, 307-310), mean -/+ 1.96 standard deviations; null for fewer than two patients",
    "dice_lungs_affine": f"overlap 2|A and B| / (|A| + |B|) of both lungs with the CT's, after the affine map; "
    f"{ALIGNED}, and voxels count where the CT reaches; 0 where no lungs are found in the prediction",
    "dice_body_affine": "the same of the body with its lungs, without table",
    "dice_lungs_smooth, dice_body_smooth": "the same after two free-form deformations more, of cubic B-splines with "
    "control points 180 and 90 mm apart",
    "affine_volume_ratio": "determinant of the affine map: the volume of the prediction that becomes one of the CT; 1 "
    "where the alignment forgives no size",
    "outline_dice": "overlap of the lung fields of the frontal radiograph and of the prediction's projection, both "
    "found alike; of reconstructions alone, for of other volumes it is not known where they lie before the detector",
    "outline_distance_mm": "mean distance of their outlines, in the plane through the isocentre",
}
"""Of the scores of :func:`pair_scores` and of those that :mod:`~scripts.evaluation.pair_evaluation` adds."""


class Chest(NamedTuple):
    """
    A volume as it is scored.

    Attributes:
        values: figures by the keys of :data:`SURVIVE`, NaN where one cannot be taken.
        hu: the cube about its lungs, `(128, 128, 128)`; beyond the volume it continues as at the volume's faces.
        lungs: mask of both lungs in the cube.
        body: mask of the body with its lungs in the cube.
        reaches: where the volume reaches in the cube.
    """

    values: dict[str, float]
    hu: Float[np.ndarray, "S S S"]
    lungs: Bool[np.ndarray, "S S S"]
    body: Bool[np.ndarray, "S S S"]
    reaches: Bool[np.ndarray, "S S S"]


def chest_of(volume: MetaTensor) -> Chest:
    """
    Args:
        volume: in HU, `(1, X, Y, Z)`, axes to right, anterior and superior, with its affine; any spacing and extent.

    Raises:
        InputError: when the volume holds values that are not finite.
    """
    thorax = find_thorax(on_grid(volume), VOXEL_MM)
    found = measure_thorax(thorax).values
    values = {key: float("nan") if found[key] is None else float(found[key]) for key in SURVIVE}
    places = [np.arange(SIZE) + middle - SIZE // 2 for middle in _middle(thorax)]
    within = [(place >= 0) & (place < length) for place, length in zip(places, thorax.hu.shape)]
    nearest = np.ix_(*(place.clip(0, length - 1) for place, length in zip(places, thorax.hu.shape)))
    reaches = within[0][:, None, None] & within[1][:, None] & within[2]
    lungs, body = (mask[nearest] & reaches for mask in (thorax.lungs.both, thorax.body))
    return Chest(values, thorax.hu[nearest], lungs, body, reaches)


def on_grid(volume: MetaTensor) -> Float[np.ndarray, "X Y Z"]:
    """The whole volume at :data:`VOXEL_MM`, smoothed before where that is coarser; nothing is less dense than air."""
    ratios = (VOXEL_MM / volume.pixdim).tolist()
    smooth = smooth_for_coarser(volume.clamp(min=AIR_HU).float(), ratios)
    resample = Spacing((VOXEL_MM,) * 3, mode="bilinear", padding_mode="border", dtype=torch.float32)
    return resample(smooth)[0].as_tensor().numpy()


def pair_scores(predicted: Chest, truth: Chest) -> dict[str, float]:
    """The figures of :data:`PAIR_DEFINITIONS` that two volumes alone have."""
    scores: dict[str, float] = {}
    for key in SURVIVE:
        scores[key], scores[f"{key}_ct"] = predicted.values[key], truth.values[key]
        scores[f"{key}_error"] = predicted.values[key] - truth.values[key]
    affine, smooth = alignments(predicted.hu, truth.hu, truth.reaches)
    for name, deformation in (("affine", affine), ("smooth", smooth)):
        for part in ("lungs", "body"):
            there = getattr(truth, part)
            moved = _moved(getattr(predicted, part), deformation) & truth.reaches
            scores[f"dice_{part}_{name}"] = dice(moved, there) if there.any() else float("nan")
    scores["affine_volume_ratio"] = float(torch.linalg.det(affine.affine[0, :, :3]))
    return scores


def alignments(
    moving: Float[np.ndarray, "S S S"], fixed: Float[np.ndarray, "S S S"], reaches: Bool[np.ndarray, "S S S"]
) -> tuple[Deformation, Deformation]:
    """The affine alignment of a cube in HU to another where that one reaches, and the smooth one from there on."""
    plain = (torch.from_numpy(np.ascontiguousarray(cube))[None, None].float() for cube in (moving, fixed, reaches))
    cubes = [resized(cube, REGISTERED) for cube in plain]
    descents = (Registration([{**asdict(LEVELS[0]), "rate": rate}]) for rate in AFFINE_RATES)
    found = [descent(*cubes[:2], counted=cubes[2]) for descent in descents]
    affine, _ = min(found, key=lambda each: float(each[1]))
    finer = Registration([asdict(level) for level in SMOOTH_LEVELS])
    smooth, _ = finer(*cubes[:2], start=affine, counted=cubes[2])
    return affine, smooth


def _moved(mask: Bool[np.ndarray, "S S S"], deformation: Deformation) -> Bool[np.ndarray, "S S S"]:
    return deformation.warp(torch.from_numpy(mask)[None, None].float(), len(mask))[0, 0].numpy() > 0.5


def _middle(thorax: Thorax) -> tuple[int, ...]:
    """The voxel in the middle of the box around the lungs; of the volume where no lung was found."""
    there = thorax.lungs.both
    if not there.any():
        return tuple(length // 2 for length in there.shape)
    places = (np.flatnonzero(there.any(tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(int(place[0] + place[-1] + 1) // 2 for place in places)
