"""From the network's prediction to files: HU, an affine, a preview."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from .attenuation import scaled_to_hu
from .files import cube_affine, write_ct, write_whole
from .pictures import preview_figure


class ToHUd(Transform):
    """
    Gives `pred` its Hounsfield units and its place: RAS+, a cube centred on the isocentre.

    Args:
        hu_window: lowest and highest HU of the model's scale; what lies outside is clipped.
        fov_mm: side of the cube.
    """

    def __init__(self, hu_window: Sequence[float], fov_mm: float) -> None:
        self.hu_window, self.fov_mm = tuple(hu_window), fov_mm

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = scaled_to_hu(torch.as_tensor(record["pred"]).float().clamp(0, 1), self.hu_window)
        return {**record, "pred": MetaTensor(hu, affine=cube_affine(hu.shape[-1], self.fov_mm))}


class SaveReconstructiond(Transform):
    """
    Writes `ct.nii.gz` (HU) and `preview.png` (both X-rays and three planes).

    Args:
        output_dir: where to.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir

    def __call__(self, record: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hu = record["pred"][0]
        write_ct(os.path.join(self.output_dir, "ct.nii.gz"), hu.as_tensor(), record["pred"].affine)
        picture = preview_figure(torch.as_tensor(record["image"]).float(), hu.as_tensor())
        write_whole(os.path.join(self.output_dir, "preview.png"), picture.savefig)
        return dict(record)
