"""Patches of the part alone, there and back."""

import numpy as np

from pirn_jax.study import packing

MASKS = np.array([[0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]], bool)


def test_patches_of_the_part_come_first_in_their_order():
    kept = packing.order(MASKS)
    assert kept.shape == (2, 3)
    assert kept[0].tolist() == [1, 2, 5]
    assert kept[1, 0] == 0
    assert not MASKS[1, kept[1, 1:]].any()


def test_distances_return_to_their_places():
    kept, rng = packing.order(MASKS), np.random.default_rng(0)
    values = rng.normal(size=(2, 4, 1, 6, 3)).astype(np.float32)
    packed = packing.pack(values, kept)
    np.testing.assert_array_equal(packed[0], values[0][:, :, [1, 2, 5]])
    shown = np.take_along_axis(MASKS, kept, axis=1)
    distances = np.where(shown[:, None], packed[:, :, 0, :, 0], 0)
    found = packing.spread(np.stack([distances, 2 * distances]), np.stack([kept, kept]), 6)
    expected = np.where(MASKS[:, None], values[:, :, 0, :, 0], 0)
    np.testing.assert_array_equal(found, np.stack([expected, 2 * expected]))
