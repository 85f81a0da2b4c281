"""UIP-AD in PyTorch, with our parameters: the reference for speed, and a second opinion in tests.

One model at a time, batched over the parts of a step; all patches show the part.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from experiments.baselines_torch import layers
from experiments.baselines_torch.layers import project, unit
from pirn_jax.methods.uip_ad import Config


def _mlp(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return layers.dense(layer.Dense_1, functional.gelu(layers.dense(layer.Dense_0, x), approximate="tanh"))


def _norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if layer.scale.ndim == 1:
        return functional.layer_norm(x, x.shape[-1:], layer.scale, layer.bias, 1e-6)
    scale, bias = layer.scale[:, None, None], layer.bias[:, None, None]
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + bias


def _heads(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Projection to heads, (..., heads, rows, d)."""
    found = project(x, layer.kernel.flatten(-2), layer.bias.flatten(-2))
    return found.unflatten(-1, layer.bias.shape[-2:]).transpose(-2, -3)


def _attention(layer: Any, x: torch.Tensor, other: torch.Tensor, form: str) -> torch.Tensor:
    query, key, value = (_heads(part, of) for part, of in ((layer.query, x), (layer.key, other), (layer.value, other)))
    if form == "relu":
        scale = layer.scale.unsqueeze(-4)  # An axis for the batch, where there is one for modalities.
        found = functional.relu(scale * (unit(query) @ unit(key).mT)) @ value
    else:
        found = functional.scaled_dot_product_attention(query, key, value)
    return project(found.transpose(-2, -3).flatten(-2), layer.out.kernel.flatten(-3, -2), layer.out.bias)


class UipAd(nn.Module):
    """The method with the parameters of one run, `(learned, fixed)`, in their precision.

    Raises:
      ValueError: if the config has an option that this model lacks.
    """

    def __init__(self, config: Config, params: tuple[Mapping[str, Any], Mapping[str, Any]]):
        super().__init__()
        lacking = {"ucp": True, "cpg": True, "separate": False, "residual": False, "mining_exponent": 3.0}
        for name, value in {**lacking, "score": "cosine"}.items():
            if getattr(config, name) != value:
                raise ValueError(f"UIP-AD in PyTorch has {name}={value!r} alone")
        learned, fixed = params
        self.config, self.network = config, layers.as_module(learned)
        self.scale = nn.Buffer(torch.tensor(fixed["scale"].tolist()).to(self.network.prototypes.queries.dtype))

    def unify(self, x: torch.Tensor) -> torch.Tensor:
        """Unified map of (2, ..., c)."""
        return x.mean(0) + _mlp(self.network.unify.MLP_0, torch.cat([x[0], x[1]], dim=-1))

    def prototypes(self, unified: torch.Tensor) -> torch.Tensor:
        """Unified prototypes (batch, k, c)."""
        layer = self.network.prototypes
        p = layer.queries.expand(len(unified), -1, -1)
        p = p + _attention(layer.Attention_0, _norm(layer.norm, p), _norm(layer.norm, unified), "softmax")
        return p + _mlp(layer.MLP_0, _norm(layer.LayerNorm_0, p))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unified and rebuilt maps (groups, batch, n, c), the unified mean and the prototypes, of scaled features."""
        mean = x.mean(2)
        unified = self.unify(mean)
        p = self.prototypes(unified)
        decoded, refined, outputs = _mlp(self.network.bottleneck, mean), p.expand(2, -1, -1, -1), []
        for number in range(self.config.num_blocks):
            block = getattr(self.network, f"block_{number}")
            norms = [getattr(block, f"LayerNorm_{i}") for i in range(6)]
            decoded = _attention(block.to_prototypes, _norm(norms[0], decoded), _norm(norms[1], refined), "relu")
            asked, given = _norm(norms[2], refined), _norm(norms[3], decoded)
            refined = refined + _attention(block.refine, asked, given, "softmax")
            refined = refined + _mlp(block.of_prototypes, _norm(norms[4], refined))
            decoded = decoded + _mlp(block.of_patches, _norm(norms[5], decoded))
            refined = refined.mean(0, keepdim=True).expand_as(refined)
            outputs.append(decoded)
        groups = x.shape[2]
        paired = torch.stack(outputs[::-1]).unflatten(0, (groups, -1)).mean(1)
        maps = torch.stack([self.unify(of) for of in x.unbind(2)])
        return maps, torch.stack([self.unify(of) for of in paired]), unified, p

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Patch distances (batch, n) of features (2, batch, groups, n, c)."""
        maps, rebuilt, _, _ = self(self.scaled(features))
        return (1 - functional.cosine_similarity(maps, rebuilt, dim=-1)).mean(0)

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Features in units of their root mean square."""
        return features / self.scale[:, None, None, None, None]

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """Eq. 6 with soft forms of Eqs. 9 and 10, soft mining and the gather loss."""
        config, x = self.config, self.scaled(features)
        maps, rebuilt, unified, p = self(x)
        nearness = unit(unified) @ unit(p).mT
        share = torch.softmax(nearness / config.temperature, dim=-1)
        total = layers.soft_mining((share @ p).detach().expand_as(maps), rebuilt)
        of_both = unit(x.mean(2)) @ unit(p).mT
        soft = torch.softmax(of_both / config.temperature, dim=-1)
        total = total + config.assignment_weight * (soft[0] - soft[1]).abs().sum(-1).mean()
        frequency = share.mean(-2)
        entropy = (frequency * torch.log(frequency + 1e-8)).sum(-1).mean()
        gathered = (1 - torch.cat([nearness[None], of_both]).amax(-1)).mean()
        return total + config.entropy_weight * entropy + config.gather_weight * gathered
