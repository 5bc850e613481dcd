"""Random changes of a CT's values: other tissue, nothing around the patient, and nodules within."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from ..projection.attenuation import AIR_HU
from .body import body

if TYPE_CHECKING:
    from jaxtyping import Float

LUNG_HU, SOFT_HU, METAL_HU = -850.0, 50.0, 4000.0
LARGEST_ELONGATION = 1.4


class RandCTChanged(RandomizableTransform, MapTransform):
    """
    Changes CTs at random, all fields of a record alike.

    Args:
        keys: CTs in HU, cubes `(1, S, S, S)`.
        prob: probability that anything is done.
    """

    def __init__(self, keys: KeysCollection, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(None)
        for key in self.keys if self._do_transform else ():
            record[key] = self.changed(record[key])
        return record

    def changed(self, hu: Float[Tensor, "1 S S S"]) -> Float[Tensor, "1 S S S"]:
        """A CT as last drawn."""
        raise NotImplementedError


class RandTissued(RandCTChanged):
    """
    Gives lung, soft tissue and bone other HU: lungs more or less inflated, other contrast, denser or thinner bone. The
    change is linear in HU between air (-1000), which stays, lung (-850), soft tissue (50) and metal (4000).

    Args:
        keys: CTs in HU.
        lung_hu: largest change of lung.
        soft_hu: largest change of soft tissue.
        bone: largest relative change of what bone has more than soft tissue.
        prob: probability that anything is done.
    """

    def __init__(self, keys: KeysCollection, lung_hu: float, soft_hu: float, bone: float, prob: float) -> None:
        super().__init__(keys, prob)
        self.largest = (lung_hu, soft_hu, bone)
        self.changes = torch.zeros(3)

    def randomize(self, data: Any = None) -> None:
        """Draws the changes of lung, soft tissue and bone."""
        super().randomize(None)
        self.changes = torch.from_numpy(self.R.uniform(-1, 1, 3) * self.largest).float()

    def changed(self, hu: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A CT as last drawn."""
        lung, soft, bone = self.changes.tolist()
        knots = torch.tensor([AIR_HU, LUNG_HU, SOFT_HU, METAL_HU], device=hu.device)
        at_metal = soft + bone * (METAL_HU - SOFT_HU)
        added = torch.tensor([0.0, lung, soft, at_metal], device=hu.device)
        within = hu.clamp(AIR_HU, METAL_HU)
        above = torch.bucketize(within, knots).clamp(1, len(knots) - 1)
        fraction = (within - knots[above - 1]) / (knots[above] - knots[above - 1])
        return hu + torch.lerp(added[above - 1], added[above], fraction)


class RandBodyOnlyd(RandCTChanged):
    """
    Takes away what lies around the body, such as the table and blankets, and puts air there. Arguments as in
    :class:`RandCTChanged`.
    """

    def changed(self, hu: Float[Tensor, "1 S S S"]) -> Float[Tensor, "1 S S S"]:
        """A CT without what lies around the body."""
        return torch.where(body(hu), hu, torch.full_like(hu, AIR_HU))


class RandNodulesd(RandCTChanged):
    """
    Puts ellipsoids of random HU into the body, so that what no patient of the training has must be found where its
    projections cross. Those whose centre would lie outside of the body are omitted.

    Args:
        keys: CTs in HU, cubes `(1, S, S, S)`.
        fov_mm: side of the cube.
        most: largest number of ellipsoids; their number is drawn from 1 up.
        radius_mm: smallest and largest radius; an ellipsoid's three, along the axes, differ by up to 1.4 either way.
        hu: lowest and highest HU.
        within_mm: how far from the middle of the cube along X, Y and Z their middles lie at most.
        prob: probability that anything is done.

    Raises:
        ValueError: when a middle could lie outside of the cube.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fov_mm: float,
        most: int,
        radius_mm: Sequence[float],
        hu: Sequence[float],
        within_mm: Sequence[float],
        prob: float,
    ) -> None:
        super().__init__(keys, prob)
        if max(within_mm) >= fov_mm / 2:
            raise ValueError(
                f"RandNodulesd: within_mm is {within_mm}, expected less than half of fov_mm, {fov_mm / 2:g}."
            )
        self.fov_mm, self.most = fov_mm, most
        self.radius_mm, self.hu, self.within_mm = tuple(radius_mm), tuple(hu), tuple(within_mm)
        self.middles_mm, self.radii_mm, self.values_hu = torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0)

    def randomize(self, data: Any = None) -> None:
        """Draws middles, radii and HU."""
        super().randomize(None)
        count = self.R.randint(self.most) + 1
        elongation = LARGEST_ELONGATION ** self.R.uniform(-1, 1, (count, 3))
        self.middles_mm = torch.from_numpy(self.R.uniform(-1, 1, (count, 3)) * self.within_mm).float()
        (smallest, largest), (lowest, highest) = self.radius_mm, self.hu
        self.radii_mm = torch.from_numpy(self.R.uniform(smallest, largest, (count, 1)) * elongation).float()
        self.values_hu = torch.from_numpy(self.R.uniform(lowest, highest, count)).float()

    def changed(self, hu: Float[Tensor, "1 S S S"]) -> Float[Tensor, "1 S S S"]:
        """A CT with the ellipsoids as last drawn."""
        inside, size = body(hu)[0], hu.shape[-1]
        for middle_mm, radii_mm, value in zip(self.middles_mm, self.radii_mm, self.values_hu):
            middle = (middle_mm / self.fov_mm + 0.5) * size
            if inside[tuple(middle.long().tolist())]:
                hu = with_ellipsoid(hu, middle_mm, radii_mm, float(value), self.fov_mm)
        return hu


def with_ellipsoid(
    hu: Float[Tensor, "1 S S S"],
    middle_mm: Float[Tensor, " 3"],
    radii_mm: Float[Tensor, " 3"],
    value: float,
    fov_mm: float,
) -> Float[Tensor, "1 S S S"]:
    """
    A CT with an ellipsoid along the axes.

    Args:
        hu: a cube in HU.
        middle_mm: of the ellipsoid, along X, Y and Z from the middle of the cube.
        radii_mm: of the ellipsoid.
        value: of the ellipsoid, in HU.
        fov_mm: side of the cube.
    """
    hu, size = hu.clone(), hu.shape[-1]
    voxel, middle = fov_mm / size, (middle_mm / fov_mm + 0.5) * size
    reach = ceil(float(radii_mm.max()) / voxel) + 1
    box = [slice(max(int(at) - reach, 0), int(at) + reach + 1) for at in middle]
    away_mm = [(torch.arange(size)[part] + 0.5 - at) * voxel for part, at in zip(box, middle)]
    fraction = ellipsoid(away_mm, radii_mm, voxel).to(hu)
    hu[0][tuple(box)] = torch.lerp(hu[0][tuple(box)], torch.full_like(fraction, value), fraction)
    return hu


def ellipsoid(
    away_mm: Sequence[Float[Tensor, " _"]], radii_mm: Float[Tensor, " 3"], voxel_mm: float
) -> Float[Tensor, "X Y Z"]:
    """
    The fraction of each voxel in an ellipsoid along the axes, by the distance of its centre to the surface.

    Args:
        away_mm: the voxels' middles along each axis, from that of the ellipsoid.
        radii_mm: those of the ellipsoid along each axis.
        voxel_mm: side of a voxel.
    """
    in_radii = torch.meshgrid(*(away / radius for away, radius in zip(away_mm, radii_mm)), indexing="ij")
    return ((1 - torch.stack(in_radii).norm(dim=0)) * radii_mm.min() / voxel_mm + 0.5).clamp(0, 1)
