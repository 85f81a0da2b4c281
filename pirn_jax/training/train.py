"""Training of many runs side by side, in calls of compiled programs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pirn_jax import threads
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.training import episodes, parallel, windows
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import Programs, State
from pirn_jax.training.windows import Source

MAX_STEPS_PER_CALL = 25
"""Most steps in one call of the compiled program: often enough to show progress and to stop."""


class Trained(NamedTuple):
    """Trained runs: a list of pieces each, one for each of `parallel.shares`.

    Attributes:
      learned: parameters with gradient.
      fixed: parameters without.
      params: what `Method.score` takes.
    """

    learned: list[Any]
    fixed: list[Any]
    params: list[Any]


@runtime_checkable
class Checkpoint(Protocol):
    """Storage of a training that has not finished."""

    def restore(self) -> tuple[int, list[np.ndarray], dict[str, np.ndarray]] | None:
        """Steps done, leaves of the state with the run axis, and metrics so far; None where there is none."""
        ...

    def save(self, steps: int, leaves: Callable[[], list[np.ndarray]], history: Mapping[str, np.ndarray]) -> None:
        """Keeps them if it is time to; `leaves` fetches the state from the devices."""
        ...


def run_keys(runs: Sequence[Run], purpose: str) -> Array:
    """A key for each run, that depends on its seed and category and on the purpose, not on the runs beside it."""
    return jnp.stack([jax.random.key(int(episodes.generator(run, purpose).integers(2**31))) for run in runs])


def step_keys(keys: Array, first: int, count: int) -> Array:
    """Keys of some steps of each run, (runs, count), from the runs' own."""
    steps = jnp.arange(first, first + count)
    return jax.vmap(lambda key: jax.vmap(lambda step: jax.random.fold_in(key, step))(steps))(keys)


def initialise(
    programs: Programs,
    runs: Sequence[Run],
    features: Features,
    category: Int[np.ndarray, " r"],
    chosen: Int[np.ndarray, "r s"],
    recipe: Recipe | None,
    batch: int = 1,
) -> list[State]:
    """States before the training, one for each share of the runs; arguments are those of `train`.

    On several devices runs are placed as those of a training with batches of so many samples.
    """
    keys, rate = run_keys(runs, "params"), np.float32(recipe.learning_rate if recipe else 0)
    return [
        programs.init(keys[share], features, category[share], chosen[share], rate, programs.constants, batch=batch)
        for share in parallel.shares(len(runs))
    ]


def advance(
    programs: Programs,
    states: Sequence[State],
    features: Features,
    category: Int[np.ndarray, " r"],
    indices: Int[np.ndarray, "r t b"],
    rates: Float[np.ndarray, " t"] | None = None,
    keys: Array | None = None,
) -> tuple[list[State], dict[str, Float[np.ndarray, "r t"]]]:
    """Trains all runs for some steps.

    Args:
      programs: see `compile_programs`.
      states: returned by `initialise` or the last call; their memory is taken over.
      features: features of the good parts of every category.
      category: index of each run's category in `features`.
      indices: samples of each run's batches, as indices into its category's features.
      rates: share of the learning rate that each step takes, by default all of it.
      keys: of each run's steps (r, t), see `step_keys`; by default those of seed 0.

    Returns:
      The states afterwards, and every metric of the method.
    """
    step = programs.steps
    if step is None:
        raise ValueError("a method without a loss takes no steps")
    rates = np.ones(indices.shape[1], np.float32) if rates is None else rates
    keys = jax.random.split(jax.random.key(0), indices.shape[:2]) if keys is None else keys

    def steps(state: State, share: slice) -> tuple[State, dict[str, np.ndarray]]:
        result = step(state, features, category[share], indices[share], rates, keys[share])
        return parallel.pick(result, lambda of: of[0]), parallel.collect([parallel.pick(result, lambda of: of[1])])

    states, metrics = zip(*threads.each(steps, states, parallel.shares(len(category))), strict=True)
    return list(states), jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)


def train(
    programs: Programs,
    runs: Sequence[Run],
    features: Features | Source,
    category: Int[np.ndarray, " r"],
    chosen: Int[np.ndarray, "r s"],
    recipe: Recipe | None,
    progress: Callable[[int, float], None] = lambda steps, loss: None,
    checkpoint: Checkpoint | None = None,
    support: int | None = None,
) -> tuple[Trained, dict[str, np.ndarray]]:
    """Trains all runs, which have equal numbers of shots.

    Args:
      programs: see `compile_programs`.
      runs: the runs.
      features: features of the good parts of every category; or of a single one, read as steps need them.
      category: index of each run's category in `features`.
      chosen: samples of each run's episode, as indices into its category's features.
      recipe: optimiser settings, None for a method without gradient descent.
      progress: told how many more steps are done and the mean loss of the last one.
      checkpoint: where a long training is kept, and continued from.
      support: good parts of each run, the first of its episode, that `Method.init` and `finalize` see; None for all.

    Returns:
      The trained runs, and every metric of the method, the loss among them, (runs, steps).

    Raises:
      FloatingPointError: naming step, category and seed, if a loss is not finite.
    """
    if isinstance(features, Features):
        features = parallel.everywhere(features)
    batch = 1 if recipe is None else recipe.batch_size
    supported = chosen[:, :support]
    states = initialise(programs, runs, *_of(features, category, supported), recipe, batch)
    history: dict[str, np.ndarray] = {}
    if programs.steps is not None and recipe is not None and recipe.epochs:
        indices = _indices(runs, chosen, recipe)
        order = indices, recipe.rates(indices.shape[1])
        states, history = _descend(programs, states, runs, features, category, order, progress, checkpoint)
    learned = [parallel.pick(state, lambda of: of.learned) for state in states]
    fixed = [parallel.pick(state, lambda of: of.fixed) for state in states]
    finalize = programs.finalize
    if finalize is None:
        params = [parallel.pick(state, lambda of: (of.learned, of.fixed)) for state in states]
        return Trained(learned, fixed, params), history

    held, category, places = _of(features, category, supported)

    def finish(learned: Any, fixed: Any, share: slice) -> Any:
        return jax.block_until_ready(finalize(learned, fixed, held, category[share], places[share], batch=batch))

    return Trained(learned, fixed, threads.each(finish, learned, fixed, parallel.shares(len(runs)))), history


def _of(
    features: Features | Source, category: np.ndarray, samples: np.ndarray
) -> tuple[Features, np.ndarray, np.ndarray]:
    """Features that hold some samples of each run, and these samples' places in them."""
    held, places = windows.window(features, samples)
    return held, category, places


def _descend(
    programs: Programs,
    states: list[State],
    runs: Sequence[Run],
    features: Features | Source,
    category: np.ndarray,
    order: tuple[Int[np.ndarray, "r t b"], Float[np.ndarray, " t"]],
    progress: Callable[[int, float], None],
    checkpoint: Checkpoint | None,
) -> tuple[list[State], dict[str, np.ndarray]]:
    """All steps of a training, or those that its checkpoint has not done; `order` is batches and rates of each step."""
    (indices, rates), start, history = order, 0, {}
    steps = len(rates)
    restored = None if checkpoint is None else checkpoint.restore()
    if restored is not None:
        start, leaves, history = restored
        states = parallel.place_like(states, leaves)
        # On the host they would lie beside the states to the end.
        del leaves, restored
        progress(start, float(history["loss"][:, -1].mean()))
    keys, batch = run_keys(runs, "steps"), indices.shape[2]
    length = call_length(steps, len(runs), batch, features)
    # Steps at a rate of zero leave what is learned as it is.
    more = 0, -steps % length
    rates, indices = np.pad(rates, more), np.pad(indices, ((0, 0), more, (0, 0)), "edge")
    firsts = range(start, steps, length)
    needed = (indices[:, first : first + length] for first in firsts)
    read = windows.ahead(lambda of_call: windows.window(features, of_call), needed)
    for first, (held, places) in zip(firsts, read, strict=True):
        of_steps = step_keys(keys, first, length)
        states, found = advance(programs, states, held, category, places, rates[first : first + length], of_steps)
        metrics = {name: values[:, : steps - first] for name, values in found.items()}
        _check_finite(metrics["loss"], first, runs)
        history = {
            name: np.concatenate([history[name], new], axis=1) if history else new for name, new in metrics.items()
        }
        if checkpoint is not None and first + length < steps:
            checkpoint.save(first + length, lambda states=states: jax.tree.leaves(parallel.collect(states)), history)
        progress(metrics["loss"].shape[1], float(metrics["loss"][:, -1].mean()))
    return states, history


def _indices(runs: Sequence[Run], chosen: Int[np.ndarray, "r s"], recipe: Recipe) -> Int[np.ndarray, "r t b"]:
    """Samples of each run's batches, as indices into its category's features."""
    orders = np.stack([episodes.batches(run, recipe.epochs, recipe.batch_size, chosen.shape[1]) for run in runs])
    return np.take_along_axis(chosen[:, None, :], orders.reshape(len(runs), 1, -1), axis=2).reshape(orders.shape)


def call_length(steps: int, runs: int, batch: int, features: Features | Source) -> int:
    """Steps in one call of the compiled program: all calls have one shape.

    Of features that are read as steps need them, as many steps as their window has room for; those of every category
    are as many, and the last call is padded, so that one program serves all.
    """
    if isinstance(features, Features):
        return steps_per_call(steps)
    room = windows.WINDOW_BYTES // (runs * batch * features.sample_bytes)
    return max(1, min(MAX_STEPS_PER_CALL, room))


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
            f"seed {run.seed}; lower --learning_rate"
        )
