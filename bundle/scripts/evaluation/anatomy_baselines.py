"""Baselines that other people's bodies make without a network that has learnt to read them."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from tqdm import tqdm

from ..anatomy.atlas import Atlas
from ..anatomy.neighbours import NEAREST, Neighbours
from ..anatomy.registration import Registration
from ..anatomy.shape_model import ShapeModel
from ..projection.geometry import BiplanarGeometry
from ..projection.imaging import ImagingModel
from ..projection.resampling import resized

STAGE = 2
"""Of whose size the rows are."""
SHAPE_GRID = 24
"""Points along a side at which the shape model keeps its places."""
MEAN, SHAPES = "mean of the neighbours", "shape model"
ANATOMY_DEFINITIONS = {
    MEAN: f"the mean of the {NEAREST} CTs of the atlas that look most like stage 1's volume, each deformed to look "
    "like it; none of them is of the patient",
    "joined with stage <n>": "half of that mean and half of that stage's volume, brought to agree with the X-rays",
    "joined with stage <n>, second turn": "the same once more, with the CTs deformed to look like the joined volume",
    SHAPES: "the mean appearance of the atlas's CTs, posed and deformed along their principal components to look like "
    "stage 1's volume",
}


class AnatomyBaselines:
    """
    What the CTs of an atlas make of the first stage's volume, and of the second's where there is one.

    Args:
        atlas: None for no rows.
        registration: how its CTs are brought to a volume.
        imaging: scales and nominal acquisition geometry.
    """

    def __init__(self, atlas: Atlas | None, registration: Registration, imaging: ImagingModel) -> None:
        self.atlas, self.registration, self.imaging = atlas, registration, imaging
        self.shapes: tuple[list[str], ShapeModel] | None = None
        """Of the atlas without the last patient, by the patients that remain."""

    def of_case(
        self, stages: Sequence[torch.Tensor], xrays: torch.Tensor, geometry: BiplanarGeometry, patient: str
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            stages: the volume of each stage, `(1, 1, S, S, S)`, scaled.
            xrays: `(1, 2, P, P)`, scaled.
            geometry: the acquisition geometry of these X-rays.
            patient: whose own CTs of the atlas are not used.

        Returns:
            Volumes at the size of stage 2 by the names of :data:`ANATOMY_DEFINITIONS`, scaled; none without an atlas of
            other patients.
        """
        others = self.atlas and self.atlas.without(patient)
        if not others or not len(others.cts):
            return {}
        stages = [volume.clamp(0, 1) for volume in stages[:STAGE]]
        cts = resized(others.cts, self.imaging.volume_size(STAGE)).to(xrays)
        neighbours = Neighbours(cts, self.registration, self.imaging.in_geometry(geometry), NEAREST)
        with tqdm(total=2, desc="Neighbours", leave=False, disable=idist.get_rank() > 0) as progress:
            mean = neighbours(stages[0])[:, :1]
            progress.update()
            joined = {
                f"joined with stage {n}": neighbours.joined(mean, each, xrays) for n, each in enumerate(stages, 1)
            }
            last = f"joined with stage {len(stages)}"
            again = neighbours(joined[last])[:, :1]
            progress.update()
        second = {f"{last}, second turn": neighbours.joined(again, stages[-1], xrays)}
        patients = [record["patient"] for record in others.records]
        return {
            MEAN: mean,
            **joined,
            **second,
            SHAPES: self._fitted(self._shapes(patients, cts), stages[0], cts.shape[-1]),
        }

    def _fitted(self, shapes: ShapeModel, volume: torch.Tensor, size: int) -> torch.Tensor:
        coefficients, pose, _ = shapes.fit(self.imaging.to_hu(volume))
        return self.imaging.scale(shapes.warp(coefficients, size, pose))

    def _shapes(self, patients: list[str], cts: torch.Tensor) -> ShapeModel:
        if self.shapes is None or self.shapes[0] != patients:
            others = tqdm(cts[1:], desc="Shape model", leave=False, disable=idist.get_rank() > 0)
            self.shapes = patients, ShapeModel.of(cts[:1], others, self.registration, SHAPE_GRID)
        return self.shapes[1]
