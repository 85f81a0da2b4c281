"""Training of many runs in one compiled program."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pirn_jax import threads
from pirn_jax.method import Method, Metrics
from pirn_jax.protocol import episodes, parallel
from pirn_jax.protocol.episodes import Run

MAX_STEPS_PER_CALL = 25
"""Most steps in one call of the compiled program: often enough to show progress and to stop."""

_ADAM = optax.scale_by_adam()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a run is trained.

    Attributes:
      epochs: how often each part of the episode is seen (paper: 80 for few-shot, 30 for all-shot).
      learning_rate: of Adam (paper: 1e-4).
      batch_size: parts a step (our choice).
    """

    epochs: int = 80
    learning_rate: float = 1e-4
    batch_size: int = 2

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                raise ValueError(f"{field.name} must be positive and finite, not {getattr(self, field.name)}")


class State(NamedTuple):
    """What a step carries from one to the next.

    Attributes:
      params: of the method.
      optimizer: moments of Adam.
      learning_rate: scalar; in the state, so that one compiled program serves all values of it.
    """

    params: Any
    optimizer: Any
    learning_rate: Array


class Programs(NamedTuple):
    """The two compiled programs of a training; both carry the run axis.

    Attributes:
      init: `(keys (runs,), features, category (runs,), episodes (runs, shots), learning rate, fixed) -> State`.
      steps: `(State, features, category (runs,), indices (runs, steps, batch)) -> (State, metrics)`, each
        metric (runs, steps), the loss among them.
      fixed: parameters of the method that are given, not learned.
    """

    init: parallel.Program
    steps: parallel.Program
    fixed: Mapping[str, Any]


def compile_programs(method: Method, devices: Sequence[Any] | None = None) -> Programs:
    """Builds the programs, by default for all devices; XLA compiles each on its first call for a shape, and once.

    `features` (categories, parts, 2, n, c) is shared by all runs, `category` and the indices choose from it. Methods
    that differ in fixed parameters alone, and all learning rates, share both.
    """
    on = None if devices is None else tuple(devices)
    return Programs(_compile_init(method.init, on), _compile_steps(method.loss, on), dict(method.fixed))


@functools.lru_cache
def _compile_init(init_params: Callable, devices: tuple[Any, ...] | None) -> parallel.Program:
    def init(
        key: Array,
        features: Float[Array, "d m 2 n c"],
        category: Int[Array, ""],
        episode: Int[Array, " s"],
        learning_rate: Float[Array, ""],
        fixed: Mapping[str, Any],
    ) -> State:
        params = {**init_params(key, features[category, episode]), **fixed}
        return State(params, _ADAM.init(params), learning_rate)

    return parallel.Program(init, (0, None, 0, 0, None, None), batch_axes=(None,) * 6, devices=devices)


@functools.lru_cache
def _compile_steps(loss: Callable, devices: tuple[Any, ...] | None) -> parallel.Program:
    def train_step(state: State, batch: Float[Array, "b 2 n c"]) -> tuple[State, Metrics]:
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
        updates, optimizer = _ADAM.update(gradient, state.optimizer)
        params = jax.tree.map(lambda x, update: x - state.learning_rate * update, state.params, updates)
        return State(params, optimizer, state.learning_rate), {"loss": value, **metrics}

    def steps(state: State, features: Float[Array, "d m 2 n c"], category: Int[Array, ""], indices: Int[Array, "t b"]):
        return jax.lax.scan(lambda carry, chosen: train_step(carry, features[category, chosen]), state, indices)

    return parallel.Program(steps, (0, None, 0, 0), batch_axes=(None, None, None, 2), donate=(0,), devices=devices)


def initialise(
    programs: Programs,
    runs: Sequence[Run],
    features: Float[Array, "d m 2 n c"],
    category: Int[np.ndarray, " r"],
    chosen: Int[np.ndarray, "r s"],
    recipe: Recipe,
) -> list[State]:
    """States before the training, one for each share of the runs; arguments are those of `train`."""
    # A key of a run depends on its seed and category alone, not on the runs beside it.
    keys = jnp.stack([jax.random.key(int(episodes.generator(run, "params").integers(2**31))) for run in runs])
    rate = np.float32(recipe.learning_rate)
    return [
        programs.init(keys[share], features, category[share], chosen[share], rate, programs.fixed)
        for share in parallel.shares(len(runs))
    ]


def advance(
    programs: Programs,
    states: Sequence[State],
    features: Float[Array, "d m 2 n c"],
    category: Int[np.ndarray, " r"],
    indices: Int[np.ndarray, "r t b"],
) -> tuple[list[State], dict[str, Float[np.ndarray, "r t"]]]:
    """Trains all runs for some steps.

    Args:
      programs: see `compile_programs`.
      states: what `initialise` or the last call returned; their memory is taken over.
      features: features of the good parts of every category.
      category: index of each run's category in `features`.
      indices: parts of each run's batches, as indices into its category's features.

    Returns:
      The states afterwards, and every metric of the method.
    """

    def steps(state: State, share: slice) -> tuple[State, dict[str, np.ndarray]]:
        state, metrics = programs.steps(state, features, category[share], indices[share])
        return state, jax.tree.map(np.asarray, metrics)

    states, metrics = zip(*threads.each(steps, states, parallel.shares(len(category))), strict=True)
    return list(states), jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)


def train(
    programs: Programs,
    runs: Sequence[Run],
    features: Float[Array, "d m 2 n c"],
    category: Int[np.ndarray, " r"],
    chosen: Int[np.ndarray, "r s"],
    recipe: Recipe,
    progress: Callable[[int, float], None] = lambda steps, loss: None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Trains all runs, which have equal numbers of shots.

    Args:
      programs: see `compile_programs`.
      runs: the runs.
      features: features of the good parts of every category.
      category: index of each run's category in `features`.
      chosen: parts of each run's episode, as indices into its category's features.
      recipe: how to train.
      progress: told how many more steps are done and the mean loss of the last one.

    Returns:
      Parameters with the run axis, and every metric of the method, the loss among them, (runs, steps).

    Raises:
      FloatingPointError: naming step, category and seed, if a loss is not finite.
    """
    orders = np.stack([episodes.batches(run, recipe.epochs, recipe.batch_size) for run in runs])
    indices = np.take_along_axis(chosen[:, None, :], orders.reshape(len(runs), 1, -1), axis=2).reshape(orders.shape)
    features = parallel.everywhere(features)
    states = initialise(programs, runs, features, category, chosen, recipe)
    history: list[dict[str, np.ndarray]] = []
    steps = len(orders[0])
    length = steps_per_call(steps)
    for start in range(0, steps, length):
        states, metrics = advance(programs, states, features, category, indices[:, start : start + length])
        history.append(metrics)
        _check_finite(metrics["loss"], start, runs)
        progress(length, float(metrics["loss"][:, -1].mean()))
    params = jax.tree.map(lambda *shares: jnp.concatenate(shares), *(state.params for state in states))
    return params, {name: np.concatenate([part[name] for part in history], axis=1) for name in history[0]}


def bytes_needed(programs: Programs, runs: int, features: Float[Array, "d m 2 n c"], shots: int, recipe: Recipe) -> int:
    """Bytes that each device needs for training its share of the runs, as XLA tells once it has compiled for it."""
    steps = steps_per_call(len(episodes.batches(Run("", shots, 0), recipe.epochs, recipe.batch_size)))
    key = jax.ShapeDtypeStruct((runs,), jax.random.key(0).dtype)
    category, chosen, indices = (
        jax.ShapeDtypeStruct((runs, *shape), jnp.int32) for shape in ((), (shots,), (steps, recipe.batch_size))
    )
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    state = programs.init.shapes(key, features, category, chosen, rate, programs.fixed)
    return parallel.bytes_of(programs.steps.compile(state, features, category, indices))


def steps_per_call(steps: int) -> int:
    """The largest divisor of the number of steps up to `MAX_STEPS_PER_CALL`: all calls have one shape."""
    return max(length for length in range(1, MAX_STEPS_PER_CALL + 1) if steps % length == 0)


def _check_finite(losses: Float[np.ndarray, "r t"], start: int, runs: Sequence[Run]) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if bad.size:
        which, step = bad[np.argmin(bad[:, 1])]
        run = runs[which]
        raise FloatingPointError(
            f"the loss is {losses[which, step]} at step {start + step + 1} of {run.category}, {run.shots} shots, "
            f"seed {run.seed}; lower --learning_rate or raise --epsilon"
        )
