from __future__ import annotations

import numpy as np

from scripts.radiographs.unseen import AIR_INTEGRAL, CUT_MM, beyond_border, continued

PIXEL_MM = 2.5
SEEN = np.zeros((2, 24, 30), bool)
SEEN[0, 4:16, 6:20] = True
SEEN[1, 4:20, 3:27] = True
"""The frontal one ends four rows above the lateral one; above and below both nothing is shown."""
VALUES = np.random.default_rng(0).uniform(1.0, 4.0, SEEN.shape)


def going_on(values: np.ndarray) -> np.ndarray:
    return continued(values, beyond_border(SEEN) * PIXEL_MM, CUT_MM)


def test_nothing_changes_where_it_is_seen():
    np.testing.assert_array_equal(going_on(VALUES)[SEEN], VALUES[SEEN])


def test_rows_in_which_neither_shows_anything_are_0():
    found = going_on(VALUES)
    assert not found[:, :4].any() and not found[:, 20:].any()
    assert np.isinf(beyond_border(SEEN)[:, [0, 3, 20, 23]]).all()


def test_the_values_fall_from_the_border_on_to_0():
    found = going_on(np.full(SEEN.shape, 3.0))
    for row in (4, 15, 18):  # the last one is continued from the row in which the frontal radiograph ends
        right, left = found[0, row, 19:], found[0, row, 6::-1]
        for outwards in (right, left):
            assert (np.diff(outwards) < 0).all()
    assert 0 < found[0, 18, 10] < 3.0
    far = np.broadcast_to(np.arange(200) < 5, (2, 3, 200))
    assert not continued(np.full(far.shape, 3.0), beyond_border(far) * PIXEL_MM, CUT_MM)[..., 100:].any()


def test_at_the_length_of_fading_a_body_is_down_to_1_over_e():
    beyond_mm = np.full((2, 1, 1), CUT_MM)
    np.testing.assert_allclose(continued(np.full((2, 1, 1), 5.0), beyond_mm, CUT_MM), 5 / np.e - AIR_INTEGRAL)


def test_distances_count_from_the_last_pixel_that_is_seen():
    beyond = beyond_border(SEEN)
    assert beyond[0, 10, 20:24].tolist() == [1, 2, 3, 4]
    assert beyond[0, 10, 5:1:-1].tolist() == [1, 2, 3, 4]
    assert beyond[0, 18, 22] == 3


def test_a_radiograph_that_shows_nothing_has_no_border():
    seen = SEEN.copy()
    seen[0] = False
    assert np.isinf(beyond_border(seen)[0]).all()
