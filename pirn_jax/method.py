"""What a method is: a value made of pure functions, like an optax transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

Params = Any
Metrics = dict[str, Array]


class Method(NamedTuple):
    """Three pure functions closed over a frozen config; training, scoring and reports know nothing else.

    Features are those of one part: both modalities (RGB, surface normals), n patches, c channels.

    Attributes:
      init: `(key, features (shots, 2, n, c)) -> params`; the features are those of the run's good parts.
      loss: `(params, batch (batch, 2, n, c)) -> (scalar, metrics)`.
      score: `(params, features (2, n, c)) -> distances (2, n)`, larger is more anomalous.
    """

    init: Callable[[Array, Float[Array, "shots 2 n c"]], Params]
    loss: Callable[[Params, Float[Array, "batch 2 n c"]], tuple[Float[Array, ""], Metrics]]
    score: Callable[[Params, Float[Array, "2 n c"]], Float[Array, "2 n"]]
