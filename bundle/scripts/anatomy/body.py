"""Tissues by HU, and the mask of the body in a CT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, interpolate, max_pool3d

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

TISSUES_HU = {"air_and_lung": (-torch.inf, -300.0), "soft": (-300.0, 150.0), "bone": (150.0, torch.inf)}
AXIAL_CROSS = np.pad(ndimage.generate_binary_structure(2, 1)[:, :, None], ((0, 0), (0, 0), (1, 1)))
"""A voxel and its four neighbours in the axial plane."""
MASK_SIZE = 64


def body(hu: Float[Tensor, "1 S S S"]) -> Bool[Tensor, "1 S S S"]:
    """
    The body in a CT with a margin around it: found at 64³ as in :func:`~scripts.anatomy.body.body_mask`, one voxel
    wider.
    """
    coarse = body_mask(adaptive_avg_pool3d(hu[None].float(), min(MASK_SIZE, hu.shape[-1])))
    wider = max_pool3d(coarse.float(), kernel_size=3, stride=1, padding=1)
    return interpolate(wider, size=hu.shape[1:], mode="nearest")[0] > 0.5


def body_mask(hu: Float[Tensor, "1 1 S S S"]) -> Bool[Tensor, "1 1 S S S"]:
    """
    The body in a CT: the largest component above -300 HU, with the holes of each axial slice filled. In three
    dimensions the lungs are no hole: the airway joins them to the air above the head.
    """
    parts = label((hu[0, 0].cpu() > -300).numpy(), connectivity=3)
    voxels = np.bincount(parts.flat)[1:]
    body = parts == (voxels.argmax() + 1 if len(voxels) else -1)
    return torch.from_numpy(ndimage.binary_fill_holes(body, AXIAL_CROSS)).to(hu.device)[None, None]
