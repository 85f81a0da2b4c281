"""Planes of tokens and prototypes: principal components, t-SNE, and moves between tokens before and after."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.paper.tokens import Traced
from pirn_jax.report import plots

_MOVES = 150
"""Tokens of each kind whose moves are drawn (our choice)."""


def embed(rows: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n 2"]:
    """t-SNE, from the principal components on and with a fixed seed."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)


def moves(traced: Traced, modality: int, title: str, chosen: Sequence[int]) -> plots.Moves:
    """Moves of a modality's tokens, in the plane of most variance of tokens before, after, and prototypes.

    Args:
      traced: tokens of a category.
      modality: 0 for RGB, 1 for geometry.
      title: above the plane.
      chosen: samples whose tokens are drawn; all, if there are none.
    """
    from sklearn.decomposition import PCA

    kept = np.isin(np.arange(len(traced.records)), list(chosen)) | (not len(chosen))
    rng, ends = np.random.default_rng(0), []
    for of in (traced.normal & kept[:, None], traced.anomalous & kept[:, None]):
        places = np.argwhere(of)
        some = places[rng.permutation(len(places))[:_MOVES]].T
        ends.append((traced.before[:, modality][*some], traced.after[:, modality][*some]))
    prototypes = traced.prototypes[kept][:, 1, modality].mean(0)
    plane = PCA(2).fit(np.concatenate([rows for pair in ends for rows in pair] + [prototypes]))

    def flat(rows: np.ndarray) -> np.ndarray:
        return plane.transform(rows) if len(rows) else np.zeros((0, 2))

    (before, after), (before_anomalous, after_anomalous) = ends
    shown = traced.shown[:, None, :]
    means = np.mean(traced.lengths, axis=-1, where=shown)[:, modality]
    defective = np.array([record.defective for record in traced.records])
    lengths = plots.Scores("", means[~defective], means[defective])
    starts, stops = (flat(before), flat(before_anomalous)), (flat(after), flat(after_anomalous))
    return plots.Moves(title, flat(prototypes), starts, stops, lengths)
