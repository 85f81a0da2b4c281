"""Patches in the form in which the least has to be computed: dense, or as what few basis vectors make of them.

What a layer rebuilds is a mix of k prototypes and k values of attention, a matrix of rank 2k. Kept as its two factors,
products with it take n * 2k numbers instead of n * c, and memory traffic is what a step of training waits for.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pirn_jax.methods.pirn.precision import factors, product


class Factored(NamedTuple):
    """Patches `coefficients @ basis`.

    Attributes:
      coefficients: of each patch.
      basis: rows that the patches are made of.
    """

    coefficients: Float[Array, "*modality n r"]
    basis: Float[Array, "*modality r c"]


Patches = Float[Array, "n c"] | Factored
PatchesOfBoth = Float[Array, "2 n c"] | Factored
"""With the modality as leading axis, for functions that are mapped over it."""


def dense(z: Patches) -> Float[Array, "n c"]:
    """The patches as one array."""
    return product(z.coefficients, z.basis) if isinstance(z, Factored) else z


def products(z: Patches, rows: Float[Array, "m c"]) -> Float[Array, "n m"]:
    """Inner products of patches and rows, `z @ rows.T`."""
    if isinstance(z, Factored):
        return product(z.coefficients, product(z.basis, rows.T))
    return product(z, rows.T)


def mix(weights: Float[Array, "n m"], z: Patches) -> Float[Array, "m c"]:
    """Sums of patches, `weights.T @ z`."""
    if isinstance(z, Factored):
        return product(product(weights.T, z.coefficients), z.basis)
    return product(weights.T, z)


def squared(z: Patches) -> Float[Array, " n"]:
    """Squared lengths of the patches."""
    return paired(z, z)


def paired(a: Patches, z: Patches) -> Float[Array, " n"]:
    """Inner products of corresponding patches, of which norms and losses are made: their factors are never rounded."""
    with factors("float32"):
        if isinstance(z, Factored):
            return jnp.sum(products(a, z.basis) * z.coefficients, axis=-1)
        return jnp.sum(dense(a) * z, axis=-1)


def add(a: Patches, b: Patches) -> Patches:
    """Sum of patches; of two in factors again in factors."""
    if isinstance(a, Factored) and isinstance(b, Factored):
        coefficients = jnp.concatenate([a.coefficients, b.coefficients], axis=1)
        return Factored(coefficients, jnp.concatenate([a.basis, b.basis]))
    return dense(a) + dense(b)
