"""CFR in PyTorch, with our parameters and banks: the reference for speed, and a second opinion in tests.

One model at a time; all patches show the part.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from experiments.baselines_torch import layers
from experiments.baselines_torch.layers import dense, unit
from pirn_jax.methods.cfr import Config


def _apart(found: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return 1 - functional.cosine_similarity(found, x.detach(), dim=-1)


class Cfr(nn.Module):
    """The method with our parameters of one run, `(learned, fixed)`, and the threshold of its config.

    Raises:
      ValueError: if the config has an option that this model lacks.
    """

    def __init__(self, config: Config, params: tuple[Mapping[str, Any], Mapping[str, Any]]):
        super().__init__()
        for name, value in {"cycle": True, "replacement": True, "retrieval": True, "combine": "product"}.items():
            if getattr(config, name) != value:
                raise ValueError(f"CFR in PyTorch has {name}={value!r} alone")
        learned, fixed = params
        self.config = config
        self.mappers, self.retriever = (layers.as_module(learned[name]) for name in ("mappers", "retriever"))
        dtype = self.mappers.out.kernel.dtype
        self.scale = nn.Buffer(torch.tensor(fixed["scale"].tolist(), dtype=dtype))
        self.rgb, self.keys, self.values = (
            nn.Buffer(torch.tensor(fixed[name].tolist(), dtype=dtype)) for name in ("rgb", "keys", "values")
        )

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Mean of the layer groups in units of its root mean square, (2, batch, n, c)."""
        return features.mean(2) / self.scale[:, None, None, None]

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates: the retriever takes a tenth."""
        parts = (self.mappers, learning_rate), (self.retriever, learning_rate / 10)
        return [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Patches of each modality from the other's."""
        gate, value = dense(self.mappers.gate, x).chunk(2, dim=-1)
        return dense(self.mappers.out, functional.gelu(gate) * value).flip(0)

    def retrieve(self, geometry: torch.Tensor, own: bool) -> torch.Tensor:
        """RGB patches for geometry patches, by attention to those of the nearest keys."""
        with torch.no_grad():
            cosines = unit(geometry) @ unit(self.keys).mT
            if own:
                cosines = cosines.masked_fill(cosines >= 1 - 1e-5, -torch.inf)
            near = cosines.topk(self.config.candidates, dim=-1).indices
        query, key, value = (
            dense(getattr(self.retriever, name), of)
            for name, of in (("query", geometry), ("key", self.keys), ("value", self.values))
        )
        logits = (query[..., None, :] * key[near]).sum(-1) * self.config.width**-0.5
        attention = torch.softmax(logits, dim=-1)
        return dense(self.retriever.out, (attention[..., None] * value[near]).sum(-2))

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """Forward, cyclic and retrieval terms of features (2, batch, groups, n, c)."""
        x = self.scaled(features)
        found = self.predict(x)
        terms = _apart(found, x).mean((1, 2)).sum() + _apart(self.predict(found), x).mean((1, 2)).sum()
        return terms + _apart(self.retrieve(x[1], own=True), x[0]).mean()

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Patch distances (batch, n)."""
        x = self.scaled(features)
        rgb, geometry = self.predict(x)
        doubt = 1 - (unit(rgb) @ unit(self.rgb).mT).amax(-1)
        rgb = torch.where((doubt >= self.config.threshold)[..., None], self.retrieve(x[1], own=False), rgb)
        apart = [(2 * _apart(a, b)).clamp_min(1e-12).sqrt() for a, b in ((rgb, x[0]), (geometry, x[1]))]
        return apart[0] * apart[1]
