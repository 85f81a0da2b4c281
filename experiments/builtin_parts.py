"""Built-in parts of any seed as studies of features and choices take them."""

import pathlib
from collections.abc import Sequence

from pirn_jax.data import catalogue, mvtec3d, procedural
from pirn_jax.data.sample import Splits
from pirn_jax.inputs import Preparation
from tools import console

DEBUG_COUNTS = procedural.Counts(train=4, validation=1, good=4, per_defect=1)
"""Parts of a study of under a minute."""


def preparation() -> Preparation:
    """Preparation of the built-in parts, with the tolerances that the catalogue has for them."""
    known = catalogue.DATASETS[catalogue.BUILT_IN]
    return Preparation(plane_tolerance=known.plane_tolerance, cluster_reach=known.cluster_reach)


def read(home: pathlib.Path, categories: Sequence[str], seed: int) -> dict[str, Splits]:
    """The parts of a seed, generated where they are not in the cache yet; without categories, all of them."""
    wanted = list(categories) or list(procedural.CATEGORIES)
    with console.stage("built-in parts", 1) as advance:
        splits = mvtec3d.read(procedural.ensure(home, categories=wanted, seed=seed), wanted)
        advance(1)
    return splits
