"""Projections are compared with analytic line integrals; positions with the perspective of a point source."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scripts import BiplanarGeometry, InputError, Region, lift, project
from scripts.projection import axis_aligned
from scripts.projection.ray_tracing import lift_rays, project_rays

VIEWS = (("AP", "LL"), ("PA", "RL"))
WIDE = {"source_to_isocentre_mm": 700.0, "source_to_detector_mm": 1000.0, "detector_size_mm": 700.0}
PARALLEL = {"source_to_isocentre_mm": inf, "source_to_detector_mm": inf}
ROTATED = {"angles_deg": ((7.0, -4.0, 3.0), (-6.0, 5.0, 10.0))}
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
ACQUISITIONS = pytest.mark.parametrize(
    "arguments",
    [{}, WIDE, PARALLEL, ROTATED, PARALLEL | ROTATED],
    ids=["default", "wide", "parallel", "rotated", "both"],
)


def parallel(size: int, fov_mm: float = 360.0) -> BiplanarGeometry:
    """A parallel beam whose pixels lie on the volume's voxels."""
    return BiplanarGeometry(inf, inf, fov_mm, detector_size_mm=fov_mm, detector_pixels=size)


def centres(count: int, extent: float) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * extent / count - extent / 2


def voxel_positions(size: int, fov_mm: float) -> tuple[torch.Tensor, ...]:
    return torch.meshgrid(*[centres(size, fov_mm)] * 3, indexing="ij")


def source_and_rays(geometry: BiplanarGeometry, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The source, and unit vectors to each pixel `(row, column, xyz)`, from the text of `BiplanarGeometry`."""
    axis, across = ((1, 0), (0, 1))[view]
    towards_source = {"AP": 1, "PA": -1, "LL": 1, "RL": -1}[geometry.views[view]]
    source = torch.zeros(3, dtype=torch.float64)
    source[axis] = towards_source * geometry.source_to_isocentre_mm
    detector_mm = centres(geometry.detector_pixels, geometry.detector_size_mm)
    pixels = torch.zeros(len(detector_mm), len(detector_mm), 3, dtype=torch.float64)
    pixels[..., 2] = -detector_mm[:, None]
    pixels[..., across] = -detector_mm
    pixels[..., axis] = source[axis] - towards_source * geometry.source_to_detector_mm
    rotation = torch.as_tensor(rotation_of(geometry, view).as_matrix())
    rays = (pixels - source) @ rotation.T
    return rotation @ source, rays / rays.norm(dim=-1, keepdim=True)


def rotation_of(geometry: BiplanarGeometry, view: int) -> Rotation:
    """About the superior axis, then the rotated horizontal axis of the detector, then the rotated beam."""
    return Rotation.from_euler(("ZXY", "ZYX")[view], geometry.angles_deg[view], degrees=True)


def chord(centre: torch.Tensor, radius: float, source: torch.Tensor, rays: torch.Tensor) -> torch.Tensor:
    """Length of each ray inside a sphere."""
    to_centre = centre - source
    along = rays @ to_centre
    return 2 * (radius**2 - to_centre.dot(to_centre) + along**2).clamp(min=0).sqrt()


def sphere(size: int, fov_mm: float, centre: torch.Tensor, radius: float) -> torch.Tensor:
    """Occupancy, with an edge one voxel wide in place of the voxels' partial volumes."""
    distance = sum((p - c) ** 2 for p, c in zip(voxel_positions(size, fov_mm), centre)).sqrt()
    return ((radius - distance) * size / fov_mm + 0.5).clamp(0, 1)[None, None]


def blob(size: int, fov_mm: float, centre: tuple[float, float, float], sigma: float) -> torch.Tensor:
    squared = sum((p - c) ** 2 for p, c in zip(voxel_positions(size, fov_mm), centre))
    return torch.exp(-squared / (2 * sigma**2))[None, None]


def predicted_pixel(geometry: BiplanarGeometry, view: int, point: tuple[float, float, float]) -> tuple[float, float]:
    """Row and column on which a point source projects `point`."""
    x, y, z = rotation_of(geometry, view).inv().apply(point)
    towards_source = {"AP": y, "PA": -y, "LL": x, "RL": -x}[geometry.views[view]]
    magnification = geometry.source_to_detector_mm / (geometry.source_to_isocentre_mm - towards_source)
    middle = (geometry.detector_pixels - 1) / 2
    across = (x, y)[view]
    return tuple(middle - coordinate * magnification / geometry.pixel_mm for coordinate in (z, across))


def centroid(image: torch.Tensor) -> tuple[float, float]:
    index = torch.arange(len(image), dtype=image.dtype)
    return (image.sum(1) @ index / image.sum()).item(), (image.sum(0) @ index / image.sum()).item()


def test_parallel_projection_is_the_sum_along_the_axis():
    mu = torch.rand(2, 1, 12, 12, 12, dtype=torch.float64)
    projections = project(mu, parallel(12, fov_mm=60.0))
    frontal = mu[:, 0].sum(2).flip(1, 2).transpose(1, 2) * 5.0
    lateral = mu[:, 0].sum(1).flip(1, 2).transpose(1, 2) * 5.0
    torch.testing.assert_close(projections, torch.stack([frontal, lateral], 1), rtol=1e-10, atol=1e-10)


def test_a_very_distant_source_gives_the_parallel_projection():
    mu = torch.rand(1, 1, 12, 12, 12, dtype=torch.float64)
    mu[:, :, [0, -1]], mu[:, :, :, [0, -1]], mu[..., [0, -1]] = 0, 0, 0
    distant = BiplanarGeometry(1e11, 1e11 + 100, 60.0, detector_size_mm=60.0, detector_pixels=12)
    torch.testing.assert_close(project(mu, distant), project(mu, parallel(12, 60.0)), rtol=1e-6, atol=1e-6)


def test_a_bar_along_the_central_ray_integrates_to_its_length():
    mu = torch.zeros(1, 1, 70, 70, 70, dtype=torch.float64)
    mu[:, :, 35, :, 35] = mu[:, :, :, 35, 35] = 1
    projections = project(mu, parallel(70, 70.0))
    assert projections[0, 0, 34, 34].item() == pytest.approx(70)
    assert projections[0, 1, 34, 34].item() == pytest.approx(70)


@pytest.mark.parametrize("arguments", [{}, WIDE], ids=["default", "wide cone"])
def test_the_central_ray_through_a_box_integrates_to_length_times_attenuation(arguments: dict):
    mu = torch.zeros(1, 1, 36, 36, 36, dtype=torch.float64)
    mu[:, :, 4:32, 10:20, 6:30] = 0.03
    projections = project(mu, BiplanarGeometry(**arguments, detector_pixels=65))
    assert projections[0, 0, 32, 32].item() == pytest.approx(0.03 * 100, rel=1e-9)
    assert projections[0, 1, 32, 32].item() == pytest.approx(0.03 * 280, rel=1e-9)


@pytest.mark.parametrize("view", [0, 1])
def test_an_oblique_ray_through_a_slab_is_longer_by_its_cosine(view: int):
    mu = torch.zeros(1, 1, 36, 36, 36, dtype=torch.float64)
    mu[(..., slice(14, 22), slice(None)) if view == 0 else (slice(None), slice(None), slice(14, 22))] = 0.02
    geometry = BiplanarGeometry(**WIDE, detector_pixels=33)
    projection = project(mu, geometry)[0, view]
    _, rays = source_and_rays(geometry, view)
    expected = 0.02 * 80 / rays[..., (1, 0)[view]].abs()
    inside = slice(8, 25)
    assert expected[inside, inside].max() > 1.02 * expected[16, 16]
    torch.testing.assert_close(projection[inside, inside], expected[inside, inside], rtol=1e-9, atol=0)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("middle", [(0.0, 0.0, 0.0), (40.0, -55.0, 35.0)], ids=["central", "off centre"])
@pytest.mark.parametrize("arguments", [{}, WIDE, WIDE | ROTATED], ids=["default", "wide cone", "rotated"])
def test_rays_through_a_sphere_integrate_to_their_chords(arguments: dict, middle: tuple, views: tuple[str, str]):
    geometry = BiplanarGeometry(**arguments, detector_pixels=96, views=views)
    centre, radius = torch.tensor(middle, dtype=torch.float64), 90.0
    projections = project(sphere(96, geometry.fov_mm, centre, radius), geometry)[0]
    for view, projection in enumerate(projections):
        beam = source_and_rays(geometry, view)
        expected = chord(centre, radius, *beam)
        interior = expected > 1.5 * radius
        assert interior.sum() > 300
        error = (projection - expected)[interior] / expected[interior]
        assert error.abs().max() < 0.005
        assert error.mean().abs() < 0.001
        assert not projection[chord(centre, radius + 2 * 3.75, *beam) == 0].any()


@pytest.mark.parametrize("depth", [-120.0, 0.0, 120.0])
@pytest.mark.parametrize("views", VIEWS)
def test_a_small_object_is_magnified_by_its_place_between_source_and_detector(views: tuple[str, str], depth: float):
    geometry = BiplanarGeometry(**WIDE, detector_pixels=256, views=views)
    height = 100.0
    for view, name in enumerate(views):
        point = [0.0, 0.0, height]
        point[(1, 0)[view]] = depth
        row, _ = centroid(project(blob(90, geometry.fov_mm, point, sigma=5.0), geometry)[0, view])
        from_source = 700.0 - depth if name in ("AP", "LL") else 700.0 + depth
        assert (127.5 - row) * geometry.pixel_mm / height == pytest.approx(1000.0 / from_source, rel=1e-3)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("arguments", [WIDE, WIDE | ROTATED], ids=["along axes", "rotated"])
def test_a_blob_lands_where_the_rays_from_the_source_say(arguments: dict, views: tuple[str, str]):
    geometry = BiplanarGeometry(**arguments, detector_pixels=128, views=views)
    point = (60.0, 110.0, -80.0)
    projections = project(blob(72, geometry.fov_mm, point, sigma=5.0), geometry)[0]
    for view, projection in enumerate(projections):
        assert centroid(projection) == pytest.approx(predicted_pixel(geometry, view, point), abs=0.05)


def test_projections_are_in_display_orientation():
    """Right, anterior and superior of the patient are left, left and top of the projections."""
    mu = torch.zeros(1, 1, 16, 16, 16, dtype=torch.float64)
    mu[:, :, 12:14, 11:13, 13:15] = 1
    for views in VIEWS:
        projections = project(mu, BiplanarGeometry(detector_pixels=32, views=views))[0]
        for projection in projections:
            assert projection[4:14, 4:14].max() > 1
            assert not projection[16:].any() and not projection[:, 16:].any()


def test_what_is_nearer_to_the_source_is_shown_larger():
    anterior_right = blob(48, 360.0, (100.0, 100.0, 60.0), sigma=8.0)
    rows = {}
    for views in VIEWS:
        projections = project(anterior_right, BiplanarGeometry(**WIDE, detector_pixels=128, views=views))[0]
        rows |= {name: centroid(projection)[0] for name, projection in zip(views, projections)}
    above_middle = {name: 63.5 - row for name, row in rows.items()}
    for near, far in (("AP", "PA"), ("LL", "RL")):
        assert above_middle[near] / above_middle[far] == pytest.approx((700 + 100) / (700 - 100), rel=0.02)


def test_projection_is_linear():
    geometry = BiplanarGeometry(detector_pixels=24)
    a, b = torch.rand(2, 1, 1, 12, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(project(2 * a - 3 * b, geometry), 2 * project(a, geometry) - 3 * project(b, geometry))


def test_lifting_is_linear():
    geometry = BiplanarGeometry(detector_pixels=24)
    a, b = torch.rand(2, 1, 2, 3, 24, 24, dtype=torch.float64)
    lifted = lift(2 * a - 3 * b, geometry, 8)
    torch.testing.assert_close(lifted, 2 * lift(a, geometry, 8) - 3 * lift(b, geometry, 8))


def test_a_batch_is_projected_and_lifted_case_by_case():
    geometry = BiplanarGeometry(detector_pixels=24)
    mu = torch.rand(3, 1, 12, 12, 12, dtype=torch.float64)
    projections = project(mu, geometry)
    torch.testing.assert_close(projections, torch.cat([project(case[None], geometry) for case in mu]))
    features = projections[:, :, None]
    torch.testing.assert_close(
        lift(features, geometry, 8), torch.cat([lift(case[None], geometry, 8) for case in features])
    )


@ACQUISITIONS
def test_the_gradient_of_projection_is_that_of_finite_differences(arguments: dict):
    geometry = BiplanarGeometry(**arguments, detector_pixels=5)
    mu = torch.rand(1, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda volume: project(volume, geometry), mu, eps=1e-3, atol=1e-6)


@ACQUISITIONS
def test_the_gradient_of_lifting_is_that_of_finite_differences(arguments: dict):
    geometry = BiplanarGeometry(**arguments, detector_pixels=5)
    features = torch.rand(1, 2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda images: lift(images, geometry, 3), features, eps=1e-3, atol=1e-6)


@ACQUISITIONS
def test_the_gradients_are_the_adjoint_operations(arguments: dict):
    """<A x, y> = <x, A' y> for unrelated x and y, with A' the backward pass."""
    geometry = BiplanarGeometry(**arguments, detector_pixels=31)
    volume = torch.rand(2, 1, 14, 14, 14, dtype=torch.float64, requires_grad=True)
    features = torch.rand(2, 2, 3, 31, 31, dtype=torch.float64, requires_grad=True)
    for x, image in ((volume, project(volume, geometry)), (features, lift(features, geometry, 14))):
        y = torch.randn_like(image)
        (adjoint,) = torch.autograd.grad(image, x, y)
        torch.testing.assert_close((image * y).sum(), (x * adjoint).sum(), rtol=1e-12, atol=0)


TWO_SOURCES = {"source": [703.0, 761.0], "detector": [1004.0, 1091.0]}
"""No ray meets the middle of a voxel, where linear interpolation has no derivative."""

TWO_ROTATIONS = {"angles": [[[7.0, -4.0, 3.0], [-6.0, 5.0, 9.0]], [[-2.0, 8.0, -5.0], [3.0, -7.0, 1.0]]]}
NO_ROTATION = {"angles": [[[0.0] * 3] * 2] * 2}


@pytest.mark.parametrize("rotations", [TWO_ROTATIONS, NO_ROTATION], ids=["rotated", "along axes"])
@pytest.mark.parametrize("operation", ["project", "lift"])
def test_the_gradient_in_the_geometry_is_that_of_finite_differences(operation: str, rotations: dict):
    """In the distances and the angles of two cases, each with its own."""
    volumes, features = torch.rand(2, 1, 6, 6, 6).double(), torch.rand(2, 2, 1, 7, 7).double()

    def operate(*values: torch.Tensor) -> torch.Tensor:
        source, detector, angles = values
        geometry = BiplanarGeometry(source, detector, 300.0, 700.0, 7, angles_deg=angles)
        return project(volumes, geometry) if operation == "project" else lift(features, geometry, 2)

    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (TWO_SOURCES | rotations).values()]
    assert torch.autograd.gradcheck(operate, values, eps=1e-5, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("rotations", [{}, TWO_ROTATIONS], ids=["along axes", "rotated"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_a_batch_with_a_geometry_for_each_case_is_what_its_cases_are_alone(rotations: dict, dtype, tolerance: float):
    """The geometry's own precision does not matter to that of the result."""
    source, detector, *angles = (torch.tensor(v, dtype=torch.float64) for v in (TWO_SOURCES | rotations).values())
    fixed = {"fov_mm": 300.0, "detector_size_mm": 700.0, "detector_pixels": 21}
    together = BiplanarGeometry(source, detector, **fixed, **({"angles_deg": angles[0]} if angles else {}))
    mu, features = torch.rand(2, 1, 9, 9, 9, dtype=dtype), torch.rand(2, 2, 2, 21, 21, dtype=dtype)
    projections, volumes = project(mu, together), lift(features, together, 6)
    for i in range(2):
        rotated = {"angles_deg": angles[0][i].tolist()} if angles else {}
        alone = BiplanarGeometry(source[i].item(), detector[i].item(), **fixed, **rotated)
        projection, volume = project(mu[i : i + 1], alone), lift(features[i : i + 1], alone, 6)
        torch.testing.assert_close(projections[i : i + 1], projection, rtol=0, atol=tolerance * projection.max().item())
        torch.testing.assert_close(volumes[i : i + 1], volume, rtol=0, atol=tolerance)
    assert not torch.allclose(project(mu[:1], alone), projections[:1], rtol=1e-3)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("arguments", [{}, WIDE, PARALLEL], ids=["default", "wide", "parallel"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_general_path_along_the_axes_is_the_fast_path(arguments: dict, views, dtype, tolerance: float):
    geometry = BiplanarGeometry(**arguments, detector_pixels=40, views=views)
    mu, features = torch.rand(2, 1, 21, 21, 21, dtype=dtype), torch.rand(2, 2, 3, 40, 40, dtype=dtype)
    projections, volumes = project(mu, geometry), lift(features, geometry, 17)
    for view in (0, 1):
        general = project_rays(mu[:, 0], geometry, view, Region.whole(mu.shape[-1]))
        torch.testing.assert_close(general, projections[:, view], rtol=0, atol=tolerance * projections.max().item())
        general = lift_rays(features[:, view], geometry, view, Region.whole(17))
        torch.testing.assert_close(general, volumes[:, view], rtol=0, atol=tolerance)


def test_a_rotation_by_a_tiny_angle_hardly_changes_the_projection():
    mu = blob(24, 360.0, (50.0, 30.0, -20.0), sigma=40.0)
    along_axes = BiplanarGeometry(detector_pixels=32)
    rotated = replace(along_axes, angles_deg=((1e-6,) * 3,) * 2)
    torch.testing.assert_close(project(mu, rotated), project(mu, along_axes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("arguments", [{}, ROTATED], ids=["along axes", "rotated"])
def test_each_voxel_reads_the_detector_point_that_its_ray_hits(arguments: dict, views: tuple[str, str]):
    """An image that holds its own row and column numbers is backprojected to the perspective of each voxel."""
    geometry = BiplanarGeometry(700.0, 1000.0, detector_size_mm=900.0, **arguments, detector_pixels=64, views=views)
    index = torch.arange(64, dtype=torch.float64)
    numbers = torch.stack([index[:, None].expand(64, 64), index.expand(64, 64)])
    lifted = lift(numbers.expand(1, 2, 2, 64, 64), geometry, 18)[0]
    positions = voxel_positions(18, geometry.fov_mm)
    for i in torch.randint(0, 18, (50, 3)).tolist():
        point = tuple(p[tuple(i)].item() for p in positions)
        for view in (0, 1):
            assert lifted[(view, slice(None), *i)].tolist() == pytest.approx(predicted_pixel(geometry, view, point))


@pytest.mark.parametrize("view", [0, 1])
def test_a_bright_point_lifts_to_the_voxels_along_its_ray_only(view: int):
    geometry = BiplanarGeometry(**WIDE, detector_pixels=64)
    row, column = 22, 39
    images = torch.zeros(1, 2, 1, 64, 64, dtype=torch.float64)
    images[0, view, 0, row, column] = 1
    lifted = lift(images, geometry, 48)[0]
    assert not lifted[1 - view].any()
    positions = torch.stack(voxel_positions(48, geometry.fov_mm), -1)
    source, rays = source_and_rays(geometry, view)
    to_voxel = positions - source
    off_ray = torch.linalg.cross(to_voxel, rays[row, column].expand_as(to_voxel)).norm(dim=-1)
    lit = lifted[view, 0] > 0
    assert off_ray[lit].max() < 2**0.5 * geometry.pixel_mm
    assert lit[off_ray < 0.25 * geometry.pixel_mm].all()
    assert (off_ray < 0.25 * geometry.pixel_mm).any()


def test_a_parallel_backprojection_carries_each_columns_sum_to_all_its_voxels():
    mu = torch.rand(1, 1, 10, 10, 10, dtype=torch.float64)
    geometry = parallel(10, 10.0)
    lifted = lift(project(mu, geometry)[:, :, None], geometry, 10)[0, :, 0]
    torch.testing.assert_close(lifted[0], mu[0, 0].sum(1, keepdim=True).expand(10, 10, 10))
    torch.testing.assert_close(lifted[1], mu[0, 0].sum(0, keepdim=True).expand(10, 10, 10))


@pytest.mark.parametrize("views", VIEWS)
def test_a_voxel_reads_the_spot_onto_which_it_is_projected(views: tuple[str, str]):
    geometry = BiplanarGeometry(**WIDE, detector_pixels=96, views=views)
    index = torch.arange(96, dtype=torch.float64)
    numbers = torch.stack([index[:, None].expand(96, 96), index.expand(96, 96)])
    read_at = lift(numbers.expand(1, 2, 2, 96, 96), geometry, 24)[0]
    for voxel in ((5, 18, 9), (20, 3, 17)):
        mu = torch.zeros(1, 1, 24, 24, 24, dtype=torch.float64)
        mu[(0, 0, *voxel)] = 1
        for view, projection in enumerate(project(mu, geometry)[0]):
            assert centroid(projection) == pytest.approx(read_at[(view, slice(None), *voxel)].tolist(), abs=0.05)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("arguments", [WIDE, WIDE | ROTATED], ids=["along axes", "rotated"])
def test_a_point_found_by_lifting_is_projected_to_the_pixels_it_came_from(arguments: dict, views: tuple[str, str]):
    """Where the rays of a pixel in each view meet, a voxel lights up in both; it is projected to those pixels."""
    geometry = BiplanarGeometry(**arguments, detector_pixels=70, views=views)
    point = (-50.0, 85.0, 40.0)
    pixels = [[round(index) for index in predicted_pixel(geometry, view, point)] for view in (0, 1)]
    images = torch.zeros(1, 2, 1, 70, 70, dtype=torch.float64)
    for view, (row, column) in enumerate(pixels):
        images[0, view, 0, row, column] = 1
    where_rays_meet = lift(images, geometry, 72).prod(dim=1)
    found = torch.stack(voxel_positions(72, geometry.fov_mm))[:, where_rays_meet[0, 0] > 0.5 * where_rays_meet.max()]
    assert found.mean(1).tolist() == pytest.approx(point, abs=10)
    for projection, pixel in zip(project(where_rays_meet, geometry)[0], pixels):
        assert list(divmod(int(projection.argmax()), 70)) == pixel


def test_features_of_any_resolution_are_spread_over_the_detector():
    geometry = BiplanarGeometry(detector_pixels=128)
    ramp = {n: centres(n, geometry.detector_size_mm).expand(1, 2, 1, n, n) for n in (32, 128)}
    coarse, fine = (lift(ramp[n], geometry, 12) for n in (32, 128))
    torch.testing.assert_close(coarse, fine)


@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (1, 2, 8, 8, 8), (1, 1, 8, 8, 9), (8, 8, 8)])
def test_projecting_anything_but_a_single_channel_cube_is_refused(geometry: BiplanarGeometry, shape: tuple):
    with pytest.raises(InputError) as caught:
        project(torch.zeros(shape), geometry)
    assert str(shape) in str(caught.value)
    assert "(B, 1, S, S, S)" in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 1, 3, 8, 8), (1, 3, 3, 8, 8), (1, 2, 3, 8, 9)])
def test_lifting_anything_but_two_square_images_is_refused(geometry: BiplanarGeometry, shape: tuple):
    with pytest.raises(InputError) as caught:
        lift(torch.zeros(shape), geometry, 8)
    assert str(shape) in str(caught.value)
    assert "(B, 2, C, P, P)" in str(caught.value)


@pytest.mark.parametrize("arguments", [{}, ROTATED], ids=["along axes", "rotated"])
def test_under_autocast_coordinates_stay_exact_and_only_the_features_are_rounded(arguments: dict):
    geometry = BiplanarGeometry(**arguments, detector_pixels=48)
    mu = torch.rand(1, 1, 20, 20, 20).bfloat16()
    features = torch.rand(1, 2, 2, 48, 48).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        projections, volumes = project(mu, geometry), lift(features, geometry, 20)
    assert projections.dtype == torch.float32
    assert volumes.dtype == torch.bfloat16
    torch.testing.assert_close(projections, project(mu.float(), geometry), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(volumes.float(), lift(features.float(), geometry, 20), rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("arguments", [{}, ROTATED], ids=["along axes", "rotated"])
def test_gradients_keep_the_dtype_of_what_they_belong_to(arguments: dict):
    geometry = BiplanarGeometry(**arguments, detector_pixels=24)
    mu = torch.rand(1, 1, 10, 10, 10).bfloat16().requires_grad_()
    features = torch.rand(1, 2, 2, 24, 24).bfloat16().requires_grad_()
    (project(mu, geometry).sum() + lift(features, geometry, 10).float().sum()).backward()
    assert mu.grad.dtype == features.grad.dtype == torch.bfloat16
    assert mu.grad.float().min() > 0


class LargestTensor(TorchDispatchMode):
    """Notes how many values the largest tensor holds that any operation makes, views aside."""

    values = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("operation", ["project", "lift"])
def test_a_working_set_of_any_size_gives_the_same_result_and_gradient(operation: str, monkeypatch: pytest.MonkeyPatch):
    """Views along the axes take 13 slices at a time, 5 with a shorter last block, or one."""
    geometry = BiplanarGeometry(**WIDE, detector_pixels=20)
    shape = (2, 1, 13, 13, 13) if operation == "project" else (2, 2, 3, 20, 20)
    values = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for slices in (13, 5, 1):
        resampled_alike = 2 if operation == "project" else 3
        monkeypatch.setitem(axis_aligned.WORKING_SET, "cpu", slices * resampled_alike * 20 * 13)
        result = project(values, geometry) if operation == "project" else lift(values, geometry, 13)
        results.append((result, *torch.autograd.grad(result.square().sum(), values)))
    for in_blocks in results[1:]:
        torch.testing.assert_close(in_blocks, results[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("arguments", [{}, ROTATED], ids=["along axes", "rotated"])
def test_nothing_larger_than_the_volume_is_ever_held(arguments: dict):
    """The samples of all rays would be 5 times the volume of 128³."""
    geometry = BiplanarGeometry(**arguments, detector_pixels=288)
    mu = torch.rand(1, 1, 128, 128, 128, requires_grad=True)
    with LargestTensor() as largest:
        project(mu, geometry).sum().backward()
    assert largest.values <= mu.numel() < 288**2 * 128 / 5


def test_lifting_holds_nothing_larger_than_its_result():
    features = torch.rand(1, 2, 2, 128, 128, requires_grad=True)
    for arguments in ({}, ROTATED):
        with LargestTensor() as largest:
            lift(features, BiplanarGeometry(**arguments, detector_pixels=128), 96).sum().backward()
        assert largest.values <= 2 * 2 * 96**3


@pytest.mark.parametrize("operation", ["project", "lift"])
def test_a_geometry_of_another_number_of_cases_is_refused(operation: str):
    geometry = BiplanarGeometry(torch.tensor([1600.0, 1610.0]), detector_pixels=8)
    with pytest.raises(InputError, match=f"{operation}: the geometry describes 2 batch entries, expected 3"):
        if operation == "project":
            project(torch.zeros(3, 1, 4, 4, 4), geometry)
        else:
            lift(torch.zeros(3, 2, 1, 8, 8), geometry, 4)


def test_a_lift_into_no_voxel_is_refused(geometry: BiplanarGeometry):
    with pytest.raises(InputError, match="0 voxels a side"):
        lift(torch.zeros(1, 2, 1, 8, 8), geometry, 0)
