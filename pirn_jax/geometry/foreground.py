"""Foreground of a scan: the supporting plane and clutter around the part are removed.

The steps and constants are those that BTF (Horwitz and Hoshen, 2023), M3DM (Wang et al., 2023) and CFM (Costanzino et
al., 2024) prepare MVTec 3D-AD with. Departures: the plane may be refused, noise is never taken for the part, pixels
without points inside the part stay, and everything is repeatable.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, sparse, spatial

from pirn_jax.geometry import coordinates

TOLERANCE = 0.005
"""Points nearer to the plane than this, in metres, are removed (BTF, M3DM, CFM)."""

THRESHOLD = 0.8
"""Points of the border support a plane within this many tolerances of it: 4 mm of 5 (BTF, M3DM, CFM)."""

REACH = 0.006
"""Radius of a neighbourhood of DBSCAN in metres (BTF, M3DM, CFM)."""

NEIGHBOURS = 30
"""Points in the neighbourhood of a core point of DBSCAN, itself included (BTF, M3DM, CFM)."""

BORDER = 10
"""Width in pixels of the border that the plane is sought in (BTF, M3DM, CFM)."""

DRAWS = 1000
"""Planes that RANSAC tries (BTF, M3DM, CFM). Each goes through three points, not through 50 as theirs: with half of the
border on the part, three points are all on the plane once in 8 draws and 50 never."""

_SCORED = 2048
"""Points of the border, drawn at random, that each plane is scored on: a share is then known to 1 % (our choice)."""

_FIRST, _PROMISING = 256, 100
"""Points that all planes are scored on first, and planes that are then scored on all of them (our choice)."""

_FEWEST = 50
"""Points that the border must hold: those of one draw of the others (our choice)."""

_SUPPORT = 0.5
"""Share of the border's points that must support the plane. A part in the foreground can hold as much as a plane with
less (our choice)."""

_KEPT = 0.01
"""Share of the points that must be left; a plane with more is the part itself (our choice)."""

_CELL = 0.25
"""Side, in radii, of the cells that the clustering collapses; half of it takes 16 times as many pairs (our choice)."""

_FARTHEST = 10**6
"""Cells on either side of the origin; their three numbers then fit into one of 64 bits."""

Plane = tuple[np.ndarray, float]
"""Unit normal (3,) and offset in metres: `n . p = offset` on the plane."""


@dataclasses.dataclass(frozen=True)
class Foreground:
    """The part in a scan.

    Attributes:
      points: pixels whose points belong to the part.
      region: pixels that show the part: `points`, and the unseen pixels that only they enclose.
      note: what could not be done, in one sentence; empty if nothing.
    """

    points: Bool[np.ndarray, "h w"]
    region: Bool[np.ndarray, "h w"]
    note: str = ""


def find(
    xyz: Float[np.ndarray, "h w 3"], tolerance: float = TOLERANCE, reach: float = REACH, seed: int = 0
) -> Foreground:
    """Finds the part in an organised cloud: the largest cluster of what is off the plane at the image's border.

    A cloud whose plane cannot be told is left whole, and the note says why.

    Args:
      xyz: points in metres; zero or not finite where nothing was seen.
      tolerance: points nearer to the plane are removed, in metres. A part that is lower disappears.
      reach: gap in metres that may be between points of one cluster; steps whose walls are unseen are such gaps.
      seed: of the draws of RANSAC; the same seed gives the same bits.

    Raises:
      ValueError: if tolerance or reach is not positive.
    """
    return separate(xyz, tolerance, reach, functools.partial(fit_plane, seed=seed), cluster)


def separate(
    xyz: Float[np.ndarray, "h w 3"],
    tolerance: float,
    reach: float,
    fit: Callable[[np.ndarray, float], Plane | None],
    clusters: Callable[[np.ndarray, float], np.ndarray],
) -> Foreground:
    """Finds the part with a given way to fit planes and to cluster.

    Args:
      xyz: points in metres; zero or not finite where nothing was seen.
      tolerance: points nearer to the plane are removed, in metres.
      reach: radius of a neighbourhood of the clustering, in metres.
      fit: points (n, 3), n >= 50, and the distance within which they support a plane -> the plane, None without one.
      clusters: points (n, 3), n >= 1, and the radius of a neighbourhood -> the cluster's number of each, -1 for noise.

    Raises:
      ValueError: if tolerance or reach is not positive.
    """
    if not (tolerance > 0 and reach > 0):
        raise ValueError(f"tolerance and reach must be positive, not {tolerance} and {reach}")
    seen = coordinates.seen(xyz)
    points, note = seen, "no point was seen"
    if seen.any():
        plane, note = _supporting_plane(xyz, seen, tolerance, fit)
        if plane:
            points, note = _off_plane(xyz, seen, tolerance, reach, plane, clusters)
    return Foreground(points, _with_enclosed(points, seen), note)


def _supporting_plane(xyz, seen, tolerance, fit) -> tuple[Plane | None, str]:
    """The plane at the border, or why there is none."""
    border = seen.copy()
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    points = xyz[border].astype(np.float64)
    if len(points) < _FEWEST:
        return None, f"fewer than {_FEWEST} points were seen at the border; nothing was removed"
    plane = fit(points, THRESHOLD * tolerance)
    if plane is None:
        return None, "no plane at the border; nothing was removed"
    support = points[np.abs(points @ plane[0] - plane[1]) <= THRESHOLD * tolerance]
    if len(support) < _SUPPORT * len(points):
        return None, "no plane holds half of the points at the border; nothing was removed"
    # A band along one side tells a plane no better than a line does: across it, noise is all that there is to see.
    if np.sqrt(np.linalg.eigvalsh(np.cov(support.T))[1]) < tolerance:
        return None, "the points at the border are nearly on a line; nothing was removed"
    return plane, ""


def _off_plane(xyz, seen, tolerance, reach, plane, clusters) -> tuple[np.ndarray, str]:
    """The largest cluster off the plane, and what could not be done."""
    normal, offset = plane
    points, note = seen.copy(), ""
    heights = coordinates.along(xyz[seen], normal.astype(xyz.dtype)[None])[:, 0] - xyz.dtype.type(offset)
    points[seen] = np.abs(heights) >= tolerance
    numbers = clusters(xyz[points], reach) if points.any() else np.empty(0, np.intp)
    if np.any(numbers >= 0):
        points[points] = numbers == np.argmax(np.bincount(numbers[numbers >= 0]))
    else:
        note = "no cluster off the plane; all that is off it was kept"
    if points.sum() < _KEPT * seen.sum():
        return seen, "less than 1 % of the points would be left; nothing was removed"
    return points, note


def _with_enclosed(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Adds the unseen pixels from which no way over unseen ones leads to a removed one or out of the image."""
    outside = np.pad(seen & ~points, 1, constant_values=True)
    outside = ndimage.binary_propagation(outside, mask=np.pad(~points, 1, constant_values=True))
    return np.logical_not(outside[1:-1, 1:-1])


def fit_plane(points: Float[np.ndarray, "n 3"], threshold: float, seed: int = 0) -> Plane | None:
    """Fits a plane by RANSAC, then by least squares to the points that support it.

    A draw scores 1 - (distance / threshold)^2 for each point that supports it (Torr and Zisserman, 2000). Were these
    only counted, a plane that cuts through the border and the part on it could win over the one that fits the border.
    Draws that score low on few points are not scored on more (Nistér, 2003).

    Args:
      points: at least three.
      threshold: points within this distance support a plane.
      seed: of the draws.

    Returns:
      The plane; None if every draw was exactly on a line, or fewer than three points support the best plane.
    """
    rng = np.random.default_rng(seed)
    # One wild point would move the mean so far that nothing is left of the others' digits.
    centre = np.median(points, axis=0)
    points = points - centre
    scored = rng.choice(points, min(len(points), _SCORED), replace=False)
    first, second, third = np.moveaxis(points[rng.integers(len(points), size=(DRAWS, 3))], 1, 0)
    normals = np.cross(second - first, third - first)
    lengths = np.linalg.norm(normals, axis=-1)
    if not lengths.any():
        return None
    normals, first = normals[lengths > 0] / lengths[lengths > 0, None], first[lengths > 0]
    offsets = np.sum(first * normals, axis=-1)
    scores = _scores(scored[:_FIRST], normals, offsets, threshold)
    promising = np.argsort(-scores, kind="stable")[:_PROMISING]
    best = promising[np.argmax(_scores(scored, normals[promising], offsets[promising], threshold))]
    support = points[np.abs(coordinates.along(points, normals[[best]])[:, 0] - offsets[best]) <= threshold]
    if len(support) < 3:
        return None
    normal = np.linalg.eigh(np.cov(support.T))[1][:, 0]
    return normal, float(normal @ (support.mean(axis=0) + centre))


def _scores(points: np.ndarray, normals: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """Sums of 1 - (distance / threshold)^2, where above zero, of each plane."""
    terms = (coordinates.along(points, normals) - offsets) / threshold
    return np.maximum(1 - terms * terms, 0).sum(axis=0)


def cluster(points: Float[np.ndarray, "n 3"], reach: float, neighbours: int = NEIGHBOURS) -> Int[np.ndarray, " n"]:
    """Clusters points nearly as DBSCAN does (Ester et al., 1996), and in time for large clouds.

    Points of a cubic cell with a side of a quarter of the radius are taken to lie at their mean; a scan samples
    surfaces so densely that few cells are left. Clusters between which that may hide a link are compared point by
    point. Points that neighbour several clusters go to the nearest.

    Args:
      points: in metres.
      reach: radius of a neighbourhood, in metres.
      neighbours: points in the neighbourhood of a core point, itself included.

    Returns:
      Number of each point's cluster; -1 for noise.
    """
    counts, means, cell = _collapse(points, _CELL * reach)
    # Points are rarely farther than a side from the mean, so the ends of longer pairs have no neighbours in each other.
    pairs = spatial.KDTree(means).query_pairs((1 + 2 * _CELL) * reach, output_type="ndarray")
    near = coordinates.lengths(means[pairs[:, 0]] - means[pairs[:, 1]]) <= reach
    core = _weights(pairs[near], counts) >= neighbours
    linked = core[pairs[:, 0]] & core[pairs[:, 1]]
    numbers = _components(pairs[near & linked], len(means))
    doubtful = pairs[~near & linked]
    doubtful = doubtful[numbers[doubtful[:, 0]] != numbers[doubtful[:, 1]]]
    numbers = _components(_touching(points, cell, doubtful, numbers, reach), len(means))[numbers]
    # The tree's answer for no neighbour is one past the last.
    nearest = spatial.KDTree(means[core]).query(means[~core], distance_upper_bound=reach)[1]
    numbers[~core] = np.append(numbers[core], -1)[nearest]
    return numbers[cell]


def _weights(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Numbers of points in each cell and those that it is paired with."""
    one, other = pairs.T
    size = len(counts)
    return counts + np.bincount(one, counts[other], size) + np.bincount(other, counts[one], size)


def _components(links: np.ndarray, size: int) -> np.ndarray:
    """Numbers of the connected components of a graph with links (n, 2)."""
    graph = sparse.coo_array((np.ones(len(links), bool), tuple(links.T)), shape=(size, size))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _touching(
    points: np.ndarray, cell: np.ndarray, doubtful: np.ndarray, numbers: np.ndarray, reach: float
) -> np.ndarray:
    """Pairs (n, 2) of the numbers of clusters that have points nearer than a distance in doubtful pairs of cells."""
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(numbers) + 1))

    def within(cells: np.ndarray) -> np.ndarray:
        return points[np.concatenate([order[starts[one] : starts[one + 1]] for one in np.unique(cells)])]

    doubtful = np.where((numbers[doubtful[:, 0]] < numbers[doubtful[:, 1]])[:, None], doubtful, doubtful[:, ::-1])
    clusters, group = np.unique(numbers[doubtful], axis=0, return_inverse=True)
    links = []
    for i, pair in enumerate(clusters):
        one, other = map(within, doubtful[group.ravel() == i].T)
        if np.isfinite(spatial.KDTree(one).query(other, distance_upper_bound=reach)[0]).any():
            links.append(pair)
    return np.array(links, np.intp).reshape(-1, 2)


def _collapse(points: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of points in the occupied cells of a grid, their means, and the cell of each point."""
    grid = np.floor(np.clip(points / side, -_FARTHEST, _FARTHEST)).astype(np.int64) + _FARTHEST
    keys = np.ravel_multi_index(tuple(grid.T), (2 * _FARTHEST + 1,) * 3)
    _, cell, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sums = [np.bincount(cell, points[:, axis], len(counts)) for axis in range(3)]
    return counts, np.stack(sums, axis=-1) / counts[:, None], cell
