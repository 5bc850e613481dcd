"""The lungs in a chest volume: by threshold and connected components, without the trachea, left and right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import watershed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

FIRST_THRESHOLD_HU = -500.0
"""Where the search for the threshold begins; between lung and soft tissue."""
GAS_HU = -970.0
"""A space whose middle voxel is below holds gas: air reads -1000 HU, and lungs, even emphysematous ones, hold blood."""
TRACHEA_CM2 = (0.3, 8.0)
"""Least and largest section of the trachea in an axial plane: of adults it is about 2 to 4 cm², blurred or oblique."""
TRACHEA_ELONGATION = 2.0
"""Most that its longest side is over the root of its section: 1.1 for a circle; air behind the back is longer."""
TRACHEA_OFF_SPINE_MM = 35.0
"""How far the trachea may be from the spine sideways; most of a vertebra's width is on either side."""
TRACHEA_LENGTH_MM = 30.0
"""Least length of what is taken for the trachea: a tip of a lung grows out of its section within less."""
EROSIONS_MM = (0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0)
"""Depths below the surface at which the lungs are looked for as two spaces; a bridge between them is thinner."""
CLOSING_MM = 6.0
"""Radius within which vessels and bronchi belong to the lung, so that its volume depends less on the voxel's size."""
LEAST_LUNG_L = 0.2
"""A smaller space is not taken for a lung; a tenth of a lung that is breathed in."""
LITRE_MM3 = 1e6


@dataclass(frozen=True)
class Lungs:
    """
    Args:
        left: mask of the patient's left lung, nothing where it was not found.
        right: of the right lung.
        trachea: mask of the trachea above its division, nothing where it was not found.
        reason: why a lung is missing, a sentence; None where both are there.
    """

    left: Bool[np.ndarray, "X Y Z"]
    right: Bool[np.ndarray, "X Y Z"]
    trachea: Bool[np.ndarray, "X Y Z"]
    reason: str | None

    @property
    def both(self) -> Bool[np.ndarray, "X Y Z"]:
        return self.left | self.right


def find_lungs(
    hu: Float[np.ndarray, "X Y Z"],
    body: Bool[np.ndarray, "X Y Z"],
    spine_x: Float[np.ndarray, " Z"],
    spacing_mm: float,
) -> Lungs:
    """
    The lungs in the manner of Hu, Hoffman and Reinhardt (2001, IEEE Transactions on Medical Imaging 20(6), 490-498):
    air within the body by an optimal threshold, without trachea, taken apart where a bridge joins both. The bridge is
    found by erosion and cut by a watershed of the depth below the surface, instead of their search for the anterior
    junction line.

    Args:
        hu: RAS+.
        body: the body with its lungs, see :func:`~scripts.anatomy.body.body_mask`.
        spine_x: place of the spine along X at each level, in voxels.
        spacing_mm: side of a voxel.
    """
    air = body & (hu < optimal_threshold(hu[body]))
    box = _box(air, int(CLOSING_MM / spacing_mm) + 2)
    found = _lungs_of(air[box], hu[box], spine_x[box[2]] - (box[0].start or 0), spacing_mm)
    whole = []
    for mask in (found.left, found.right, found.trachea):
        whole.append(np.zeros_like(body))
        whole[-1][box] = mask
    return Lungs(whole[0], whole[1], whole[2], found.reason)


def optimal_threshold(hu: Float[np.ndarray, " N"]) -> float:
    """
    The value half-way between the mean of what is above it and of what is below it, found by iteration (Hu et al. 2001,
    equation 1); :data:`FIRST_THRESHOLD_HU` where one of the two is nothing.
    """
    threshold, last = FIRST_THRESHOLD_HU, np.inf
    while abs(threshold - last) > 1.0:
        above = hu >= threshold
        if above.all() or not above.any():
            return FIRST_THRESHOLD_HU
        last, threshold = threshold, float(hu[above].mean() + hu[~above].mean()) / 2
    return threshold


def volume_l(mask: Bool[np.ndarray, "X Y Z"], spacing_mm: float) -> float:
    """The volume of a mask in litres."""
    return float(mask.sum()) * spacing_mm**3 / LITRE_MM3


def _box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The box around a mask and so many voxels; without one, the whole: what is far from air takes time alone."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return (slice(None),) * mask.ndim
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in found[0])


def _lungs_of(air: np.ndarray, hu: np.ndarray, spine_x: np.ndarray, spacing_mm: float) -> Lungs:
    """The lungs in a box around the air, of which the arrays are."""
    nothing = np.zeros_like(air)
    trachea = _trachea(air, spine_x, spacing_mm)
    air = _without_gas(air & ~trachea, hu, spacing_mm)
    markers = _two_spaces(air, spacing_mm)
    if markers is None:
        return _one_lung(air, trachea, spine_x, spacing_mm)
    depth = ndimage.distance_transform_edt(air)
    parts = watershed(-depth, np.where(markers > 0, markers, 3 * trachea), mask=air | trachea)
    lungs = sorted((_closed(parts == each, spacing_mm) & ~trachea for each in (1, 2)), key=_middle_x)
    sizes = [volume_l(lung, spacing_mm) for lung in lungs]
    reason = None
    if min(sizes) < LEAST_LUNG_L:
        reason = f"No second lung was found: the space on its side holds {min(sizes):.2f} L."
        lungs = [lung if size >= LEAST_LUNG_L else nothing for lung, size in zip(lungs, sizes)]
    return Lungs(lungs[0], lungs[1] & ~lungs[0], trachea, reason)


def _trachea(air: np.ndarray, spine_x: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The longest column of small sections near the spine."""
    small = np.zeros_like(air)
    places = np.broadcast_to(np.arange(len(air))[:, None], air.shape[:2])
    least, largest = (area * 100 / spacing_mm**2 for area in TRACHEA_CM2)
    for z in range(air.shape[2]):
        parts = label(air[..., z], connectivity=1)
        sizes = np.bincount(parts.flat)
        chosen = np.flatnonzero((sizes >= least) & (sizes <= largest))
        chosen = chosen[chosen > 0]
        if len(chosen):
            middles = np.atleast_1d(ndimage.mean(places, parts, chosen))
            near = abs(middles - spine_x[z]) * spacing_mm <= TRACHEA_OFF_SPINE_MM
            boxes = ndimage.find_objects(parts)
            longest = [max(side.stop - side.start for side in boxes[part - 1]) for part in chosen]
            near &= longest <= TRACHEA_ELONGATION * np.sqrt(sizes[chosen])
            small[..., z] = np.isin(parts, chosen[near])
    columns = label(small, connectivity=1)
    boxes = ndimage.find_objects(columns)
    lengths = [(box[2].stop - box[2].start) * spacing_mm for box in boxes]
    if not lengths or max(lengths) < TRACHEA_LENGTH_MM:
        return np.zeros_like(air)
    return columns == int(np.argmax(lengths)) + 1


def _without_gas(air: np.ndarray, hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Without spaces that hold gas alone: of stomach and bowel, and air that skin folds close in."""
    parts = label(air, connectivity=1)
    numbers = np.arange(1, parts.max() + 1)
    if not len(numbers):
        return air
    medians = np.atleast_1d(ndimage.median(hu, parts, numbers))
    return air & ~np.isin(parts, numbers[medians < GAS_HU])


def _two_spaces(air: np.ndarray, spacing_mm: float) -> np.ndarray | None:
    """The cores of both lungs as 1 and 2, at the least depth at which there are two beside each other."""
    depth = ndimage.distance_transform_edt(air) * spacing_mm
    for erosion in EROSIONS_MM:
        parts = label(depth > erosion, connectivity=1)
        sizes = np.bincount(parts.flat)
        sizes[0] = 0
        order = [part for part in np.argsort(sizes)[::-1][:6] if sizes[part]]
        middles = {part: np.array(ndimage.center_of_mass(parts == part)) for part in order}
        for part in order[1:]:
            x, y, z = abs(middles[part] - middles[order[0]]) * spacing_mm
            if x > max(y, z) and sizes[part] > 0.1 * sizes[order[0]]:
                return np.where(parts == order[0], 1, np.where(parts == part, 2, 0))
    return None


def _one_lung(air: np.ndarray, trachea: np.ndarray, spine_x: np.ndarray, spacing_mm: float) -> Lungs:
    """What there is where no two spaces lie beside each other."""
    nothing = np.zeros_like(air)
    parts = label(air, connectivity=1)
    sizes = np.bincount(parts.flat)[1:]
    found = parts == sizes.argmax() + 1 if len(sizes) else nothing
    size = volume_l(found, spacing_mm)
    if size < LEAST_LUNG_L:
        return Lungs(nothing, nothing, trachea, f"No lung was found: the largest space with air holds {size:.2f} L.")
    x, _, z = found.nonzero()
    on_left = float((x < spine_x[z]).mean())
    if 0.2 < on_left < 0.8:
        reason = f"The lungs could not be told apart: one space of {size:.2f} L lies on both sides of the spine."
        return Lungs(nothing, nothing, trachea, reason)
    lung, reason = _closed(found, spacing_mm), "No second lung was found: the other side holds no space with air."
    return Lungs(*((lung, nothing) if on_left > 0.5 else (nothing, lung)), trachea, reason)


def _closed(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Closed by a ball of :data:`CLOSING_MM`, with the holes that are left filled."""
    grown = ndimage.distance_transform_edt(~mask) * spacing_mm <= CLOSING_MM
    closed = ndimage.distance_transform_edt(grown) * spacing_mm > CLOSING_MM
    return ndimage.binary_fill_holes(mask | closed)


def _middle_x(mask: np.ndarray) -> float:
    return float(mask.nonzero()[0].mean())
