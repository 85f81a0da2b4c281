"""What a method is: a value made of pure functions, like an optax transformation."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtyping import Array, Float

Params = Any
Metrics = dict[str, Array]


class Method(NamedTuple):
    """Pure functions closed over a frozen config; training, scoring and reports know nothing else.

    Features are those of one part: both modalities (RGB, surface normals), n patches, c channels.

    Attributes:
      init: `(key, features (shots, 2, n, c)) -> params`; the learned ones, from the run's good parts.
      loss: `(params, batch (batch, 2, n, c)) -> (scalar, metrics)`.
      score: `(params, features (2, n, c)) -> distances (2, n)`, larger is more anomalous.
      fixed: parameters that are given, not learned; they are laid over what `init` returns. Methods that differ in
        them alone have the same functions, which are compiled once for all.
    """

    init: Callable[[Array, Float[Array, "shots 2 n c"]], Params]
    loss: Callable[[Params, Float[Array, "batch 2 n c"]], tuple[Float[Array, ""], Metrics]]
    score: Callable[[Params, Float[Array, "2 n c"]], Float[Array, "2 n"]]
    fixed: Mapping[str, Params] = MappingProxyType({})

    def initial(self, key: Array, features: Float[Array, "shots 2 n c"]) -> Params:
        """All parameters of a run before its training, given ones and learned ones."""
        return {**self.init(key, features), **self.fixed}
