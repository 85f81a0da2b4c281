"""UIP-AD in plain NumPy, float64: its equations row by row, from our parameters."""

from typing import Any

import numpy as np

Array = np.ndarray


def unit(x: Array) -> Array:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def gelu(x: Array) -> Array:
    """The tanh form of GELU."""
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def norm(weights: dict, x: Array) -> Array:
    """Layer norm."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weights["scale"] + weights["bias"]


def mlp(weights: dict, x: Array) -> Array:
    """Two layers with GELU between."""
    hidden = gelu(x @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"])
    return hidden @ weights["Dense_1"]["kernel"] + weights["Dense_1"]["bias"]


def attention(weights: dict, x: Array, other: Array, form: str) -> Array:
    """Multi-head attention, head by head."""
    heads = weights["query"]["kernel"].shape[1]
    found = np.zeros((len(x), weights["out"]["kernel"].shape[-1])) + weights["out"]["bias"]
    for h in range(heads):
        query, key, value = (
            of @ weights[name]["kernel"][:, h] + weights[name]["bias"][h]
            for name, of in (("query", x), ("key", other), ("value", other))
        )
        if form == "relu":
            share = np.maximum(weights["scale"][h] * (unit(query) @ unit(key).T), 0)
        else:
            share = softmax(query @ key.T / query.shape[1] ** 0.5)
        found += share @ value @ weights["out"]["kernel"][h]
    return found


def unify(weights: dict, x: Array) -> Array:
    """Mean of both modalities and an MLP of both."""
    return x.mean(0) + mlp(weights["MLP_0"], np.concatenate([x[0], x[1]], axis=-1))


def network(params: Any, x: Array, config: Any) -> tuple[Array, Array, Array, Array]:
    """Maps, rebuilt maps, the unified map and the prototypes of a sample (2, g, n, c) without background."""
    mean = x.mean(1)
    unified = unify(params["unify"], mean)
    own = params["prototypes"]
    p = own["queries"] + attention(
        own["Attention_0"], norm(own["norm"], own["queries"]), norm(own["norm"], unified), "softmax"
    )
    p = first = p + mlp(own["MLP_0"], norm(own["LayerNorm_0"], p))
    decoded, refined, outputs = [mlp(params["bottleneck"], of) for of in mean], [p, p], []
    for number in range(config.num_blocks):
        for m in range(2):
            block = pick(params[f"block_{number}"], m)
            decoded[m], refined[m] = step(block, decoded[m], refined[m], config)
        if not config.separate:
            refined = [(refined[0] + refined[1]) / 2] * 2
        outputs.append(np.stack(decoded))
    groups = x.shape[1]
    each = len(outputs) // groups
    backwards = outputs[::-1]
    rebuilt = [np.mean(backwards[i * each : (i + 1) * each], axis=0) for i in range(groups)]
    maps = np.stack([unify(params["unify"], x[:, i]) for i in range(groups)])
    return maps, np.stack([unify(params["unify"], of) for of in rebuilt]), unified, first


def pick(tree: Any, m: int) -> Any:
    """One modality's parameters."""
    return {k: pick(v, m) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree)[m]


def step(block: dict, x: Array, p: Array, config: Any) -> tuple[Array, Array]:
    """Eqs. 4 and 5 with their FFNs; norms are numbered in the order of their use."""
    norms = iter(range(9))
    next_norm = lambda of: norm(block[f"LayerNorm_{next(norms)}"], of)  # noqa: E731
    normed = next_norm(x)
    if config.ucp:
        found = attention(block["to_prototypes"], normed, next_norm(p), "relu")
    else:
        found = attention(block["to_patches"], normed, normed, "softmax")
    x = x + found if config.residual else found
    if config.ucp and config.cpg:
        asked = next_norm(p)
        p = p + attention(block["refine"], asked, next_norm(x), "softmax")
        p = p + mlp(block["of_prototypes"], next_norm(p))
    return x + mlp(block["of_patches"], next_norm(x)), p


def literal_losses(x: Array, unified: Array, p: Array) -> tuple[float, float]:
    """L_a and L_p as printed, from one-hot vectors and counts."""
    nearest = [(unit(of) @ unit(p).T).argmax(1) for of in (*x, unified)]
    one_hot = np.eye(len(p))
    disagreement = np.abs(one_hot[nearest[0]] - one_hot[nearest[1]]).sum(1).mean()
    share = np.bincount(nearest[2], minlength=len(p)) / len(unified)
    return float(disagreement), float(np.sum(share * np.log(share + 1e-8)))


def total_loss(params: Any, x: Array, config: Any) -> float:
    """Eq. 6 of one sample, L_s by Eq. 8 as printed, soft forms of L_a and L_p, and the gather loss."""
    maps, rebuilt, unified, p = network(params, x, config)
    share = softmax(unit(unified) @ unit(p).T / config.temperature)
    target = share @ p if config.ucp else None
    wanted = [target] * len(maps) if config.ucp else maps
    total = np.mean([1 - np.sum(unit(a) * unit(b), -1).mean() for a, b in zip(wanted, rebuilt, strict=True)])
    if not config.ucp:
        return float(total)
    both = [softmax(unit(of) @ unit(p).T / config.temperature) for of in x.mean(1)]
    total += config.assignment_weight * np.abs(both[0] - both[1]).sum(-1).mean()
    q = share.mean(0)
    total += config.entropy_weight * np.sum(q * np.log(q + 1e-8))
    gather = np.mean([1 - (unit(of) @ unit(p).T).max(1).mean() for of in (unified, *x.mean(1))])
    return float(total + config.gather_weight * gather)
