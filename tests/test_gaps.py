"""Gaps within a part show the surface around them; what lies off the part stays unknown."""

import numpy as np

from pirn_jax.geometry import gaps


def test_gaps_take_the_nearest_value_and_what_is_off_the_part_stays():
    field = np.zeros((5, 8, 2), np.float32)
    field[:, 1:4], field[:, 4:7] = [1.0, 2.0], [3.0, 4.0]
    region = np.zeros((5, 8), bool)
    region[:, 1:7] = True
    holed = field.copy()
    holed[2, 2:4] = holed[1:3, 5] = 0
    np.testing.assert_array_equal(gaps.fill(holed, region), field)


def test_a_hole_stays_black_up_to_its_edge():
    field, region = np.ones((40, 40, 1), np.float32), np.ones((40, 40), bool)
    field[10:30, 10:30] = 0
    np.testing.assert_array_equal(gaps.fill(field, region), field)
    field[2, 5] = 0
    filled = gaps.fill(field, region)
    assert filled[2, 5] == 1
    np.testing.assert_array_equal(filled[10:30, 10:30], 0)


def test_without_anything_known_nothing_is_filled():
    field = np.zeros((3, 3, 1), np.float32)
    np.testing.assert_array_equal(gaps.fill(field, np.ones((3, 3), bool)), field)
