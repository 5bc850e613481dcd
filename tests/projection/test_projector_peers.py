"""
The projector against three that others wrote: DiffDRR's Siddon (voxels of constant attenuation, integrated exactly),
the torch backend of nanodrr (trilinear samples along the ray) and RTK's Joseph. `python benchmarks/agreement.py`
prints the comparison for all rows of the projections, `pytest -s` for those taken here.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from math import pi

import pytest
import torch

from bundle_runs import ROOT
from scripts import BiplanarGeometry

sys.path.insert(0, str(ROOT / "benchmarks"))

from agreement import (  # noqa: E402
    NANODRR,
    OURS,
    PEERS,
    RTK,
    SIDDON,
    chest_attenuation,
    compared,
    correlation,
    normalised_rms_difference,
    projections,
    table,
)
from peers import Beam, beam  # noqa: E402

MODULES = {SIDDON: "diffdrr", NANODRR: "nanodrr", RTK: "itk.RTKPython"}
SLOW_AT_FULL_SIZE = (SIDDON, RTK)
FULL_SIZE = BiplanarGeometry(detector_pixels=512)
DISTANT_DETECTOR = {"source_to_detector_mm": 1900.0, "detector_size_mm": 600.0}
"""Behind the corners of a rotated volume, too: the peers' rays end at the detector."""
ALONG_AXES = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
ROTATED = ((7.0, -4.0, 3.0), (-6.0, 5.0, 0.0))
ROTATED_FURTHER = ((-12.0, 9.0, -8.0), (11.0, -10.0, 15.0))
VIEWS = (("PA", "LL"), ("AP", "RL"))

BODY = torch.tensor([20.0, -15.0, 10.0]).double(), torch.tensor([30.0, 25.0, 35.0]).double()
"""A Gaussian's centre and widths along X, Y, Z in mm; it has faded long before the cube's faces."""


def need(*peers: str) -> None:
    for peer in peers:
        if importlib.util.find_spec(MODULES[peer]) is None:
            pytest.skip(f"{peer} is not installed: pip install --no-deps -r requirements-dev.txt")


@cache
def chest(size: int) -> torch.Tensor:
    return chest_attenuation(size)


@cache
def full_size_projections(peer: str) -> list[dict[str, torch.Tensor]]:
    """Of 256³ voxels, 512² pixels, every eighth row: Siddon would take half a minute for all."""
    return projections(chest(256), FULL_SIZE, {peer: PEERS[peer]}, rows=slice(1, None, 8))


def in_a_body_of_known_integrals(rays: Beam) -> torch.Tensor:
    """The integrals of `gaussian_body` over whole lines, from the exponent's square completed."""
    centre, widths = BODY
    direction = rays.pixels - rays.source
    direction = direction / direction.norm(dim=-1, keepdim=True) / widths
    offset = (rays.source - centre) / widths
    a, b = direction.square().sum(-1), direction @ offset
    return (2 * pi / a).sqrt() * torch.exp((b**2 / a - offset.square().sum()) / 2)


def gaussian_body(size: int, fov_mm: float) -> torch.Tensor:
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * fov_mm / size - fov_mm / 2
    x, y, z = (torch.exp(-(((axis - centre) / width) ** 2) / 2) for centre, width in zip(*BODY))
    return (x[:, None, None] * y[:, None] * z)[None, None]


@pytest.mark.parametrize(
    "peer", [pytest.param(peer, marks=pytest.mark.slow) if peer in SLOW_AT_FULL_SIZE else peer for peer in PEERS]
)
def test_projections_of_a_chest_agree_at_full_size(peer: str):
    """All agree at a small size by `test_what_is_measured_makes_the_same_projection`."""
    need(peer)
    for _, _, _, difference, agreement in compared(full_size_projections(peer)):
        assert difference <= 0.01
        assert agreement >= 0.9995


def test_we_are_no_further_from_any_peer_than_the_peers_are_from_each_other():
    need(*PEERS)
    views = [
        {name: of for peer in PEERS for name, of in full_size_projections(peer)[view].items()} for view in range(2)
    ]
    print("\n" + table(views, FULL_SIZE.views))
    for view in views:
        ours = [difference for _, first, _, difference, _ in compared([view]) if first == OURS]
        theirs = [difference for _, first, _, difference, _ in compared([view]) if first != OURS]
        assert len(ours) == len(theirs) == 3
        assert max(ours) <= max(theirs)


@pytest.mark.parametrize(("peer", "limit"), [(NANODRR, 1e-3), (RTK, 1e-5)])
@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("angles", [ALONG_AXES, ROTATED, ROTATED_FURTHER], ids=["along axes", "off", "further off"])
def test_projections_from_every_side_agree(peer: str, limit: float, views: tuple[str, str], angles: tuple):
    """
    Views along the axes and off them; the peers know the angles only by the rotated source and pixels. The outer
    voxels are air here, since RTK's rays end at the middles of the outer voxels. RTK and we are the same to rounding.
    """
    need(peer)
    mu = torch.nn.functional.pad(chest(128)[(..., *[slice(2, -2)] * 3)], [2] * 6)
    geometry = BiplanarGeometry(**DISTANT_DETECTOR, detector_pixels=256, views=views, angles_deg=angles)
    assert max(difference for *_, difference, _ in compared(projections(mu, geometry, {peer: PEERS[peer]}))) < limit


def test_the_difference_from_siddon_is_that_of_constant_and_interpolated_voxels():
    """It shrinks with the voxels, in proportion, so that both tend to the same integral."""
    need(SIDDON)
    coarse = projections(chest(64), FULL_SIZE.with_pixels(128), {SIDDON: PEERS[SIDDON]})
    for (*_, at_64, _), (*_, at_256, _) in zip(compared(coarse), compared(full_size_projections(SIDDON))):
        assert at_256 < 0.35 * at_64


@pytest.mark.parametrize("projector", [OURS, *PEERS])
def test_the_central_ray_through_a_full_cube_measures_its_side(projector: str):
    """Where the projectors disagree at the cube's faces: RTK's rays end at the middles of the outer voxels."""
    if projector != OURS:
        need(projector)
    geometry = BiplanarGeometry(detector_pixels=33)
    peers = {} if projector == OURS else {projector: PEERS[projector]}
    for view in projections(torch.full((1, 1, 16, 16, 16), 1 / 360.0), geometry, peers):
        expected = 15 / 16 if projector == RTK else 1
        assert view[projector][16, 16].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("angles", [ALONG_AXES, ROTATED], ids=["along axes", "off axes"])
@pytest.mark.parametrize(("projector", "limit"), [(OURS, 0.002), (NANODRR, 0.002), (RTK, 0.002), (SIDDON, 0.02)])
def test_every_projector_finds_the_known_integrals_of_a_smooth_body(projector: str, limit: float, angles: tuple):
    """Siddon's voxels are constant: along the axes, where rays cross the same few rows of voxels, that is coarser."""
    if projector != OURS:
        need(projector)
    geometry = BiplanarGeometry(**DISTANT_DETECTOR, detector_pixels=96, angles_deg=angles)
    peers = {} if projector == OURS else {projector: PEERS[projector]}
    for view, by_name in enumerate(projections(gaussian_body(128, geometry.fov_mm).float(), geometry, peers)):
        expected = in_a_body_of_known_integrals(beam(geometry, view))
        assert normalised_rms_difference(by_name[projector], expected) < limit
        assert by_name[projector].sum().item() == pytest.approx(expected.sum().item(), rel=2e-4)


def test_the_two_measures_of_agreement_are_what_they_say():
    reference = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert normalised_rms_difference(1.1 * reference, reference) == pytest.approx(0.1)
    assert normalised_rms_difference(reference + torch.tensor([[0.0, 0.0], [0.0, 5.0]]), reference) == pytest.approx(1)
    assert correlation(2 * reference + 1, reference) == pytest.approx(1)
    assert correlation(-reference, reference) == pytest.approx(-1)
