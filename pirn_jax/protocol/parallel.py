"""How many runs become one program: the only module that names an engine.

A function of one run is mapped over the leading run axis with `vmap`; with several devices the runs are spread over
them with `pmap`, each device holding an equal share. Runs are independent, so nothing is communicated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def over_runs(function: Callable, run_axes: Sequence[int | None], donate: tuple[int, ...] = ()) -> Callable:
    """Compiles a function of one run into one of many runs.

    Args:
      function: of one run, without Python side effects.
      run_axes: per argument 0 if it carries the run axis, None if all runs share it.
      donate: arguments whose memory the result may take.

    Returns:
      A function whose mapped arguments and results carry the run axis first. It is compiled once per shape.
    """
    mapped = jax.vmap(function, in_axes=tuple(run_axes))
    devices = jax.local_device_count()
    if devices == 1:
        return jax.jit(mapped, donate_argnums=donate)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("device",))
    by_device = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
    spread = jax.pmap(mapped, in_axes=tuple(run_axes), donate_argnums=donate)

    def call(*arguments):
        runs = _runs(arguments, run_axes)
        shared = [
            jax.device_put(jax.tree.map(lambda x: _split(x, devices), argument), by_device) if axis == 0 else argument
            for argument, axis in zip(arguments, run_axes, strict=True)
        ]
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:runs], spread(*shared))

    return call


def _runs(arguments: Sequence[Any], run_axes: Sequence[int | None]) -> int:
    return next(jax.tree.leaves(a)[0].shape[0] for a, axis in zip(arguments, run_axes, strict=True) if axis == 0)


def _split(x, devices: int):
    """(runs, ...) -> (devices, share, ...); the last run is repeated where the share is not whole."""
    share = -(-x.shape[0] // devices)
    index = np.minimum(np.arange(devices * share), x.shape[0] - 1).reshape(devices, share)
    return x[index]


def runs_at_once(runs: int) -> int:
    """How many runs share one call of the program; all groups of a study have this size.

    On a CPU ten: the state of ten runs is about what its caches reward, and a finished group is saved soon. An
    accelerator takes all runs at once.
    """
    if jax.default_backend() != "cpu":
        return runs
    groups = -(-runs // 10)
    return -(-runs // groups)
