"""Methods and their evaluation once more: float64 NumPy, plain loops, nothing shared with the library.

Equation numbers are those of the PIRN paper, unless PatchCore's is named; A.5 to A.8 and "line" are the equations and
Algorithm 1 of its appendix. One sample at a time: n patches, k prototypes, c channels. The cosine of a zero vector is
undefined and left so.
"""

from typing import Any

import numpy as np

Array = np.ndarray


def float64(nest) -> Any:
    """Every array of nested dicts, lists and tuples, as float64 NumPy."""
    if isinstance(nest, dict):
        return {name: float64(value) for name, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        return [float64(value) for value in nest]
    return np.asarray(nest, dtype=np.float64)


def sigmoid(x: Array) -> Array:
    """Logistic function, written with tanh so that no argument overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def log_sum_exp(x: Array) -> float:
    """Logarithm of the sum of the exponentials of a vector, shifted by its maximum."""
    top = np.max(x)
    return float(top + np.log(np.sum(np.exp(x - top))))


def softmax(x: Array) -> Array:
    """Softmax of a vector."""
    return np.exp(x - log_sum_exp(x))


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between two arrays read as vectors."""
    a, b = float64(a).ravel(), float64(b).ravel()
    return float(np.sum(a * b) / (np.sqrt(np.sum(a * a)) * np.sqrt(np.sum(b * b))))


def cosine_cost(z: Array, p: Array) -> Array:
    """Cost (n, k) of Eq. 1: one minus the cosine of every patch and prototype."""
    return np.array([[1.0 - cosine(z_n, p_k) for p_k in p] for z_n in z])


def sinkhorn(cost: Array, epsilon: float, iterations: int) -> Array:
    """Plan (n, k) of Eq. 1 with entropy epsilon: column potential first, then row, so that rows sum to 1/n exactly."""
    cost = float64(cost)
    n, k = cost.shape
    f, g = np.zeros(n), np.zeros(k)
    for _ in range(iterations):
        for j in range(k):
            g[j] = -epsilon * np.log(k) - epsilon * log_sum_exp((f - cost[:, j]) / epsilon)
        for i in range(n):
            f[i] = -epsilon * np.log(n) - epsilon * log_sum_exp((g - cost[i]) / epsilon)
    return np.array([[np.exp((f[i] + g[j] - cost[i, j]) / epsilon) for j in range(k)] for i in range(n)])


def softmax_plan(cost: Array, epsilon: float) -> Array:
    """Plan (n, k) of the softmax ablation of BPA: rows sum to 1/n, columns are free."""
    return np.array([softmax(-row / epsilon) / len(cost) for row in float64(cost)])


def sigmoid_plan(cost: Array, epsilon: float) -> Array:
    """Plan (n, k) of sigmoid attention with the bias -log k, every row divided by its sum and by n."""
    n, k = np.shape(cost)
    weights = sigmoid((1.0 - float64(cost)) / epsilon - np.log(k))
    return np.array([row / np.sum(row) / n for row in weights])


def linear_plan(z: Array, p: Array) -> Array:
    """Plan (n, k) of linear attention: inner products of elu + 1 of rows of unit mean square, rows divided as above."""

    def feature(x: Array) -> Array:
        x = x / np.sqrt(np.mean(x * x))
        return np.where(x > 0, x + 1.0, np.exp(np.minimum(x, 0.0)))

    z, p = float64((z, p))
    weights = np.array([[np.sum(feature(z_n) * feature(p_k)) for p_k in p] for z_n in z])
    return np.array([row / np.sum(row) / len(z) for row in weights])


def nearest_plan(cost: Array, count: int) -> Array:
    """Weights (n, k) of top-k averaging: the same for the patches nearest to each prototype, none for all others."""
    n, k = np.shape(cost)
    plan = np.zeros((n, k))
    for j in range(k):
        chosen = sorted(range(n), key=lambda i: cost[i][j])[:count]
        plan[chosen, j] = 1.0 / len(chosen) / k
    return plan


def contexts(plan: Array, z: Array) -> Array:
    """Contexts (k, c) of Eq. 3: for each prototype the mean of the patches, weighted by its column of the plan."""
    plan, z = float64((plan, z))
    n, k = plan.shape
    out = np.zeros((k, z.shape[1]))
    for j in range(k):
        total = 0.0
        for i in range(n):
            out[j] += plan[i, j] * z[i]
            total += plan[i, j]
        out[j] /= total
    return out


def gru(weights: dict, p: Array, c: Array) -> Array:
    """Refined prototypes (k, c) of Eqs. A.5 to A.8: reset before the matrix product, the update gate keeps the old."""
    weights, p, c = float64((weights, p, c))
    out = np.zeros(p.shape)
    for j in range(len(p)):
        both = np.concatenate([p[j], c[j]])
        update = sigmoid(both @ weights["update"] + weights["update_bias"])
        reset = sigmoid(both @ weights["reset"] + weights["reset_bias"])
        kept = np.concatenate([reset * p[j], c[j]])
        candidate = np.tanh(kept @ weights["candidate"] + weights["candidate_bias"])
        out[j] = update * p[j] + (1.0 - update) * candidate
    return out


def reconstruct(plan: Array, p: Array, scale: str) -> Array:
    """Tokens (n, c) of Eq. 2, from the plan with "rows" summing to one or from the "literal" plan."""
    if scale not in ("rows", "literal"):
        raise ValueError(f"unknown scale {scale!r}: expected 'rows' or 'literal'")
    plan, p = float64((plan, p))
    out = np.zeros((len(plan), p.shape[1]))
    for i, row in enumerate(plan):
        for j, p_j in enumerate(p):
            out[i] += row[j] * p_j
        if scale == "rows":
            out[i] /= np.sum(row)
    return out


def knn_edges(p_a: Array, p_b: Array, k_neighbours: int, self_edges: bool = True) -> list[tuple[int, int]]:
    """Edges (sender, receiver) of Section 3.4: each node hears its nearest of the other modality, and maybe itself."""
    k_a, k_b = len(p_a), len(p_b)
    nodes = [p / np.sqrt(np.sum(p * p)) for p in np.concatenate(float64((p_a, p_b)))]
    edges = []
    for receiver in range(k_a + k_b):
        others = range(k_a, k_a + k_b) if receiver < k_a else range(k_a)
        ranked = sorted((-np.sum(nodes[receiver] * nodes[sender]), sender) for sender in others)
        edges += [(sender, receiver) for _, sender in ranked[:k_neighbours]]
        edges += [(receiver, receiver)] if self_edges else []
    return edges


def gat(weights: dict, nodes: Array, edges: list[tuple[int, int]], heads: int) -> Array:
    """Messages (nodes, c) of one graph attention layer (Velickovic et al., Eqs. 1 to 5): ELU, heads concatenated."""
    weights, nodes = float64((weights, nodes))
    count, c = nodes.shape
    h = (nodes @ weights["kernel"]).reshape(count, heads, c // heads)
    out = np.zeros(h.shape)
    for receiver in range(count):
        senders = [s for s, r in edges if r == receiver]
        for head in range(heads):
            own = np.sum(weights["receiver"][head] * h[receiver, head])
            logits = np.array([np.sum(weights["sender"][head] * h[s, head]) + own for s in senders])
            attention = softmax(np.where(logits > 0, logits, 0.2 * logits))
            for weight, s in zip(attention, senders, strict=True):
                out[receiver, head] += weight * h[s, head]
    return np.where(out > 0, out, np.expm1(np.minimum(out, 0.0))).reshape(count, c)


def align(weights: dict, p_a: Array, p_b: Array, settings: dict) -> tuple[Array, Array]:
    """Aligned prototypes of both modalities (line 15): each prototype's message, added to it or in its place."""
    nodes = np.concatenate(float64((p_a, p_b)))
    edges = knn_edges(p_a, p_b, settings["neighbours"], settings["gat_self_edges"])
    aligned = gat(weights, nodes, edges, settings["heads"])
    if settings["gat_residual"]:
        aligned = nodes + aligned
    return aligned[: len(p_a)], aligned[len(p_a) :]


def cross_attention(weights: dict, z: Array, p: Array) -> Array:
    """Attention (n, c) of Eq. 4, one head: patches ask, the other modality's prototypes answer."""
    weights, z, p = float64((weights, z, p))
    keys, values = p @ weights["key"], p @ weights["value"]
    out = np.zeros((len(z), values.shape[1]))
    for i, z_i in enumerate(z):
        query = z_i @ weights["query"]
        attention = softmax(np.array([np.sum(query * key) for key in keys]) / np.sqrt(z.shape[1]))
        for weight, value in zip(attention, values, strict=True):
            out[i] += weight * value
    return out


def inject(weights: dict, gamma: float, z: Array, z_bpa: Array, p_other: Array, injection: str) -> Array:
    """Tokens Z_mnc (n, c) of Eq. 5 ("paper"), without the token itself ("query_only") or with a part of it."""
    z, z_bpa = float64((z, z_bpa))
    purified = z * sigmoid(z_bpa)
    gated = np.tanh(float64(gamma)) * cross_attention(weights, purified, p_other)
    if injection in ("paper", "stop_gradient", "dropout"):
        return purified + gated
    if injection == "bottleneck":
        return purified @ float64(weights["down"]) @ float64(weights["up"]) + gated
    if injection == "query_only":
        return gated
    raise ValueError(f"unknown injection {injection!r}")


def refine(weights: dict, z: Array, p: Array, settings: dict) -> Array:
    """Prototypes (k, c) after APR (lines 8 to 10) of one modality, with contexts by transport or as in Table 4."""
    if settings["contexts"] == "mean":
        plan = np.ones((len(z), len(p)))
    elif settings["contexts"] == "nearest":
        plan = nearest_plan(cosine_cost(z, p), settings["context_patches"])
    else:
        plan = sinkhorn(cosine_cost(z, p), settings["epsilon"], settings["iterations"])
    return gru(weights, p, contexts(plan, z))


def assign(z: Array, p: Array, settings: dict) -> Array:
    """Tokens Z_bpa (n, c) after BPA (lines 12 and 13) of one modality."""
    cost = cosine_cost(z, p)
    if settings["assignment"] == "transport":
        plan = sinkhorn(cost, settings["epsilon"], settings["iterations"])
    elif settings["assignment"] == "softmax":
        plan = softmax_plan(cost, settings["epsilon"])
    elif settings["assignment"] == "sigmoid":
        plan = sigmoid_plan(cost, settings["epsilon"])
    elif settings["assignment"] == "linear":
        plan = linear_plan(z, p)
    else:
        raise ValueError(f"unknown assignment {settings['assignment']!r}")
    return reconstruct(plan, p, settings["plan_scale"])


def decoder_layer(weights: dict, z_pair, p_pair, settings: dict) -> tuple[list[Array], list[Array]]:
    """Reconstructions and refined, not yet aligned, prototypes of both modalities after lines 7 to 21."""
    z_pair, refined = float64((z_pair, p_pair))
    if settings["apr"]:
        refined = [refine(weights["gru"][m], z_pair[m], refined[m], settings) for m in range(2)]
    z_bpa = [assign(z_pair[m], refined[m], settings) for m in range(2)]
    if not settings["mnc"]:
        return z_bpa, refined
    aligned = align(weights["gat"], refined[0], refined[1], settings)
    z_rec = []
    for m in range(2):
        attention, gamma = weights["attention"][m], weights["gamma"][m]
        z_rec.append(z_bpa[m] + inject(attention, gamma, z_pair[m], z_bpa[m], aligned[1 - m], settings["injection"]))
    return z_rec, refined


def decoder(layers: list[dict], z_pair, p_pair, settings: dict) -> list[Array]:
    """Reconstructions of both modalities after the cascade (lines 6 to 22); a layer may have prototypes of its own."""
    for weights in layers:
        z_pair, p_pair = decoder_layer(weights, z_pair, weights.get("prototypes", p_pair), settings)
    return float64(z_pair)


def patch_distances(e: Array, z_rec: Array) -> Array:
    """Anomaly scores (n,) of line 23: one minus the cosine of each patch and its reconstruction."""
    return np.array([1.0 - cosine(e_n, z_n) for e_n, z_n in zip(e, z_rec, strict=True)])


def soft_mining_loss(e: Array, rec: Array, exponent: float = 3) -> float:
    """Value of INP-Former's loss: one minus the cosine of a whole (n, c) map, averaged over all leading axes.

    The exponent shapes the gradient alone (`soft_mining_weights`): the value does not depend on it.
    """
    e, rec = np.asarray(e, np.float64), np.asarray(rec, np.float64)
    return float(np.mean([1.0 - cosine(e[index], rec[index]) for index in np.ndindex(e.shape[:-2])]))


def soft_mining_weights(e: Array, rec: Array, exponent: float = 3) -> Array:
    """Gradient weights (..., n) of INP-Former's loss for one modality: (d / mean d) to a power, mean over all of d."""
    e, rec = np.asarray(e, np.float64), np.asarray(rec, np.float64)
    d = np.zeros(e.shape[:-1])
    for index in np.ndindex(d.shape):
        d[index] = 1.0 - cosine(e[index], rec[index])
    return (d / np.mean(d)) ** exponent


def coreset(rows: Array, share: float) -> list[int]:
    """Indices of PatchCore's coreset (its Algorithm 1): farthest from the mean, then from those chosen."""
    rows = float64(rows)
    chosen = [int(np.argmax([np.sum((row - rows.mean(0)) ** 2) for row in rows]))]
    while len(chosen) < np.ceil(share * len(rows)):
        chosen.append(int(np.argmax([min(np.sum((row - rows[i]) ** 2) for i in chosen) for row in rows])))
    return chosen


def reaches(rows: Array, samples: Array) -> Array:
    """Reach of each row: squared distance to the nearest row of another sample, and three times their mean."""
    rows = float64(rows)
    others = [rows[samples != sample] for sample in samples]
    apart = np.array([np.sum((row - of) ** 2, -1).min() for row, of in zip(rows, others, strict=True)])
    return apart + 3.0 * apart.mean()


def bank_distances(x: Array, bank: Array, distance: str, neighbours: int, reach: Array) -> Array:
    """Distances (n,) of patches to a bank: the mean over the nearest rows, in units of their reach."""
    x, bank = float64((x, bank))
    apart = {
        "cosine": lambda a, b, unit: (1.0 - cosine(a, b)) / unit,
        "euclidean": lambda a, b, unit: np.sqrt(np.sum((a - b) ** 2) / unit),
    }[distance]
    ranked = [sorted(apart(patch, row, unit) for row, unit in zip(bank, reach, strict=True)) for patch in x]
    return np.array([np.mean(of[:neighbours]) for of in ranked])


def bank_weight(patch: Array, bank: Array, neighbours: int) -> float:
    """PatchCore's weight of the image score (its Eq. 7) for the patch that is farthest from the bank."""
    patch, bank = float64((patch, bank))
    apart = lambda a, b: np.sqrt(np.sum((a - b) ** 2))  # noqa: E731
    nearest = bank[np.argmin([apart(patch, row) for row in bank])]
    around = sorted(bank, key=lambda row: apart(nearest, row))[:neighbours]
    return float(1.0 - np.exp(apart(patch, nearest)) / np.sum([np.exp(apart(patch, row)) for row in around]))


def auroc(scores: Array, labels: Array) -> float:
    """Share of (anomalous, normal) pairs in which the anomalous one scores higher, ties counting one half."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    if labels.all() or not labels.any():
        raise ValueError("AUROC needs both normal and anomalous labels")
    wins = [(s > t) + 0.5 * (s == t) for s in scores[labels] for t in scores[~labels]]
    return float(np.mean(wins))


def components(mask: Array) -> Array:
    """Labels 1, 2, ... in raster order of the 8-connected components of a mask, 0 outside."""
    height, width = np.shape(mask)
    labels = np.zeros((height, width), dtype=int)
    count = 0
    for start in np.argwhere(mask):
        if labels[tuple(start)]:
            continue
        count += 1
        stack = [tuple(start)]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < height and 0 <= x < width
            if inside and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


def aupro(maps, masks, limit: float = 0.3) -> float:
    """Area under the per-region overlap against the false-positive rate up to a limit, over the limit; exact."""
    maps, masks = [float64(m) for m in maps], [np.asarray(m) > 0 for m in masks]
    normal_scores = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labels = components(mask)
        regions += [scores[labels == label] for label in range(1, labels.max() + 1)]
    if not regions or not len(normal_scores):
        raise ValueError("AUPRO needs a defect region and a normal pixel")
    area, fpr, pro = 0.0, 0.0, 0.0
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        next_fpr = np.mean(normal_scores >= threshold)
        next_pro = np.mean([np.mean(region >= threshold) for region in regions])
        if next_fpr > limit:
            at_limit = pro + (next_pro - pro) * (limit - fpr) / (next_fpr - fpr)
            area += (limit - fpr) * (pro + at_limit) / 2
            break
        area += (next_fpr - fpr) * (pro + next_pro) / 2
        fpr, pro = next_fpr, next_pro
    return float(area / limit)


def average_precision(scores: Array, labels: Array) -> float:
    """Precision at every distinct threshold, weighted by the recall that it adds."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    total, recall = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        marked = scores >= threshold
        next_recall = np.sum(marked & labels) / np.sum(labels)
        total += (next_recall - recall) * np.sum(marked & labels) / np.sum(marked)
        recall = next_recall
    return float(total)


def f1_max(scores: Array, labels: Array) -> tuple[float, float]:
    """Largest harmonic mean of precision and recall over all thresholds, and the highest threshold that has it."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    best, at = -1.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        marked = scores >= threshold
        hits = np.sum(marked & labels)
        f1 = 2.0 * hits / (np.sum(marked) + np.sum(labels))
        if f1 > best:
            best, at = f1, threshold
    return float(best), float(at)


def peer_aupro(maps, masks, limit: float, steps: int = 100) -> float:
    """AUPRO of public codes: the curve's points are those at 100 good pixels, equidistant in rank, and (1, 1)."""
    maps, masks = [float64(m) for m in maps], [np.asarray(m) > 0 for m in masks]
    normal_scores = sorted(np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)]).tolist())
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labels = components(mask)
        regions += [scores[labels == label] for label in range(1, labels.max() + 1)]
    points = [(1.0, 1.0)]
    for rank in np.linspace(0, len(normal_scores) - 1, steps, dtype=int):
        false = (len(normal_scores) - 1 - rank) / len(normal_scores)
        points.append((false, float(np.mean([np.mean(region > normal_scores[rank]) for region in regions]))))
    area = 0.0
    for (x1, y1), (x0, y0) in zip(points, points[1:], strict=False):
        if x1 > limit > x0:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return float(area / limit)


def normal(points: Array) -> Array:
    """Unit normal of the plane of best fit to (m, 3) points, on the side of their mean that faces the origin."""
    points = float64(points)
    centre = np.mean(points, axis=0)
    direction = np.linalg.svd(points - centre)[2][2]
    return -direction if np.sum(direction * centre) > 0 else direction


def bilinear_weights(size_out: int, size_in: int) -> Array:
    """Matrix (size_out, size_in) of bilinear interpolation: pixel centres at one half, edges clamped, no antialias."""
    out = np.zeros((size_out, size_in))
    for i in range(size_out):
        position = (i + 0.5) * size_in / size_out - 0.5
        low = int(np.floor(position))
        for index, weight in ((low, low + 1 - position), (low + 1, position - low)):
            out[i, min(max(index, 0), size_in - 1)] += weight
    return out


def gaussian_weights(size: int, sigma: float, truncate: float = 4.0) -> Array:
    """Matrix (size, size) of Gaussian smoothing, the signal mirrored at its edges (d c b a | a b c d | d c b a)."""
    radius = int(truncate * sigma + 0.5)
    kernel = np.array([np.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)])
    kernel /= np.sum(kernel)
    out = np.zeros((size, size))
    for i in range(size):
        for offset in range(-radius, radius + 1):
            index = (i + offset) % (2 * size)
            out[i, min(index, 2 * size - 1 - index)] += kernel[offset + radius]
    return out


def conditional_distances(good: Array, x: Array, shrinkage: float, ridge: float) -> Array:
    """Mahalanobis distances (m, n) of patches `x` (m, n, c), by regression of each modality on the others.

    `good` are patches of good parts (N, m, c).
    """
    count, modalities, channels = good.shape
    shown = float64(good).reshape(count, -1)
    covariance = np.cov(shown.T, bias=True)
    variance = np.diag(covariance)
    covariance = (1 - shrinkage) * covariance + np.diag(shrinkage * variance + ridge * variance.mean())
    apart = np.moveaxis(float64(x), 0, 1).reshape(x.shape[1], -1) - shown.mean(0)
    found = []
    for i in range(modalities):
        own = np.arange(modalities * channels) // channels == i
        slope = np.linalg.solve(covariance[np.ix_(~own, ~own)], covariance[np.ix_(~own, own)])
        left = apart[:, own] - apart[:, ~own] @ slope
        spread = covariance[np.ix_(own, own)] - covariance[np.ix_(own, ~own)] @ slope
        found.append(np.sqrt((left * np.linalg.solve(spread, left.T).T).sum(1) / channels))
    return np.array(found)
