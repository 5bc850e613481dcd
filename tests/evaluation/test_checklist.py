from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from chest_phantom import DOMES_MM, FOV_MM, chest, places
from scripts.evaluation.checklist import RULES, Finding, check_anatomy


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    return chest(64)


def findings(hu: np.ndarray) -> dict[str, Finding]:
    return {found.rule.key: found for found in check_anatomy(hu, FOV_MM / len(hu))}


def failed(hu: np.ndarray) -> set[str]:
    return {key for key, found in findings(hu).items() if not found.passed}


def test_a_chest_passes_sharp_and_blurred(hu: np.ndarray):
    assert failed(hu) == set()
    assert failed(ndimage.gaussian_filter(hu, 8 / 5.625)) == set()


def test_values_are_those_of_the_chests_solids(hu: np.ndarray):
    found = {key: each.value for key, each in findings(hu).items()}
    assert found["domes"] == pytest.approx(DOMES_MM, abs=6)
    assert found["body_width"] == pytest.approx(320, abs=12)
    assert found["body_depth"] == pytest.approx(230, abs=12)
    assert found["outline"] == pytest.approx(1, abs=0.03)
    assert found["spine_behind"] == 1 and found["one_body"] < 0.05 and found["lateral_faces"] == 0


def test_a_mirrored_chest_has_its_heart_and_its_higher_dome_on_the_wrong_side(hu: np.ndarray):
    assert {"heart_on_the_left"} <= failed(hu[::-1]) <= {"heart_on_the_left", "domes"}
    assert findings(hu[::-1])["domes"].value == pytest.approx(-DOMES_MM, abs=6)


def test_a_chest_with_its_front_behind_has_its_spine_in_front(hu: np.ndarray):
    assert "spine_behind" in failed(hu[:, ::-1])


def test_a_chest_upside_down_has_its_apices_below(hu: np.ndarray):
    assert "apices_above" in failed(hu[..., ::-1])


@pytest.mark.parametrize("kind", ["noise", "water", "air"])
def test_what_is_no_chest_fails_most_rules(kind: str):
    x, y, z = places(64)
    ball = np.where(x**2 + y**2 + z**2 < 120**2, 0.0, -1000.0)
    noise = np.random.default_rng(0).normal(-500, 300, ball.shape)
    hu = {"noise": noise, "water": ball, "air": np.full(ball.shape, -1000.0)}[kind]
    found = failed(hu)
    assert "heart_on_the_left" in found and len(found) > len(RULES) / 2


def test_a_hole_in_the_body_and_a_second_body_are_found(hu: np.ndarray):
    x, y, z = places(64)
    with_hole, with_other = hu.copy(), hu.copy()
    with_hole[(x - 60) ** 2 + y**2 + (z + 130) ** 2 < 58**2] = -1000.0
    np.copyto(with_other, 20.0, where=(abs(y - 150) < 25) & (abs(x) < 150))
    assert "no_holes" in failed(with_hole) and "one_body" in failed(with_other)


def test_each_rule_has_a_limit_a_reason_and_a_key_of_its_own():
    assert len({rule.key for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.why and rule.sentence and (rule.lowest, rule.highest) != (None, None)


def test_the_page_has_every_rule_with_its_limits_and_reason():
    page = (Path(__file__).parents[2] / "bundle" / "docs" / "radiographs.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| `{rule.key}` | {rule.sentence} | {rule.limits} | {rule.why} |" in page
