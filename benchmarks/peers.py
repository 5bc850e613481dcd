"""
Open projectors to compare with, each behind one small function: DiffDRR's Siddon and trilinear renderers, the torch
backend of nanodrr, RTK's Joseph forward projector. All are given the positions of source and pixels, which come from
the text of `BiplanarGeometry` and not from the bundle's projector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from scipy.spatial.transform import Rotation
from torch.nn.functional import grid_sample

from scripts import BiplanarGeometry


class Beam(NamedTuple):
    """Positions in mm from the isocentre, RAS+, float64."""

    source: torch.Tensor
    """`(3,)`"""
    pixels: torch.Tensor
    """`(H, W, 3)`: the centre of each pixel, rows from superior to inferior."""

    def rows(self, rows: slice) -> Beam:
        """The same source, and some of the rows of pixels."""
        return Beam(self.source, self.pixels[rows])


Projector = Callable[[torch.Tensor, float, Beam], torch.Tensor]
"""From attenuation `(1, 1, S, S, S)` in 1/mm, the side of the volume in mm and a beam to the projection `(H, W)`."""


def beam(geometry: BiplanarGeometry, view: int) -> Beam:
    """Where the source and the pixels of a view are: along the volume's axis, then rotated by the view's angles."""
    axis, across = ((1, 0), (0, 1))[view]
    towards_source = {"AP": 1, "PA": -1, "LL": 1, "RL": -1}[geometry.views[view]]
    detector = _centres(geometry.detector_pixels, geometry.detector_size_mm)
    source, pixels = (
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(len(detector), len(detector), 3, dtype=torch.float64),
    )
    source[axis] = towards_source * geometry.source_to_isocentre_mm
    pixels[..., axis] = towards_source * (geometry.source_to_isocentre_mm - geometry.source_to_detector_mm)
    pixels[..., across] = -detector
    pixels[..., 2] = -detector[:, None]
    turn = Rotation.from_euler(("ZXY", "ZYX")[view], geometry.angles_deg[view], degrees=True).as_matrix()
    return Beam(*(positions @ torch.as_tensor(turn).T for positions in (source, pixels)))


def diffdrr_siddon(mu: torch.Tensor, fov_mm: float, beam: Beam, rays: int | None = None) -> torch.Tensor:
    """DiffDRR's Siddon: the exact integral over a volume that is constant in each voxel; `rays` at a time."""
    from diffdrr.renderers import Siddon

    return _diffdrr(Siddon(), mu, fov_mm, beam, rays)


def diffdrr_trilinear(mu: torch.Tensor, fov_mm: float, beam: Beam, samples: int = 256) -> torch.Tensor:
    """DiffDRR's trilinear renderer, whose samples are spread over the depths at which any ray meets the volume."""
    from diffdrr.renderers import Trilinear

    return _diffdrr(partial(Trilinear(), n_points=samples), mu, fov_mm, beam)


def _diffdrr(renderer: Callable, mu: torch.Tensor, fov_mm: float, beam: Beam, rays: int | None = None) -> torch.Tensor:
    """A renderer takes positions in voxels, and the distance from source to pixel in mm as the projection's scale."""
    size, targets = mu.shape[-1], beam.pixels.reshape(-1, 3)

    def in_voxels(positions: torch.Tensor) -> torch.Tensor:
        return (positions * size / fov_mm + (size - 1) / 2).to(mu)[None]

    projections = []
    for part in targets.split(rays or len(targets)):
        distance = (part - beam.source).norm(dim=-1).to(mu)[None, None]
        projections.append(renderer(mu[0, 0], in_voxels(beam.source[None]), in_voxels(part), distance)[0, 0])
    return torch.cat(projections).view(beam.pixels.shape[:2])


def nanodrr(mu: torch.Tensor, fov_mm: float, beam: Beam, samples: int = 256, backend: str = "torch") -> torch.Tensor:
    """nanodrr: trilinear samples at the middles of equal parts of a ray in the volume."""
    from nanodrr.drr import render

    height, width = beam.pixels.shape[:2]
    distance = (beam.source - beam.pixels.mean((0, 1))).norm()[None].to(mu)
    positions = {"src": beam.source.to(mu)[None, None], "tgt": beam.pixels.reshape(1, -1, 3).to(mu)}
    unused, world = torch.eye(3).to(mu)[None], torch.eye(4).to(mu)[None]
    subject = _nanodrr_subject(mu, fov_mm)
    return render(subject, unused, world, distance, height, width, samples, backend=backend, **positions)[0, 0]


def _nanodrr_subject(mu: torch.Tensor, fov_mm: float):
    """The volume, its axes reversed, with the matrices from mm to its grid; no labels."""
    from nanodrr.data import Subject

    size = mu.shape[-1]
    voxel_to_world = torch.diag(torch.tensor([fov_mm / size] * 3 + [1.0], dtype=torch.float64))
    voxel_to_world[:3, 3] = fov_mm / size / 2 - fov_mm / 2
    voxel_to_grid = torch.diag(torch.tensor([2 / size] * 3 + [1.0], dtype=torch.float64))
    voxel_to_grid[:3, 3] = 1 / size - 1
    matrices = (matrix.to(mu) for matrix in (voxel_to_world, voxel_to_world.inverse(), voxel_to_grid))
    no_labels, isocentre = torch.zeros(1, 1, 1, 1, 1).to(mu), torch.zeros(3).to(mu)
    return Subject(mu.permute(0, 1, 4, 3, 2), no_labels, *matrices, isocentre, max_label=0, convert_to_mu=False)


def rtk_joseph(mu: torch.Tensor, fov_mm: float, beam: Beam) -> torch.Tensor:
    """RTK's Joseph forward projector: bilinear samples, one in each slice across the ray's main axis. No gradient."""
    import itk
    from itk import RTK as rtk

    voxels, pixels = mu[0, 0].detach().permute(2, 1, 0), torch.zeros(1, *beam.pixels.shape[:2])
    voxel_mm, pixel_mm = [fov_mm / mu.shape[-1]] * 3, [_spacing(beam.pixels[0]), _spacing(beam.pixels[:, 0]), 1.0]
    image_type = itk.Image[itk.F, 3]
    projector = rtk.JosephForwardProjectionImageFilter[image_type, image_type].New()
    projector.SetInput(0, _centred_image(pixels, pixel_mm))
    projector.SetInput(1, _centred_image(voxels, voxel_mm))
    projector.SetGeometry(_rtk_geometry(beam))
    projector.Update()
    return torch.from_numpy(itk.array_from_image(projector.GetOutput()))[0]


def _centred_image(array: torch.Tensor, spacing: list[float]):
    import itk

    image = itk.image_from_array(array.float().contiguous().numpy())
    image.SetSpacing(spacing)
    image.SetOrigin([-step * (count - 1) / 2 for step, count in zip(spacing, reversed(array.shape))])
    return image


def _rtk_geometry(beam: Beam):
    """RTK takes the source, the middle of the detector, and the directions in which columns and rows are counted."""
    from itk import RTK as rtk

    middle, corner = beam.pixels.mean((0, 1)), beam.pixels[0, 0]
    along_row, along_column = beam.pixels[0, -1] - corner, beam.pixels[-1, 0] - corner
    directions = (direction / direction.norm() for direction in (along_row, along_column))
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    if not geometry.AddProjection(*(vector.tolist() for vector in (beam.source, middle, *directions))):
        raise RuntimeError("RTK refuses the positions of source and detector.")
    return geometry


def _spacing(positions: torch.Tensor) -> float:
    return float((positions[1] - positions[0]).norm())


def plain_slice_stack(mu: torch.Tensor, geometry: BiplanarGeometry, view: int) -> torch.Tensor:
    """No package, but what one would write first: all slices resampled by one `grid_sample`, then summed."""
    size, pixels = mu.shape[-1], geometry.detector_pixels
    slices = (mu[0, 0].movedim(1, 0) if view == 0 else mu[0, 0])[:, None]
    depth, detector = _centres(size, geometry.fov_mm), _centres(pixels, geometry.detector_size_mm)
    magnification = geometry.magnification(depth * geometry.depth_sign(view))
    position = (-detector / magnification[:, None] * 2 / geometry.fov_mm).to(mu)
    grid = torch.stack(torch.broadcast_tensors(position[:, :, None], position[:, None, :]), -1)
    length = (
        (1 + (detector**2 + detector[:, None] ** 2) / geometry.source_to_detector_mm**2).sqrt() * geometry.fov_mm / size
    )
    return grid_sample(slices, grid, align_corners=False)[:, 0].sum(0) * length.to(mu)


def _centres(count: int, extent_mm: float) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (extent_mm / count) - extent_mm / 2
