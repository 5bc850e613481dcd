"""Random deformation of a CT: affine and elastic in a single resampling, on the device where the CT is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform, create_rotate, create_scale, create_translate
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn.functional import grid_sample

from .between import RandShapeBetween
from .shapes import SHAPES
from .splines import cubic_spline

if TYPE_CHECKING:
    from jaxtyping import Float

SLICES_PER_BLOCK = 16
LARGEST_MAGNITUDE = 0.4
"""
Of the spacing of the control points: below 1 / 2.48 nothing folds (Choi and Lee 2000, doi:10.1006/gmod.1999.0519).
"""


class RandDeformd(RandomizableTransform, MapTransform):
    """
    Rotates, shifts, scales and bends a cube at random; what it needs from beyond its faces continues them.

    The bending is a free-form deformation (Rueckert et al. 1999, doi:10.1109/42.796284): cubic B-splines through a
    lattice of control points, each moved by up to a random magnitude along each axis. The root mean square of the
    displacement along an axis is about a fifth of the magnitude. Lengths are in mm, so that a deformation is the same
    at every number of voxels. The affine of the CT stays that of the cube.

    Args:
        keys: fields with a cube `(C, S, S, S)`.
        fov_mm: its side.
        degrees: largest rotation about each axis.
        shift_mm: largest shift along each axis.
        scale: largest relative change of each axis's length.
        magnitude_mm: smallest and largest magnitude of the bending.
        spacing_mm: distance of the control points.
        prob: probability that anything is done.
        allow_missing_keys: as in every MONAI transform.
        between: how far a record with `shapes`, displacements to others `(N, 3, G, G, G)` in mm, is first deformed
            towards them, in the same resampling; None for not at all.

    Raises:
        ValueError: when the magnitude could fold the volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fov_mm: float,
        degrees: float,
        shift_mm: float,
        scale: float,
        magnitude_mm: Sequence[float],
        spacing_mm: float,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        between: RandShapeBetween | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if max(magnitude_mm) > LARGEST_MAGNITUDE * spacing_mm:
            raise ValueError(
                f"RandDeformd: magnitude_mm is {magnitude_mm}, expected at most {LARGEST_MAGNITUDE * spacing_mm:g}, "
                f"which is {LARGEST_MAGNITUDE} of spacing_mm; larger ones can fold the volume."
            )
        self.fov_mm, self.degrees, self.shift_mm, self.scale = fov_mm, degrees, shift_mm, scale
        self.magnitude_mm, self.spacing_mm = tuple(magnitude_mm), spacing_mm
        self.matrix, self.lattice_mm = torch.eye(4), torch.zeros(3, 4, 4, 4)
        self.between = between
        self._towards_mm: Tensor | None = None

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandDeformd:
        super().set_random_state(seed, state)
        if self.between is not None:
            self.between.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        """
        Draws the affine map, of the place in the result to the place in the CT, the control points, and where `data`,
        the displacements to others, is not None, how far to go to them.
        """
        super().randomize(None)
        points = ceil(self.fov_mm / self.spacing_mm) + 3
        angles = (self.R.uniform(-self.degrees, self.degrees, 3) * torch.pi / 180).tolist()
        shifts = self.R.uniform(-self.shift_mm, self.shift_mm, 3).tolist()
        factors = (1 + self.R.uniform(-self.scale, self.scale, 3)).tolist()
        matrix = create_translate(3, shifts) @ create_rotate(3, angles) @ create_scale(3, factors)
        smallest, largest = self.magnitude_mm
        magnitude = self.R.uniform(smallest, largest)
        self.matrix = torch.from_numpy(matrix).float()
        self.lattice_mm = torch.from_numpy(self.R.uniform(-magnitude, magnitude, (3, *[points] * 3))).float()
        self._towards_mm = None
        if self.between is not None and data is not None:
            self.between.randomize(len(data))
            self._towards_mm = self.between.displacement_mm(torch.as_tensor(data).as_subclass(Tensor))

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(record)
        self.randomize(record.get(SHAPES))
        if self._do_transform:
            for key in self.key_iterator(record):
                record[key] = convert_to_dst_type(self.deform(torch.as_tensor(record[key])), record[key])[0]
        return record

    def deform(self, cube: Float[Tensor, "C S S S"]) -> Float[Tensor, "C S S S"]:
        """The cube as last drawn."""
        volume = cube.as_subclass(Tensor)[None].float()
        grids = (places[None] for places in self._places(cube.shape[-1], cube.device))
        return torch.cat([grid_sample(volume, g, padding_mode="border", align_corners=False) for g in grids], dim=2)[0]

    def _places(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Where the voxels are read, a few slices at a time: `(slices, S, S, 3)`, Z, Y, X from -1 to 1."""
        middles = ((torch.arange(size) + 0.5) / size - 0.5) * self.fov_mm
        splines = self._splines(middles)
        lattice = torch.einsum("ac,cijk->aijk", self.matrix[:3, :3], self.lattice_mm)
        planes = torch.einsum("aijk,yj,zk->aiyz", *(tensor.to(device) for tensor in (lattice, splines, splines)))
        x, y, z = (self.matrix[:3, axis, None].to(device) * middles.to(device) for axis in range(3))
        straight = y[:, :, None] + z[:, None] + self.matrix[:3, 3, None, None].to(device)
        for part in torch.arange(size, device=device).split(SLICES_PER_BLOCK):
            bent = torch.einsum("aiyz,xi->axyz", planes, splines.to(device)[part])
            places_mm = bent + straight[:, None] + x[:, part, None, None]
            yield self._as_grid(self._towards_others(places_mm))

    def _towards_others(self, places_mm: Float[Tensor, "3 X Y Z"]) -> Float[Tensor, "3 X Y Z"]:
        if self._towards_mm is None:
            return places_mm
        field, grid = self._towards_mm.to(places_mm)[None], self._as_grid(places_mm)[None]
        return places_mm + grid_sample(field, grid, padding_mode="border", align_corners=False)[0]

    def _as_grid(self, places_mm: Float[Tensor, "3 X Y Z"]) -> Float[Tensor, "X Y Z 3"]:
        return (places_mm / (self.fov_mm / 2)).flip(0).movedim(0, -1)

    def _splines(self, places_mm: Tensor) -> Tensor:
        """Weight of each control point at each place, `(places, points)`: the cubic B-spline."""
        point = torch.arange(self.lattice_mm.shape[-1]) - 1
        return cubic_spline(((places_mm[:, None] + self.fov_mm / 2) / self.spacing_mm - point).abs())
