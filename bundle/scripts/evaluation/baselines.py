"""Baselines of an evaluation (comparison methods): what can be had without the X-rays, or without the stage."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import ignite.distributed as idist
import nibabel
import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable
from tqdm import tqdm

from ..errors import InputError
from ..io.image_writer import cube_affine, write_ct
from ..projection.imaging import ImagingModel
from ..projection.resampling import resized, truth_at
from .anatomy_baselines import ANATOMY_DEFINITIONS, AnatomyBaselines

MEAN, NEAREST = "mean volume", "nearest training patient"
BASELINE_DEFINITIONS = {
    MEAN: "the mean of the training CTs, or of random deformations of them; what can be had without the X-rays",
    NEAREST: "the training CT with the smallest squared error to the ground truth at the size of the first stage: an "
    "oracle, chosen with the ground truth in hand",
    "upsampled stage <n>": "the volume of that stage, trilinearly upsampled to the size of the row",
    **ANATOMY_DEFINITIONS,
}


class Baselines:
    """
    The mean training volume, the nearest training patient, earlier stages upsampled, and what an atlas makes of them.

    The mean is taken from the training CTs where there are any, else from a file, see :func:`write_mean_volume`;
    without either its rows are omitted. So are those of the nearest patient without training CTs. A training CT is
    kept at the size of the first stage and loaded again when it is the nearest, so that many take little memory.

    Args:
        dataset: the training CTs as they are loaded, `{"ct"}` in HU; may be empty.
        augment: random transform of the record `{"ct"}` that the mean is taken over; None for none.
        draws: minimum number of deformed CTs that the mean is taken over. All training CTs count, each by as many
            deformations as the others.
        mean_volume_file: NIfTI with the mean in HU, a cubic volume, read when the dataset is empty; may be missing.
        imaging: scale of the volumes.
        seed: of the deformations.
        anatomy: what other people's bodies make of a case; None for nothing.

    Warns:
        UserWarning: when rows are omitted, or the mean comes from the file.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Randomizable | None,
        draws: int,
        mean_volume_file: str,
        imaging: ImagingModel,
        seed: int = 0,
        anatomy: AnatomyBaselines | None = None,
    ) -> None:
        self.anatomy = anatomy
        self.dataset, self.draws, self.mean_volume_file = dataset, draws, mean_volume_file
        self.imaging, self.coarse_size = imaging, imaging.volume_size(1)
        self.augment = Compose(augment).set_random_state(seed=seed)
        self.mean: torch.Tensor | None = None
        self.mean_of: str | None = None
        """Where the mean comes from; None where there is none."""
        self.coarse: list[torch.Tensor] = []
        self.nearest: tuple[int, torch.Tensor] | None = None

    def prepare(self) -> None:
        """
        Loads the training CTs, or the mean from its file.

        Raises:
            InputError: when the file is there and holds no cubic volume.
        """
        if len(self.dataset):
            self._load_training()
        elif os.path.isfile(self.mean_volume_file):
            self.mean, self.mean_of = read_mean_volume(self.mean_volume_file, self.imaging), self.mean_volume_file
            _warn(f"the rows '{MEAN}' are of {self.mean_volume_file}, and the rows '{NEAREST}' are omitted")
        else:
            _warn(
                f"there is no {self.mean_volume_file} either: the rows '{MEAN}' and '{NEAREST}' are omitted. Name a "
                f"datalist with training CTs, or write the mean volume first (bundle/docs/README.md has the line)"
            )

    def of_stage(self, stages: Sequence[torch.Tensor], truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        The baselines of the last of these stages.

        Args:
            stages: the volume of each stage up to that one, `(1, 1, S, S, S)`, scaled.
            truth: the ground truth, `(1, 1, S, S, S)`, scaled, at any size that is not smaller.

        Returns:
            Volumes of the last stage's size by name, scaled.
        """
        size = stages[-1].shape[-1]
        found = {}
        if self.mean is not None:
            found[MEAN] = resized(self.mean.to(truth), size)
        if self.coarse:
            found[NEAREST] = resized(self._nearest_to(truth).to(truth), size)
        upsampled = {f"upsampled stage {k}": resized(volume, size) for k, volume in enumerate(stages[:-1], start=1)}
        return {**found, **upsampled}

    def of_anatomy(
        self, stages: Sequence[torch.Tensor], label: Mapping[str, Any], patient: str
    ) -> dict[str, torch.Tensor]:
        """
        The baselines of an atlas, see :class:`~scripts.evaluation.anatomy_baselines.AnatomyBaselines`: volumes of the
        size of stage 2 by name, scaled; none without an atlas.

        Args:
            stages: the volume of each stage, `(1, 1, S, S, S)`, scaled.
            label: of the case, with `xrays` and `geometry`.
            patient: of the case.
        """
        if self.anatomy is None:
            return {}
        return self.anatomy.of_case(stages, label["xrays"], label["geometry"], patient)

    def _load_training(self) -> None:
        count, summed = len(self.dataset), 0
        of_each = ceil(self.draws / count)
        for i in tqdm(range(count), desc="Training CTs for the baselines", disable=idist.get_rank() > 0):
            hu = torch.as_tensor(self.dataset[i]["ct"])
            self.coarse.append(truth_at(self._scaled(hu), self.coarse_size))
            for _ in range(of_each):
                summed = summed + self._scaled(self.augment({"ct": hu.clone()})["ct"]).double()
        self.mean = (summed / (of_each * count)).float()
        self.mean_of = f"{count} training CTs, {of_each} random deformation{'s' if of_each > 1 else ''} of each"

    def _nearest_to(self, truth: torch.Tensor) -> torch.Tensor:
        coarse = truth_at(truth, self.coarse_size).cpu()
        errors = [(volume - coarse).square().mean().item() for volume in self.coarse]
        index = errors.index(min(errors))
        if self.nearest is None or self.nearest[0] != index:
            self.nearest = index, self._scaled(self.dataset[index]["ct"])
        return self.nearest[1]

    def _scaled(self, hu: torch.Tensor) -> torch.Tensor:
        return self.imaging.scale(torch.as_tensor(hu).as_subclass(torch.Tensor))[None]


def write_mean_volume(baselines: Baselines, path: str) -> None:
    """
    Writes the mean of the training CTs for evaluations that have none: HU as 16-bit integers at the first stage's size.

    Raises:
        InputError: when there are no training CTs.
    """
    if not len(baselines.dataset):
        raise InputError(f"{path}: is made of the section 'training', expected a datalist that has one.")
    baselines.prepare()
    mean = truth_at(baselines.mean, baselines.coarse_size)[0, 0]
    write_ct(path, baselines.imaging.to_hu(mean), cube_affine(len(mean), baselines.imaging.geometry.fov_mm))
    print(f"Wrote {path}: {baselines.mean_of}, {len(mean)}³ voxels.")


def read_mean_volume(path: str, imaging: ImagingModel) -> torch.Tensor:
    """
    A mean volume from its file, `(1, 1, S, S, S)`, scaled.

    Raises:
        InputError: when the file holds no cubic volume.
    """
    hu = torch.from_numpy(nibabel.load(path).get_fdata(dtype="float32"))
    if hu.ndim != 3 or len(set(hu.shape)) > 1:
        raise InputError(
            f"{path}: the mean volume has shape {tuple(hu.shape)}, expected a cubic volume; write it anew."
        )
    return imaging.scale(hu)[None, None]


def _warn(consequence: str) -> None:
    if idist.get_rank() == 0:
        warnings.warn(f"The datalist has no section 'training': {consequence}.", stacklevel=3)
