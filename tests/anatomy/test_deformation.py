from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from phantoms import phantom
from scripts import RandDeformd

FOV = 360.0


def deformation(seed: int = 0, **arguments) -> RandDeformd:
    """Nothing but what the arguments say, drawn."""
    none = {"degrees": 0.0, "shift_mm": 0.0, "scale": 0.0, "magnitude_mm": (0.0, 0.0), "spacing_mm": 60.0}
    deform = RandDeformd("ct", FOV, **{**none, **arguments})
    deform.set_random_state(seed=seed)
    return deform


def middles(size: int) -> torch.Tensor:
    """Middles of the voxels in mm, `(3, size, size, size)`, along X, Y, Z."""
    side = ((torch.arange(size) + 0.5) / size - 0.5) * FOV
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"))


def places(deform: RandDeformd, size: int) -> torch.Tensor:
    """Where the voxels are read, in mm: an image of the coordinates themselves, in the inner part, is read there."""
    return deform.deform(middles(size))


def inner(volume: torch.Tensor, margin: int) -> torch.Tensor:
    return volume[..., margin:-margin, margin:-margin, margin:-margin]


def test_a_deformation_of_nothing_changes_nothing():
    cube = phantom(24, 0.1)[None]
    torch.testing.assert_close(deformation()({"ct": cube})["ct"], cube, rtol=0, atol=0.01)


def test_a_probability_of_zero_leaves_the_ct():
    cube = phantom(8, 0.1)[None]
    assert deformation(prob=0.0, shift_mm=50.0)({"ct": cube})["ct"] is cube


def test_the_affine_part_reads_where_its_matrix_says():
    deform = deformation(degrees=10.0, shift_mm=20.0, scale=0.1)
    deform.randomize()
    rotation, shift = deform.matrix[:3, :3], deform.matrix[:3, 3]
    expected = torch.einsum("ac,cxyz->axyz", rotation, middles(24)) + shift[:, None, None, None]
    torch.testing.assert_close(inner(places(deform, 24), 6), inner(expected, 6), rtol=0, atol=0.01)
    gram = rotation.T @ rotation
    assert not torch.allclose(rotation, torch.eye(3), atol=0.01)
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-5)
    assert ((gram.diagonal().sqrt() - 1).abs() < 0.1).all() and (shift.abs() < 20).all()


def test_control_points_that_move_alike_shift_the_whole():
    """Cubic B-splines sum to one at every place."""
    deform = deformation()
    deform.randomize()
    deform.lattice_mm[:] = torch.tensor([5.0, -7.0, 11.0])[:, None, None, None]
    moved = inner(places(deform, 24) - middles(24), 3)
    torch.testing.assert_close(moved.amin((1, 2, 3)), torch.tensor([5.0, -7.0, 11.0]), rtol=0, atol=0.01)
    torch.testing.assert_close(moved.amax((1, 2, 3)), torch.tensor([5.0, -7.0, 11.0]), rtol=0, atol=0.01)


def test_the_bending_has_a_fifth_of_its_magnitude():
    """
    Per axis: uniform control points have m / √3, and the splines' squares sum to 0.479 on average along each axis.
    """
    moved = []
    for seed in range(8):
        deform = deformation(seed, magnitude_mm=(20.0, 20.0))
        deform.randomize()
        moved.append(inner(places(deform, 24) - middles(24), 4))
    found = torch.stack(moved).square().mean().sqrt().item()
    assert found == pytest.approx(20 / 3**0.5 * 0.479**1.5, rel=0.1)


def test_the_largest_bending_does_not_fold():
    """Worst case: control points that alternate between the extremes, seen at a fine grid."""
    deform = deformation(magnitude_mm=(24.0, 24.0))
    deform.randomize()
    index = torch.arange(deform.lattice_mm.shape[-1])
    signs = 1.0 - 2.0 * ((index[:, None, None] + index[:, None] + index) % 2)
    for lattice in (deform.lattice_mm, 24.0 * signs.expand(3, -1, -1, -1)):
        deform.lattice_mm = lattice
        read = inner(places(deform, 48), 4)
        shorter = read.shape[-1] - 1
        steps = [read.diff(dim=axis)[:, :shorter, :shorter, :shorter] for axis in (1, 2, 3)]
        jacobian = torch.stack(steps, dim=-1).permute(1, 2, 3, 0, 4)
        assert torch.linalg.det(jacobian).min() > 0


def test_a_magnitude_that_could_fold_is_refused():
    with pytest.raises(ValueError, match="expected at most 24"):
        deformation(magnitude_mm=(0.0, 30.0))


def test_a_deformation_is_the_same_in_mm_at_every_number_of_voxels():
    arguments = {"degrees": 5.0, "shift_mm": 10.0, "scale": 0.1, "magnitude_mm": (24.0, 24.0)}
    fine, coarse = (deformation(**arguments) for _ in range(2))
    fine.randomize(), coarse.randomize()
    averaged = torch.nn.functional.avg_pool3d(places(fine, 48), 2)
    torch.testing.assert_close(inner(averaged, 6), inner(places(coarse, 24), 6), rtol=0, atol=0.3)


def test_beyond_its_faces_a_ct_goes_on_as_it_ends():
    cube = torch.full((1, 16, 16, 16), 40.0)
    deform = deformation(shift_mm=90.0, degrees=20.0)
    torch.testing.assert_close(deform({"ct": cube})["ct"], cube)


def test_a_seed_gives_one_deformation_and_keeps_type_and_affine():
    cube = MetaTensor(phantom(16, 0.1)[None], affine=torch.diag(torch.tensor([22.5, 22.5, 22.5, 1.0])))
    first, again, other = (deformation(seed, magnitude_mm=(24.0, 24.0))({"ct": cube})["ct"] for seed in (3, 3, 4))
    assert torch.equal(first.as_tensor(), again.as_tensor()) and not torch.allclose(
        first.as_tensor(), other.as_tensor()
    )
    assert torch.equal(first.affine, cube.affine) and first.dtype == cube.dtype
