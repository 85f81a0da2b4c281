"""Regions of maps: which there are, where, and what a scan says of them."""

import numpy as np
import pytest

from pirn_jax.inspection import regions

SIZE = 60, 80


def tilted():
    """A tilted plane at half a metre, a point every half millimetre."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] * 0.0005
    return np.stack([columns, rows, 0.5 + 0.3 * columns - 0.1 * rows], axis=-1).astype(np.float32)


def marked(*places):
    values = np.zeros(SIZE, np.float32)
    for height, place in places:
        values[place] = height
    return values


SQUARE = slice(20, 30), slice(40, 52)


def test_regions_are_8_connected_and_the_highest_comes_first():
    corner = slice(30, 33), slice(52, 54)
    values = marked((2.0, SQUARE), (3.0, (slice(5, 7), slice(5, 8))), (1.5, corner))
    first, second = regions.find(values, 1.0)
    assert (first.row, first.column, first.pixels, first.highest) == (5.5, 6.0, 6, 3.0)
    assert first.box == (5, 5, 3, 2)
    assert second.pixels == 10 * 12 + 3 * 2
    assert second.box == (40, 20, 14, 13)
    assert second.centre_mm is second.area_mm2 is second.height_mm is None
    assert regions.find(values, 3.0) == []


@pytest.mark.parametrize("rise", [1.5, -0.8])
def test_a_scan_says_where_a_region_lies_how_large_it_is_and_how_far_it_rises(rise):
    xyz = tilted()
    xyz[23:27, 44:48, 2] -= rise / 1000 * np.sqrt(1 + 0.3**2 + 0.1**2)
    (found,) = regions.find(marked((1.0, SQUARE)), 0.5, xyz)
    np.testing.assert_allclose(found.height_mm, rise, rtol=0.02)
    np.testing.assert_allclose(found.area_mm2, 120 * 0.25, rtol=1e-3)
    np.testing.assert_allclose(found.centre_mm[:2], [45.5 * 0.5, 24.5 * 0.5], rtol=1e-4)


def test_without_points_there_or_around_nothing_is_claimed():
    hole = tilted()
    hole[SQUARE] = 0
    (found,) = regions.find(marked((1.0, SQUARE)), 0.5, hole)
    assert found.centre_mm is found.height_mm is None
    alone = np.zeros((*SIZE, 3), np.float32)
    alone[SQUARE] = tilted()[SQUARE]
    (found,) = regions.find(marked((1.0, SQUARE)), 0.5, alone)
    assert found.area_mm2 is not None
    assert found.height_mm is None
