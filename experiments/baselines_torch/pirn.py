"""PIRN in PyTorch, with the names and shapes of our parameters: the reference for speed, and a second opinion in tests.

One model at a time, batched over the parts of a step, as a user of PyTorch trains it. Modalities come first,
(2, batch, n, c), so that both share every operation; that is faster than two modules side by side. Equations are
those of the paper, in the forms that PyTorch has ready: attention is `scaled_dot_product_attention`, the graph a mask.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.baselines_torch.dinov2 import TorchViT
from experiments.baselines_torch.layers import project, soft_mining
from pirn_jax.methods.pirn import Config

_OPTIONS = {
    "num_prototypes", "num_layers", "epsilon", "sinkhorn_iterations", "assignment", "plan_scale", "apr", "mnc",
    "injection", "neighbours", "heads", "score",
}  # fmt: skip


class TransportPlan(torch.autograd.Function):
    """Balanced plan by log-domain Sinkhorn, with the implicit gradient of `pirn_jax.methods.pirn.bpa.transport_plan`.

    Unrolled by autograd the iterations would cost several times as much, and give another gradient wherever the
    columns have not converged.
    """

    @staticmethod
    def forward(ctx: Any, cost: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:  # noqa: D102
        n, k = cost.shape[-2:]
        scores = cost / -epsilon
        rows = scores.new_zeros(())
        columns = scores.new_zeros(())
        for _ in range(iterations):
            columns = -math.log(k) - torch.logsumexp(scores + rows, dim=-2, keepdim=True)
            rows = -math.log(n) - torch.logsumexp(scores + columns, dim=-1, keepdim=True)
        plan = torch.exp(scores + rows + columns)
        ctx.save_for_backward(plan)
        ctx.epsilon = epsilon
        return plan

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:  # noqa: D102
        (plan,) = ctx.saved_tensors
        rows, columns = plan.sum(-1, keepdim=True), plan.sum(-2)
        moved = plan * gradients[0]
        by_row, by_column = moved.sum(-1, keepdim=True), moved.sum(-2).unsqueeze(-1)
        share = (plan / rows).mT
        ridge = 100 * torch.finfo(plan.dtype).eps * columns.mean(-1, keepdim=True)
        schur = torch.diag_embed(columns + ridge) - share @ plan
        beta = torch.linalg.solve(schur, by_column - share @ by_row)
        alpha = (by_row - plan @ beta) / rows
        return (plan * (alpha + beta.mT) - moved) / ctx.epsilon, None, None


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


class Refinement(nn.Module):
    """Adaptive prototype refinement, Eqs. 5-8 of the appendix."""

    def __init__(self, channels: int):
        super().__init__()
        self.update, self.reset, self.candidate = (_empty(2, 2 * channels, channels) for _ in range(3))
        self.update_bias, self.reset_bias, self.candidate_bias = (_empty(2, channels) for _ in range(3))

    def forward(self, p, context):  # noqa: D102
        joined = torch.cat([p, context], dim=-1)
        update = torch.sigmoid(project(joined, self.update, self.update_bias))
        reset = torch.sigmoid(project(joined, self.reset, self.reset_bias))
        renewed = torch.cat([reset * p, context], dim=-1)
        candidate = torch.tanh(project(renewed, self.candidate, self.candidate_bias))
        return update * p + (1 - update) * candidate


class Alignment(nn.Module):
    """Graph attention between the prototypes of both modalities, as dense attention under a mask of the edges."""

    def __init__(self, channels: int, heads: int, neighbours: int):
        super().__init__()
        self.neighbours = neighbours
        self.kernel = _empty(channels, channels)
        self.sender, self.receiver = (_empty(heads, channels // heads) for _ in range(2))

    def edges(self, p):
        """Who hears whom, (batch, 2k, 2k) with receivers as rows."""
        first, second = functional.normalize(p.detach(), dim=-1)
        similarity = first @ second.mT
        none = torch.zeros_like(similarity, dtype=torch.bool)
        heard = [none.scatter(-1, s.topk(self.neighbours, dim=-1).indices, True) for s in (similarity, similarity.mT)]
        own = torch.eye(p.shape[2], dtype=torch.bool, device=p.device).expand_as(none)
        return torch.cat([torch.cat([own, heard[0]], dim=-1), torch.cat([heard[1], own], dim=-1)], dim=-2)

    def forward(self, p):  # noqa: D102
        nodes = p.transpose(0, 1).flatten(1, 2)
        h = (nodes @ self.kernel).unflatten(-1, self.sender.shape)
        sent, received = (torch.einsum("bmhd,hd->bhm", h, vector) for vector in (self.sender, self.receiver))
        logits = functional.leaky_relu(received[..., :, None] + sent[..., None, :], 0.2)
        attention = logits.masked_fill(~self.edges(p)[:, None], -math.inf).softmax(-1)
        messages = functional.elu(attention @ h.transpose(1, 2)).transpose(1, 2).flatten(2)
        return p + messages.unflatten(1, (2, -1)).transpose(0, 1)


class Injection(nn.Module):
    """Gated cross-attention to the prototypes of the other modality, Eqs. 4-5."""

    def __init__(self, channels: int, form: str):
        super().__init__()
        self.form = form
        self.query, self.key, self.value = (_empty(2, channels, channels) for _ in range(3))
        self.gamma = _empty(2)

    def forward(self, z, z_bpa, p_other):  # noqa: D102
        purified = z * torch.sigmoid(z_bpa)
        query, key, value = project(purified, self.query), project(p_other, self.key), project(p_other, self.value)
        heard = functional.scaled_dot_product_attention(query, key, value)
        injected = torch.tanh(self.gamma)[:, None, None, None] * heard
        return purified + injected if self.form == "paper" else injected


class Layer(nn.Module):
    """APR, BPA, MNC and fusion, lines 7-21 of Algorithm 1."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        self.config = config
        if config.apr:
            self.refine = Refinement(channels)
        if config.mnc:
            self.align = Alignment(channels, config.heads, config.neighbours)
            self.inject = Injection(channels, config.injection)

    def plan(self, directions, p, assignment):
        """Plan (2, batch, n, k) between patches of length one and prototypes."""
        cost = 1 - directions @ functional.normalize(p, dim=-1).mT
        if assignment == "softmax":
            return torch.softmax(cost / -self.config.epsilon, dim=-1) / cost.shape[-2]
        return TransportPlan.apply(cost, self.config.epsilon, self.config.sinkhorn_iterations)

    def forward(self, z, p):  # noqa: D102
        directions = functional.normalize(z, dim=-1)
        if self.config.apr:
            plan = self.plan(directions, p, "transport")
            p = self.refine(p, plan.mT @ z / plan.sum(-2)[..., None])
        plan = self.plan(directions, p, self.config.assignment)
        if self.config.plan_scale == "rows":
            plan = plan / plan.sum(-1, keepdim=True)
        z_bpa = plan @ p
        if not self.config.mnc:
            return z_bpa, p
        return z_bpa + self.inject(z, z_bpa, self.align(p).flip(0)), p


class Decoder(nn.Module):
    """Layers in cascade around one set of prototypes for each modality."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        self.prototypes = _empty(2, config.num_prototypes, channels)
        for index in range(config.num_layers):
            self.add_module(f"layer_{index}", Layer(config, channels))

    def forward(self, z):  # noqa: D102
        p = self.prototypes[:, None].expand(-1, z.shape[1], -1, -1)
        for layer in self.children():
            z, p = layer(z, p)
        return z


class Pirn(nn.Module):
    """The method; its parameters are uninitialised until `load` fills them."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        for field in dataclasses.fields(config):
            if field.name not in _OPTIONS and getattr(config, field.name) != field.default:
                raise ValueError(f"PIRN in PyTorch has no {field.name}; leave it at {field.default!r}")
        if config.score != "cosine":
            raise ValueError(f"PIRN in PyTorch has no score {config.score!r}; take 'cosine'")
        if config.injection not in ("query_only", "paper"):
            raise ValueError(f"PIRN in PyTorch has no injection {config.injection!r}; take 'query_only' or 'paper'")
        self.scale = nn.Buffer(torch.empty(2))
        self.decoder = Decoder(config, channels)

    def forward(self, features):
        """Rebuilt patches in units of `scale`, for features (2, batch, n, c)."""
        return self.decoder(features / self.scale[:, None, None, None])

    def distances(self, features):
        """Patch distances (2, batch, n)."""
        return 1 - functional.cosine_similarity(features, self(features), dim=-1)

    def loss(self, features):
        """Soft mining loss, the mean of both modalities."""
        return soft_mining(features, self(features))


def load(config: Config, params: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Pirn:
    """The model with our parameters of one run, `(learned, fixed)`, in their precision.

    Raises:
      ValueError: if the config has an option that this model lacks.
      RuntimeError: by PyTorch, naming the parameters, if they are not those of the config.
    """
    learned, fixed = params
    # Epsilon is a number of the config here.
    own = {"decoder": learned, "scale": fixed["scale"]}
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in _flat(own)}
    prototypes = tensors["decoder.prototypes"]
    model = Pirn(config, prototypes.shape[-1]).to(prototypes.dtype)
    model.load_state_dict(tensors)
    return model


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@torch.no_grad()
def encode(encoder: TorchViT, images: torch.Tensor, first: int = 2) -> torch.Tensor:
    """Features (2, batch, n, c) of images (2, batch, 3, h, w): patch tokens, mean over the blocks from `first` on.

    Args:
      encoder: as deep as the last block that counts.
      images: both modalities.
      first: first block that counts, from 1.
    """
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        kept.append(output)

    hooks = [block.register_forward_hook(keep) for block in encoder.blocks[first - 1 :]]
    encoder(images.flatten(0, 1))
    for hook in hooks:
        hook.remove()
    start = 1 + encoder.form.registers
    return torch.stack(kept).mean(0)[:, start:].unflatten(0, images.shape[:2])
