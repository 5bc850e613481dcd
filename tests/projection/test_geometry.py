from __future__ import annotations

from math import inf, nan

import pytest
import torch

from scripts import BiplanarGeometry, InputError
from scripts.projection.geometry import batched

REFUSED = {
    "half_a_pixel": ({"detector_pixels": 12.5}, "detector_pixels is 12.5"),
    "source_in_the_volume": ({"source_to_isocentre_mm": 180.0}, "source_to_isocentre_mm is 180.0"),
    "source_behind_the_isocentre": ({"source_to_isocentre_mm": -1600.0}, "source_to_isocentre_mm is -1600.0"),
    "detector_before_the_isocentre": ({"source_to_detector_mm": 1500.0}, "source_to_detector_mm is 1500.0"),
    "detector_at_the_isocentre": ({"source_to_detector_mm": 1600.0}, "source_to_detector_mm is 1600.0"),
    "detector_too_small": ({"detector_size_mm": 400.0}, "detector_size_mm is 400.0"),
    "infinite_source_only": ({"source_to_isocentre_mm": inf}, "both infinite"),
    "infinite_detector_only": ({"source_to_detector_mm": inf}, "both infinite"),
    "unknown_frontal_view": ({"views": ("AX", "LL")}, "views are ('AX', 'LL')"),
    "unknown_lateral_view": ({"views": ("PA", "XX")}, "views are ('PA', 'XX')"),
    "swapped_views": ({"views": ("LL", "PA")}, "views are ('LL', 'PA')"),
    "one_view": ({"views": ("PA",)}, "views are ('PA',)"),
    "zero_field_of_view": ({"fov_mm": 0.0}, "fov_mm is 0.0"),
    "negative_detector": ({"detector_size_mm": -480.0}, "detector_size_mm is -480.0"),
    "infinite_detector_size": ({"detector_size_mm": inf}, "detector_size_mm is inf"),
    "no_pixels": ({"detector_pixels": 0}, "detector_pixels is 0"),
    "nan_field_of_view": ({"fov_mm": nan}, "fov_mm is nan"),
    "nan_source": ({"source_to_isocentre_mm": nan}, "source_to_isocentre_mm is nan"),
    "nan_detector": ({"source_to_detector_mm": nan}, "source_to_detector_mm is nan"),
    "large_angle": ({"angles_deg": ((0, 0, 0), (0, -46, 0))}, "angles_deg holds 46 degrees"),
    "nan_angle": ({"angles_deg": ((0, 0, nan), (0, 0, 0))}, "angles_deg holds nan degrees"),
    "angles_of_one_view": ({"angles_deg": ((0, 0, 0),)}, "angles_deg has shape (1, 3)"),
    "angles_without_views": ({"angles_deg": (0, 0, 0)}, "angles_deg has shape (3,)"),
    "uneven_angles": ({"angles_deg": ((0, 0, 0), (0, 0))}, "angles_deg has shape rows of different lengths"),
    "angles_of_cases_in_plain_numbers": ({"angles_deg": [[[0] * 3] * 2] * 4}, "angles_deg has shape (4, 2, 3)"),
    "angles_of_one_case_as_a_tensor": ({"angles_deg": torch.zeros(2, 3)}, "angles_deg has shape (2, 3)"),
    "source_in_the_corner_of_a_rotated_volume": (
        {"source_to_isocentre_mm": 300.0, "detector_size_mm": 3000.0, "angles_deg": ((45, 0, 0), (0, 0, 0))},
        "source_to_isocentre_mm is 300.0",
    ),
    "one_source_in_the_volume": ({"source_to_isocentre_mm": torch.tensor([1600.0, 100.0])}, "isocentre_mm is 100.0"),
    "one_detector_before_the_isocentre": (
        {"source_to_isocentre_mm": torch.tensor([1600.0, 1850.0])},
        "more than source_to_isocentre_mm, tensor([1600., 1850.])",
    ),
    "one_detector_too_small": ({"source_to_isocentre_mm": torch.tensor([1600.0, 1400.0])}, "a footprint of 531.1 mm"),
    "cone_and_parallel_cases": (
        {"source_to_isocentre_mm": torch.tensor([1600.0, inf]), "source_to_detector_mm": torch.tensor([1800.0, inf])},
        "the entries of a batch are of one kind",
    ),
    "a_tensor_without_cases": ({"source_to_isocentre_mm": torch.tensor(1600.0)}, "'source_to_isocentre_mm': ()"),
    "different_numbers_of_cases": (
        {"source_to_isocentre_mm": torch.tensor([1600.0] * 3), "angles_deg": torch.zeros(2, 2, 3)},
        "{'source_to_isocentre_mm': (3,), 'angles_deg': (2, 2, 3)}",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_built_is_refused_by_name_and_value(arguments: dict, message: str):
    with pytest.raises(InputError) as caught:
        BiplanarGeometry(**arguments)
    assert message in str(caught.value)
    assert "BiplanarGeometry" in str(caught.value)


def test_a_detector_that_is_smaller_than_the_footprint_is_refused_with_its_size():
    footprint_mm = 360 * 1800 / (1600 - 180)
    with pytest.raises(InputError, match=f"{footprint_mm:.1f} mm"):
        BiplanarGeometry(detector_size_mm=footprint_mm - 1)
    BiplanarGeometry(detector_size_mm=footprint_mm)


def test_magnification_is_the_ratio_of_the_distances_from_the_source():
    geometry = BiplanarGeometry(1000, 1250, detector_size_mm=600)
    assert geometry.magnification(0.0) == pytest.approx(1.25)
    assert geometry.magnification(100.0) == pytest.approx(1250 / 900)
    assert geometry.magnification(-100.0) == pytest.approx(1250 / 1100)


def test_magnification_of_a_tensor_is_that_of_its_elements():
    geometry = BiplanarGeometry()
    depths = torch.tensor([-150.0, 0.0, 150.0], dtype=torch.float64)
    expected = [geometry.magnification(depth) for depth in depths.tolist()]
    assert geometry.magnification(depths).tolist() == pytest.approx(expected)


def test_magnification_of_a_detector_at_the_isocentre_of_a_distant_source_tends_to_that_of_a_parallel_beam():
    parallel = BiplanarGeometry(source_to_isocentre_mm=inf, source_to_detector_mm=inf)
    distant = BiplanarGeometry(source_to_isocentre_mm=1e9, source_to_detector_mm=1e9 + 200)
    for depth in (-180.0, 0.0, 180.0):
        assert parallel.magnification(depth) == 1.0
        assert distant.magnification(depth) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(parallel.magnification(torch.tensor([-9.0, 9.0])), torch.ones(2))


def test_a_parallel_beam_needs_a_detector_as_large_as_the_volume():
    parallel = {"source_to_isocentre_mm": inf, "source_to_detector_mm": inf, "fov_mm": 360.0}
    assert BiplanarGeometry(**parallel, detector_size_mm=360.0).is_parallel
    with pytest.raises(InputError, match="detector_size_mm"):
        BiplanarGeometry(**parallel, detector_size_mm=350.0)


@pytest.mark.parametrize(("views", "signs"), [(("AP", "LL"), (1, 1)), (("PA", "RL"), (-1, -1))])
def test_the_source_is_anterior_for_ap_and_on_the_right_for_ll(views: tuple[str, str], signs: tuple[int, int]):
    geometry = BiplanarGeometry(views=views)
    assert (geometry.depth_sign(0), geometry.depth_sign(1)) == signs


def test_another_number_of_pixels_covers_the_same_detector():
    geometry = BiplanarGeometry(detector_pixels=512, views=("AP", "RL"))
    coarse = geometry.with_pixels(128)
    assert coarse.pixel_mm == pytest.approx(4 * geometry.pixel_mm)
    assert coarse.with_pixels(512) == geometry


def test_views_from_a_config_are_a_list_and_compare_as_a_tuple():
    assert BiplanarGeometry(views=["PA", "LL"]) == BiplanarGeometry(views=("PA", "LL"))


@pytest.mark.parametrize("views", [("AP", "LL"), ("PA", "RL")])
def test_a_ray_passes_through_the_points_that_are_projected_to_its_pixel(views: tuple[str, str]):
    geometry = BiplanarGeometry(views=views, angles_deg=((9.0, -7.0, 4.0), (-8.0, 6.0, 12.0)))
    for view in (0, 1):
        origin, step = geometry.ray(-70.0, 110.0, view)
        for depth in (-150.0, 0.0, 90.0):
            point = tuple(o + depth * s for o, s in zip(origin, step))
            assert geometry.projected_point(point, view) == pytest.approx((-70.0, 110.0))


def test_a_projected_point_is_found_under_its_former_name():
    geometry, point = BiplanarGeometry(), (60.0, 110.0, -80.0)
    with pytest.warns(FutureWarning, match="shadow is now projected_point"):
        assert geometry.shadow(point, 0) == geometry.projected_point(point, 0)


def test_cases_apart_are_the_rows_of_the_batch_in_plain_numbers():
    angles = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[0.0] * 3, [7.0, 8.0, 9.0]]])
    geometry = BiplanarGeometry(torch.tensor([1600.0, 1650.0], requires_grad=True), angles_deg=angles, fov_mm=300.0)
    assert geometry.cases == 2
    assert geometry.cases_apart() == [
        BiplanarGeometry(1600.0, angles_deg=((1, 2, 3), (4, 5, 6)), fov_mm=300.0),
        BiplanarGeometry(1650.0, angles_deg=((0, 0, 0), (7, 8, 9)), fov_mm=300.0),
    ]
    assert BiplanarGeometry().cases is None
    assert BiplanarGeometry().cases_apart() == [BiplanarGeometry()]


def test_a_batch_of_geometries_holds_apart_what_differs_and_is_taken_apart_again():
    turned = ((1.5, 0.0, -2.0), (0.1, 3.0, 0.0))
    entries = [BiplanarGeometry(), BiplanarGeometry(1500.0, 1687.5, views=("AP", "RL"), angles_deg=turned)]
    together = batched(entries)
    assert together.cases == 2 and together.cases_apart() == entries
    assert together.cases_along_axes == [True, False] and batched(entries[1:] * 2) == entries[1]
    assert entries[0].cases_along_axes == [True] and entries[1].cases_along_axes == [False]
