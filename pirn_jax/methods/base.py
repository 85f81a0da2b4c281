"""The interface of a method: a value made of pure functions, like an optax gradient transformation.

`s` good parts, `m` modalities, `g` layer groups, `n` patches, `c` channels, `k` anomaly maps.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

Params = Any
ADAM = optax.scale_by_adam()
SCHEDULES = ("constant", "cosine")
Metrics = dict[str, Array]


class Features(NamedTuple):
    """Frozen patch features of one sample, or of a batch with further leading axes.

    Attributes:
      values: features of every modality and layer group, row by row of the patch grid.
      mask: patches that show the part. A method takes nothing from the others.
    """

    values: Float[Array, "*batch m g n c"]
    mask: Bool[Array, "*batch n"]


def take(features: Features, *index: Any) -> Features:
    """Features at an index of their leading axes."""
    return jax.tree.map(lambda x: x[index], features)


def keep(learned: Params, fixed: Params, support: Features) -> Params:
    """Default of `Method.finalize`: the pair `(learned, fixed)`."""
    del support
    return learned, fixed


def forget_nothing(params: Params, i: Array) -> Params:
    """Default of `Method.forget`: the parameters."""
    del i
    return params


class Method(NamedTuple):
    """Pure functions closed over a frozen config. Training, scoring, storage and reports know nothing else.

    Attributes:
      maps: names of the k anomaly maps that `score` returns.
      init: `(key, support) -> (learned, fixed)`; `fixed` gets neither gradient nor optimiser moments.
      score: `(params, features) -> distances (k, n)`, larger is more anomalous. Values off the part are ignored.
      loss: `(learned, fixed, batch, key) -> (scalar, metrics)`, means over the samples of the batch; None if nothing is
        learned by gradient descent. Each step has its own key, for dropout and the like. Other statistics of a batch go
        through `losses.batch_mean`, so that they stay exact where devices share one.
      finalize: `(learned, fixed, support) -> params`, once after training: memory banks, codebooks.
      forget: `(params, i) -> params` without what they hold of sample `i` of the support, so that good parts can be
        scored as if they were new (`scoring.calibrate`); by default they hold nothing of single samples.
      constants: scalars laid over `fixed`. Methods that differ in these alone have the same functions, and so share
        compiled programs.
      optimizer: direction of a step, which is multiplied by the learning rate; one object for equal transformations, so
        that compiled programs are found by it.
      precision: type that features are stored in, "float32" or "bfloat16".
      whole_support: whether `init` has to see every part that `loss` does, and not the first few of them.
      judges: numbers of maps, in order, that each of several judges gives, where a method has more than one way to
        compare; by `scoring.fuse` each judge's maximum counts. Empty for a single judge of all maps.
    """

    maps: tuple[str, ...]
    init: Callable[[Array, Features], tuple[Params, Params]]
    score: Callable[[Params, Features], Float[Array, "k n"]]
    loss: Callable[[Params, Params, Features, Array], tuple[Float[Array, ""], Metrics]] | None = None
    finalize: Callable[[Params, Params, Features], Params] = keep
    forget: Callable[[Params, Array], Params] = forget_nothing
    constants: Mapping[str, float] = MappingProxyType({})
    optimizer: optax.GradientTransformation = ADAM
    precision: str = "float32"
    judges: tuple[int, ...] = ()
    whole_support: bool = False

    def start(self, key: Array, support: Features) -> tuple[Params, Params]:
        """`init` with the constants laid over `fixed`."""
        learned, fixed = self.init(key, support)
        return learned, {**fixed, **self.constants} if self.constants else fixed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Optimiser settings of a run.

    Attributes:
      epochs: passes over the episode (PIRN: 80 few-shot, 30 all-shot; a published review of it says 60 and 8); 0 leaves
        the method as it starts, the ablation of training.
      learning_rate: of Adam (PIRN: 1e-4).
      batch_size: samples a step.
      schedule: "constant", or "cosine": a linear warm-up over the first twentieth of the steps, then half a cosine down
        to a tenth of the learning rate (INP-Former).
    """

    epochs: int = 80
    learning_rate: float = 1e-4
    batch_size: int = dataclasses.field(default=2, metadata={"our_choice": True})
    schedule: str = "constant"

    def __post_init__(self):
        if not 0 <= self.epochs < math.inf:
            raise ValueError(f"epochs must be zero or more, not {self.epochs}")
        for name in ("learning_rate", "batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose one of {', '.join(SCHEDULES)}")

    def rates(self, steps: int) -> Float[np.ndarray, " t"]:
        """Share of the learning rate that each step takes."""
        if self.schedule == "constant":
            return np.ones(steps, np.float32)
        warm = steps // 20
        share = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm, steps, 0.1)
        return np.asarray(jax.vmap(share)(jnp.arange(steps)), np.float32)


class Preset(NamedTuple):
    """Settings under one name.

    Attributes:
      config: hyperparameters of the method.
      recipe: optimiser settings, None for a method without gradient descent.
      flags: other flags that the preset sets, by name: encoder, blocks, input size, normals; a flag that is given
        overrides them.
    """

    config: Any
    recipe: Recipe | None = None
    flags: Mapping[str, Any] = MappingProxyType({})


class Published(NamedTuple):
    """One row of a paper's table: means over all categories of a data set, fractions.

    Attributes:
      dataset: its name.
      shots: good parts of each category, or "all".
      source: paper and table.
      categories: number of categories that the means are taken over.
      image_auroc: image AUROC.
      pixel_auroc: pixel AUROC, None where the table has none.
      aupro_30: AUPRO@30%, None where the table has none.
    """

    dataset: str
    shots: str
    source: str
    categories: int
    image_auroc: float
    pixel_auroc: float | None
    aupro_30: float | None


def published_rows(source: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> tuple[Published, ...]:
    """Rows of a table with image AUROC and AUPRO@30% over ten categories, by data set and number of good parts."""
    return tuple(
        Published(dataset, shots, source, 10, image, None, aupro)
        for dataset, of_shots in rows.items()
        for shots, (image, aupro) in of_shots.items()
    )


class Entry(NamedTuple):
    """A method of the catalogue.

    Attributes:
      config: dataclass of its hyperparameters; each field becomes a flag. `metadata={"our_choice": True}` marks what
        its paper leaves open.
      presets: settings by name, "default" among them.
      build: `(config, modalities) -> Method`; raises ValueError if they do not fit.
      published: results that its paper reports.
    """

    config: type
    presets: Mapping[str, Preset]
    build: Callable[[Any, tuple[str, ...]], Method]
    published: tuple[Published, ...] = ()


def our_choice(default: Any) -> Any:
    """A field of a Config with a value that the paper leaves open."""
    return dataclasses.field(default=default, metadata={"our_choice": True})


def require_two(what: str, modalities: tuple[str, ...]) -> None:
    """Raises ValueError, beginning with what a method does, unless it is given two modalities."""
    if len(modalities) != 2:
        raise ValueError(f"{what}, got {', '.join(modalities)}")


def check(method: Method, support: Features) -> None:
    """Traces a method without computing anything.

    Args:
      method: the method.
      support: good parts of a run, as `jax.ShapeDtypeStruct`s.

    Raises:
      ValueError: if the features do not fit the method, or it returns another number of maps than it names.
    """
    params = params_shapes(method, support)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), support)
    distances = jax.eval_shape(method.score, params, one)
    expected = (len(method.maps), support.mask.shape[-1])
    if distances.shape != expected:
        raise ValueError(f"the method returns distances {distances.shape}, not {expected}: a map each of {method.maps}")


def params_shapes(method: Method, support: Features) -> Params:
    """Shapes of the parameters that `Method.score` takes; raises what `Method.init` and `finalize` raise."""

    def fit(key: Array, support: Features) -> Params:
        return method.finalize(*method.start(key, support), support)

    return jax.eval_shape(fit, jax.eval_shape(lambda: jax.random.key(0)), support)


def shapes(samples: int, modalities: int, groups: int, patches: int, channels: int) -> Features:
    """Shapes of the features of some samples, for `check`."""
    values: Any = jax.ShapeDtypeStruct((samples, modalities, groups, patches, channels), jnp.float32)
    mask: Any = jax.ShapeDtypeStruct((samples, patches), jnp.bool_)
    return Features(values, mask)
