"""CFM and CFR in plain NumPy, float64, patch by patch: what the published code computes, on one grid."""

from typing import Any

import numpy as np
import scipy.special

Array = np.ndarray


def unit(x: Array) -> Array:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    """The exact GELU."""
    return x * 0.5 * (1 + scipy.special.erf(x / 2**0.5))


def linear(weights: dict, x: Array) -> Array:
    """A dense layer; some have no bias."""
    return x @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights.get("bias", 0.0), np.float64)


def mapped(weights: dict, x: Array) -> Array:
    """One direction's mapper: two hidden layers (CFM), or one whose half gates the other (CFR)."""
    if "gate" in weights:
        both = linear(weights["gate"], x)
        half = both.shape[1] // 2
        return linear(weights["out"], gelu(both[:, :half]) * both[:, half:])
    return linear(weights["out"], gelu(linear(weights["second"], gelu(linear(weights["first"], x)))))


def predicted(weights: Any, x: Array) -> tuple[Array, Array]:
    """RGB from geometry, and geometry from RGB; weights of the direction from RGB come first."""
    from_rgb, from_geometry = ({k: {n: v[i] for n, v in w.items()} for k, w in weights.items()} for i in range(2))
    return mapped(from_geometry, x[1]), mapped(from_rgb, x[0])


def disagreement(found: Array, x: Array, mask: Array) -> float:
    """Mean of one minus the cosine over the part."""
    return float(np.mean([1 - a @ b for a, b in zip(unit(found)[mask], unit(x)[mask], strict=True)]))


def product(found: tuple[Array, Array], x: Array) -> Array:
    """Product of the Euclidean distances of unit vectors."""
    apart = [np.linalg.norm(unit(of) - unit(given), axis=-1) for of, given in zip(found, x, strict=True)]
    return apart[0] * apart[1]


def retrieved(weights: dict, query: Array, keys: Array, values: Array, count: int, own: bool) -> Array:
    """RGB patches for geometry patches, by attention to those of the nearest keys."""
    found = []
    for q in query:
        cosines = unit(keys) @ unit(q)
        usable = np.flatnonzero(cosines < 1 - 1e-5) if own else np.arange(len(keys))
        chosen = usable[np.argsort(-cosines[usable])[:count]]
        asked = linear(weights["query"], q)
        logits = np.array([asked @ linear(weights["key"], keys[i]) for i in chosen]) / len(asked) ** 0.5
        attention = np.exp(logits - logits.max())
        attention /= attention.sum()
        told = sum(a * linear(weights["value"], values[i]) for a, i in zip(attention, chosen, strict=True))
        found.append(linear(weights["out"], told))
    return np.array(found)


def doubt(rgb: Array, bank: Array) -> Array:
    """One minus the largest cosine to a bank."""
    return 1 - (unit(rgb) @ unit(bank).T).max(1)
