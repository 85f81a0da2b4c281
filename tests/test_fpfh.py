"""Histograms of angles between normals: against a loop over pairs, and on surfaces whose angles are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax.encoders import fpfh
from pirn_jax.geometry import normal_images

SIZE, PATCH = 24, 8
describe = jax.jit(fpfh.describe, static_argnums=1)


def shown(normals):
    """The image of normals in the camera frame (x right, y down, z away)."""
    return normal_images.to_image(normals.astype(np.float32)) / np.float32(255)


def sphere(radius=30.0):
    down, right = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    towards = np.sqrt(radius**2 - down**2 - right**2)
    return np.stack([right, down, -towards], axis=-1) / radius


def simple(image, row, column):
    """Votes of a pixel's pairs, and how many there are, by a loop in float64."""
    normals = image.astype(np.float64) * 2 - 1
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    centres = (np.arange(11) + 0.5) * 2 / 11 - 1
    votes, pairs = np.zeros((3, 11)), 0
    for radius in (2, 4):
        for turn in range(8):
            right, up = (round(radius * f(turn * math.pi / 4)) for f in (math.cos, math.sin))
            y, x = row - up, column + right
            if not (0 <= y < SIZE and 0 <= x < SIZE and image[y, x].any() and image[row, column].any()):
                continue
            u, n = normals[row, column], normals[y, x]
            slope = (u[:2] / max(u[2], 0.1) + n[:2] / max(n[2], 0.1)) / 2
            d = np.array([right, up, -slope @ [right, up]])
            d /= np.linalg.norm(d)
            v = np.cross(d, u)
            v /= np.linalg.norm(v)
            w = np.cross(u, v)
            pairs += 1
            for i, angle in enumerate((v @ n, u @ d, math.atan2(w @ n, u @ n) / math.pi)):
                place = min(max(angle, centres[0]), centres[-1])
                votes[i] += np.maximum(1 - np.abs(place - centres) * 5.5, 0)
    return votes.ravel(), pairs


def test_a_patch_has_the_votes_of_its_pairs_and_of_its_neighbours():
    rng = np.random.default_rng(0)
    field = sphere() + 0.3 * rng.normal(size=(SIZE, SIZE, 3))
    field /= np.linalg.norm(field, axis=-1, keepdims=True)
    field[:5, :7] = 0
    image = shown(field)
    grid = np.zeros((3, 3, 33))
    for row in range(3):
        for column in range(3):
            pixels = [(PATCH * row + i, PATCH * column + j) for i in range(PATCH) for j in range(PATCH)]
            votes, pairs = zip(*(simple(image, *pixel) for pixel in pixels), strict=True)
            grid[row, column] = np.sum(votes, axis=0) / sum(pairs)
    weights = np.array([[math.sqrt(0.5), 1, math.sqrt(0.5)], [1, 0, 1], [math.sqrt(0.5), 1, math.sqrt(0.5)]])
    middle = grid[1, 1] + (weights[..., None] * grid).sum((0, 1)) / weights.sum()
    found = np.asarray(describe(jnp.asarray(image), PATCH))
    assert found.shape == (9, fpfh.FpfhConfig().width)
    np.testing.assert_allclose(found[4], np.sqrt(middle), atol=2e-3)


def test_a_plane_has_right_angles_however_it_is_tilted_and_a_sphere_bends_evenly():
    flat = np.zeros((SIZE, SIZE, 3))
    flat[..., 2] = -1
    tilted = flat + [0.4, 0.2, 0]
    tilted /= np.linalg.norm(tilted, axis=-1, keepdims=True)
    level, slanted, round_ = (np.asarray(describe(jnp.asarray(shown(of)), PATCH))[4] for of in (flat, tilted, sphere()))
    np.testing.assert_allclose(level, slanted, atol=0.1)
    # Two in each histogram: its own votes and its neighbours'. All of a plane's angles are nil, in the sixth bin.
    np.testing.assert_allclose(np.square(level).reshape(3, 11)[:, 5], 2, atol=0.1)
    np.testing.assert_allclose(np.square(round_).reshape(3, 11)[0, 5], 2, atol=0.1)
    assert np.square(round_).reshape(3, 11)[1, 5] < 1.8


def test_a_dent_shows_and_unknown_pixels_do_not():
    clean, holed, dented = sphere(), sphere(), sphere()
    holed[10:12, 10:12] = 0
    dented[10:14, 10:14] = [0.6, 0, -0.8]
    whole, hole, dent = (np.asarray(describe(jnp.asarray(shown(of)), PATCH))[4] for of in (clean, holed, dented))
    assert np.linalg.norm(dent - whole) > 3 * np.linalg.norm(hole - whole)
    assert np.isfinite(np.asarray(describe(jnp.zeros((SIZE, SIZE, 3)), PATCH))).all()
