"""PatchCore in PyTorch, for comparison: greedy coreset and nearest rows by cosine distance, one run at a time."""

import math

import torch


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length one."""
    return torch.nn.functional.normalize(x, dim=-1)


def coreset(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Indices of the greedy k-centre coreset of rows (N, c), the first one farthest from the mean."""
    nearest = ((rows - rows.mean(0)) ** 2).sum(-1)
    chosen = []
    for _ in range(math.ceil(share * len(rows))):
        farthest = nearest.argmax()
        chosen.append(farthest)
        apart = ((rows - rows[farthest]) ** 2).sum(-1)
        # The distances to the mean choose the first row only.
        nearest = apart if len(chosen) == 1 else torch.minimum(nearest, apart)
    return torch.stack(chosen)


def distances(bank: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Cosine distances of patches (..., n, c) to the nearest row of a bank (N, c), both of unit rows."""
    return 1.0 - (patches @ bank.T).amax(-1)
