"""Pieces that methods in PyTorch share: our parameters as modules, layers that read them, the mining loss, training.

Modalities come first, (2, batch, ..., c), so that both share every operation. A layer's weights either have that axis,
too, or serve both modalities.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Weighted(torch.autograd.Function):
    """The input itself; its gradient is multiplied by a weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # noqa: D102
        ctx.save_for_backward(weight)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:  # noqa: D102
        return gradients[0] * ctx.saved_tensors[0], None


def project(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer of all rows, (..., c) by (c, d), or of each modality by its own, (2, ..., c) by (2, c, d)."""
    if weight.ndim == 2:
        return functional.linear(x, weight.mT, bias)
    flat = x.flatten(1, -2)
    product = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias[:, None], flat, weight)
    return product.unflatten(1, x.shape[1:-1])


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length one; zero rows stay zero."""
    return functional.normalize(x, dim=-1, eps=1e-6)


def as_module(tree: Mapping[str, Any]) -> Any:
    """Nested modules with the names, shapes and values of our parameters."""
    module = nn.Module()
    for name, value in tree.items():
        if isinstance(value, Mapping):
            module.add_module(name, as_module(value))
        else:
            module.register_parameter(name, nn.Parameter(torch.tensor(np.asarray(value))))
    return module


def dense(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A dense layer with or without bias."""
    return project(x, layer.kernel, getattr(layer, "bias", None))


def soft_mining(features: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    """Soft mining loss, the mean of both modalities or all layer groups, (2, batch, n, c) each."""
    with torch.no_grad():
        distance = 1 - functional.cosine_similarity(features, rebuilt, dim=-1)
        weight = (distance / distance.mean(dim=(1, 2), keepdim=True)) ** 3
    rebuilt = Weighted.apply(rebuilt, weight[..., None])
    return (1 - functional.cosine_similarity(features.flatten(2), rebuilt.flatten(2), dim=-1)).mean()


def train(
    model: Any, batches: Iterable[torch.Tensor], learning_rate: float, loss: Callable | None = None
) -> list[float]:
    """Trains one run with Adam on batches in their order, and returns the losses.

    Args:
      model: the model; `groups` of it, where it has them, are parameters with learning rates of their own.
      batches: features of each step, modalities first.
      learning_rate: of Adam; all else is PyTorch's and optax's default.
      loss: the model's loss where it is not `model.loss` itself but its compiled form.
    """
    groups = model.groups(learning_rate) if hasattr(model, "groups") else model.parameters()
    optimizer = torch.optim.Adam(groups, learning_rate, fused=True)
    losses = []
    for features in batches:
        optimizer.zero_grad()
        value = (loss or model.loss)(features)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses
