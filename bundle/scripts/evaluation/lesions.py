"""Lesions that no patient has: balls planted in the lungs of CTs, to see what of them a reconstruction keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from ..anatomy.augmentation import with_ellipsoid
from ..anatomy.thorax import find_thorax
from ..errors import InputError
from .repeated_cases import RepeatedCases

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

GAP_MM = 20.0
"""Between the levels of two lesions of one CT: a ray leaves its level by less on its way through a lung."""
LEFT, RIGHT = 1, 2
"""Of :attr:`Patient.lungs`."""


@dataclass(frozen=True)
class Lesion:
    """One kind of lesion: a ball."""

    diameter_mm: float
    hu: float


def lesions_of(diameters_mm: Sequence[float], hu: Sequence[float]) -> list[Lesion]:
    """Every diameter with every HU."""
    return [Lesion(*each) for each in product(diameters_mm, hu)]


@dataclass(frozen=True)
class Patient:
    """
    Args:
        lungs: 0, :data:`LEFT` and :data:`RIGHT`, a cube of coarser voxels than the CT.
        places_mm: for each diameter, the middles of its lesions from that of the cube, `(N, 3)`.
    """

    lungs: np.ndarray
    places_mm: dict[float, np.ndarray]


class PlantedRecords(RepeatedCases):
    """
    Every case as it is, then with lesions of each kind in its lungs, several in one CT. Lesions of one diameter lie at
    the same places whatever their HU.

    Args:
        data: records, see :func:`~scripts.load_records`. All CTs are loaded once, to find the lungs.
        transform: loads a record: `ct` in HU, a cube `(1, S, S, S)`.
        kinds: a sample has the place of its own in `lesion`, -1 without lesions, and the middles of its lesions in
            `places_mm`, `(N, 3)`; and `lungs`, see :class:`Patient`.
        fov_mm: side of the cube.
        together: how many lesions a CT has at most.
        seed: of the places.

    Raises:
        InputError: when no case has a place for any lesion.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        kinds: Sequence[Lesion],
        fov_mm: float,
        together: int,
        seed: int,
    ) -> None:
        super().__init__(data, transform)
        self.kinds, self.fov_mm = list(kinds), fov_mm
        self.patients: list[Patient] = []
        self.left_out: dict[str, str] = {}
        """Cases without a lesion, by name, and why."""
        self.samples: list[tuple[int, int]] = []
        for number, record in enumerate(tqdm(self.data, desc="Lungs", leave=False)):
            patient, reason = self._patient(number, together, seed + number)
            planted = [kind for kind, lesion in enumerate(self.kinds) if len(patient.places_mm[lesion.diameter_mm])]
            self.patients.append(patient)
            self.samples += [(number, kind) for kind in ([-1, *planted] if planted else [])]
            if not planted:
                self.left_out[record["name"]] = reason
        if not self.samples:
            raise InputError(
                f"none of {len(self.data)} case(s) has lungs in which a lesion fits, expected chest CTs: "
                f"{'; '.join(f'{name}: {reason}' for name, reason in self.left_out.items())}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, kind = self.samples[index]
        record, patient = self.case(number), self.patients[number]
        places, ct = np.zeros((0, 3)), record["ct"]
        if kind >= 0:
            lesion = self.kinds[kind]
            places, radii = patient.places_mm[lesion.diameter_mm], torch.full((3,), lesion.diameter_mm / 2)
            for place in torch.from_numpy(places).float():
                ct = with_ellipsoid(ct, place, radii, lesion.hu, self.fov_mm)
        further = {"places_mm": torch.from_numpy(places), "lungs": torch.from_numpy(patient.lungs)}
        return {**record, "ct": ct, "lesion": kind, **further}

    def _patient(self, number: int, together: int, seed: int) -> tuple[Patient, str]:
        hu = torch.as_tensor(self.case(number)["ct"])[0].float().numpy()
        lungs = find_thorax(hu, self.fov_mm / len(hu)).lungs
        found = np.where(lungs.left, LEFT, np.where(lungs.right, RIGHT, 0)).astype(np.uint8)
        voxel_mm = self.fov_mm / len(found)
        places = {
            lesion.diameter_mm: draw_places(found > 0, voxel_mm, lesion.diameter_mm, together, seed)
            for lesion in self.kinds
        }
        return Patient(found, places), lungs.reason or "the lungs are smaller than the smallest lesion."


def draw_places(
    lungs: Bool[np.ndarray, "X Y Z"], voxel_mm: float, diameter_mm: float, count: int, seed: int
) -> Float[np.ndarray, "N 3"]:
    """
    Middles of balls that lie in the lungs, in mm from the middle of the volume: drawn at random, each at least a
    diameter and :data:`GAP_MM` above or below the others; fewer than `count` where no more fit.
    """
    at = np.argwhere(where_it_fits(lungs, voxel_mm, diameter_mm))
    at = at[np.random.RandomState(seed).permutation(len(at))]
    places_mm = (at + 0.5 - np.array(lungs.shape) / 2) * voxel_mm
    chosen: list[np.ndarray] = []
    while len(places_mm) and len(chosen) < count:
        chosen.append(places_mm[0])
        places_mm = places_mm[abs(places_mm[:, 2] - places_mm[0, 2]) >= diameter_mm + GAP_MM]
    return np.array(chosen).reshape(-1, 3)


def where_it_fits(lungs: Bool[np.ndarray, "X Y Z"], voxel_mm: float, diameter_mm: float) -> Bool[np.ndarray, "X Y Z"]:
    """The middles of the balls of a diameter that lie in the lungs."""
    return ndimage.distance_transform_edt(lungs) * voxel_mm > diameter_mm / 2
