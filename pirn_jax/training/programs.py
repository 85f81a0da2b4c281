"""Compiled programs of a training: a method's functions with the axis of runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int

from pirn_jax.methods import base, losses
from pirn_jax.methods.base import Features, Method, Metrics, take
from pirn_jax.training import parallel


class State(NamedTuple):
    """State of a run between steps.

    Attributes:
      learned: parameters with gradient.
      fixed: parameters without.
      optimizer: state of the method's optimiser; empty for a method without gradient descent.
      learning_rate: scalar; in the state, so that one compiled program serves all values of it.
    """

    learned: Any
    fixed: Any
    optimizer: Any
    learning_rate: Array


class Programs(NamedTuple):
    """The compiled programs of a training; all carry the run axis.

    Attributes:
      init: `(keys (runs,), features, category (runs,), episodes (runs, shots), learning rate, constants) -> State`.
      steps: `(State, features, category (runs,), indices (runs, steps, batch), rates (steps,), keys (runs, steps)) ->
        (State, metrics)`, each metric (runs, steps), the loss among them; None for a method without gradient descent.
      finalize: `(learned, fixed, features, category, episodes) -> params`; None where nothing is to be done.
      constants: of the method.
    """

    init: parallel.Program
    steps: parallel.Program | None
    finalize: parallel.Program | None
    constants: Mapping[str, Any]


def compile_programs(method: Method, devices: Sequence[Any] | None = None) -> Programs:
    """Builds the programs, by default for all devices; XLA compiles each on its first call for a shape, and once.

    `features` with leading axes (categories, samples) is shared by all runs, `category` and the indices choose from it.
    Methods that differ in constants alone, and all learning rates, share all programs.
    """
    on = None if devices is None else tuple(devices)
    return Programs(
        _compile_init(method.init, None if method.loss is None else method.optimizer, on),
        None if method.loss is None else _compile_steps(method.loss, method.optimizer, on),
        None if method.finalize is base.keep else _compile_finalize(method.finalize, on),
        dict(method.constants),
    )


@functools.lru_cache
def _compile_init(
    init_params: Callable, optimizer: optax.GradientTransformation | None, devices: tuple[Any, ...] | None
) -> parallel.Program:
    def init(
        key: Array,
        features: Features,
        category: Int[Array, ""],
        episode: Int[Array, " s"],
        learning_rate: Float[Array, ""],
        constants: Mapping[str, Any],
    ) -> State:
        learned, fixed = init_params(key, take(features, category, episode))
        if constants:
            fixed = {**fixed, **constants}
        return State(learned, fixed, () if optimizer is None else optimizer.init(learned), learning_rate)

    return parallel.Program(init, (0, None, 0, 0, None, None), (None,) * 6, devices=devices)


@functools.lru_cache
def _compile_steps(
    loss: Callable, optimizer: optax.GradientTransformation, devices: tuple[Any, ...] | None
) -> parallel.Program:
    def train_step(state: State, batch: Features, rate: Float[Array, ""], key: Array) -> tuple[State, Metrics]:
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.learned, state.fixed, batch, key)
        gradient, metrics = losses.batch_mean((gradient, {"loss": value, **metrics}))
        updates, moments = optimizer.update(gradient, state.optimizer, state.learned)
        rate = rate * state.learning_rate
        learned = jax.tree.map(lambda x, update: x - rate * update, state.learned, updates)
        return state._replace(learned=learned, optimizer=moments), metrics

    def steps(
        state: State,
        features: Features,
        category: Int[Array, ""],
        indices: Int[Array, "t b"],
        rates: Float[Array, " t"],
        keys: Array,
    ):
        def step(carry: State, of_step: tuple[Array, Array, Array]) -> tuple[State, Metrics]:
            chosen, rate, key = of_step
            return train_step(carry, take(features, category, chosen), rate, key)

        return jax.lax.scan(step, state, (indices, rates, keys))

    in_axes, batch_axes = (0, None, 0, 0, None, 0), (None, None, None, 2, None, None)
    return parallel.Program(steps, in_axes, batch_axes, donate=(0,), devices=devices)


@functools.lru_cache
def _compile_finalize(finalize: Callable, devices: tuple[Any, ...] | None) -> parallel.Program:
    def params(
        learned: Any, fixed: Any, features: Features, category: Int[Array, ""], episode: Int[Array, " s"]
    ) -> Any:
        return finalize(learned, fixed, take(features, category, episode))

    return parallel.Program(params, (0, 0, None, 0, 0), (None,) * 5, devices=devices)
