"""Scores by what is left of patches: a method's residuals beside those that good parts left.

Whatever a few prototypes cannot rebuild is left on good parts too: edges, prints, texture. So what is left of a patch
is compared with what was left of the patches of good parts, by the nearest of them (`nearest`), by their Gaussian
(`conditional`), or by both. `s` samples, `m` modalities, `k` maps, `n` patches, `c` channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import conditional, nearest
from pirn_jax.methods.base import Features, Method, Params, forget_nothing

COMPARISONS = ("nearest", "gaussian", "both")
SCORES = ("cosine", *COMPARISONS)
"""Scores of a method that rebuilds patches: how far they are off, or what is left beside what good parts left."""


class Comparison(NamedTuple):
    """A way to compare rows with those of good parts.

    Attributes:
      maps: names of the k maps.
      fit: `(rows (s, m, n, c), mask (s, n)) -> fitted`.
      distances: `(fitted, rows (m, n, c)) -> distances (k, n)`.
      forget: `(fitted, i) -> fitted` without what it holds of sample `i`.
      judges: see `Method.judges`.
    """

    maps: tuple[str, ...]
    fit: Callable[[Float[Array, "s m n c"], Bool[Array, "s n"]], Any]
    distances: Callable[[Any, Float[Array, "m n c"]], Float[Array, "k n"]]
    forget: Callable[[Any, Array], Any] = forget_nothing
    judges: tuple[int, ...] = ()


def compare(form: str, modalities: tuple[str, ...], joint: bool = False) -> Comparison:
    """One of `COMPARISONS`.

    Args:
      form: "nearest", squared distances to the nearest row in units of its reach; "gaussian", the Mahalanobis distance
        of each modality given the others; "both", the maps of one and of the other, two judges.
      modalities: names of the m modalities.
      joint: whether the nearest row is looked for in all modalities at once, too.
    """
    count = len(modalities)
    if form == "nearest":
        joint = joint and count > 1
        seen = nearest.each(count) + (nearest.together(count) if joint else ())
        return Comparison(
            (*modalities, *["joint"] * joint),
            lambda rows, mask: nearest.remember(rows, mask, seen),
            lambda fitted, rows: nearest.distances(fitted, rows, seen),
            nearest.forget,
        )
    if form == "gaussian":
        return Comparison(conditional.names(modalities), conditional.fit, conditional.distances)
    parts = [compare(name, modalities, joint) for name in ("nearest", "gaussian")]
    return Comparison(
        tuple(name for part in parts for name in part.maps),
        lambda rows, mask: tuple(part.fit(rows, mask) for part in parts),
        lambda fitted, rows: jnp.concatenate(
            [part.distances(of, rows) for part, of in zip(parts, fitted, strict=True)]
        ),
        lambda fitted, i: tuple(part.forget(of, i) for part, of in zip(parts, fitted, strict=True)),
        tuple(len(part.maps) for part in parts),
    )


def scored(
    method: Method,
    residuals: Callable[[Params, Params, Features], Float[Array, "m n c"]],
    form: str,
    joint: bool = False,
) -> Method:
    """The method with scores by what it leaves of patches.

    Args:
      method: what learns; a map of each modality is its cosine distance.
      residuals: `(learned, fixed, features) -> rows` of a sample.
      form: one of `SCORES`; by "cosine" the method stays as it is.
      joint: see `compare`.
    """
    if form == "cosine":
        return method
    comparison = compare(form, method.maps, joint)

    def finalize(learned: Params, fixed: Params, support: Features) -> Params:
        rows = jax.vmap(lambda features: residuals(learned, fixed, features))(support)
        return {"learned": learned, "fixed": fixed, "good": comparison.fit(rows, support.mask)}

    def score(params: Params, features: Features) -> Float[Array, "k n"]:
        return comparison.distances(params["good"], residuals(params["learned"], params["fixed"], features))

    def forget(params: Params, i: Array) -> Params:
        return {**params, "good": comparison.forget(params["good"], i)}

    fitted = {"score": score, "finalize": finalize, "forget": forget}
    return method._replace(maps=comparison.maps, judges=comparison.judges, **fitted)
