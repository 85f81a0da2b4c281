"""Sizes of groups of runs that train together, and the memory that these take."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pirn_jax.methods.base import Features, Recipe
from pirn_jax.training import episodes, train, windows
from pirn_jax.training.programs import Programs
from pirn_jax.training.windows import Source

RUNS_ON_CPU = 10
"""Most runs that train together on a CPU: more gain no speed, and a group is saved soon."""

_ROOM = 0.8
"""Share of a device's memory to plan with; the rest is left to fragments and to what XLA's analysis leaves out."""


def runs_at_once(runs: int, needs: Callable[[int], int] = lambda runs: 0, taken: int = 0, processes: int = 1) -> int:
    """Number of runs that share one call of the program; all groups of a study have this size.

    On a CPU at most ten; on accelerators as many as their memory holds. The number does not depend on what is
    running beside, so that an interrupted study finds its groups again.

    Args:
      runs: of the study, with one number of shots.
      needs: bytes that each device needs for a number of runs spread over all. Only asked on accelerators.
      taken: bytes that something else keeps on each device.
      processes: that share these runs; each gets a group if there are runs enough.
    """
    devices = jax.local_devices()
    most = RUNS_ON_CPU
    if jax.default_backend() != "cpu":
        stats = [device.memory_stats() for device in devices]
        room = min(_ROOM * s["bytes_limit"] if s else math.inf for s in stats) - taken
        most = len(devices) * fitting(-(-runs // len(devices)), room, lambda share: needs(share * len(devices)))
    return group_size(runs, min(most, -(-runs // processes)), len(devices))


def fitting(runs: int, room: float, needs: Callable[[int], int]) -> int:
    """Number of runs that fit into a device's room in bytes, at least one; needs grow linearly."""
    if runs == 1 or needs(runs) <= room:
        return runs
    one = needs(1)
    return max(1, min(runs - 1, 1 + int((room - one) // max(needs(2) - one, 1))))


def group_size(runs: int, most: int, devices: int) -> int:
    """Size of groups that are as few and as even as `most` allows; a multiple of the devices if runs suffice."""
    groups = -(-runs // most)
    size = -(-runs // groups)
    return size if runs < devices else -(-size // devices) * devices


def bytes_of(compiled: jax.stages.Compiled) -> int:
    """Bytes of a device's memory that a compiled program takes while it runs, its arguments and results included.

    0 on backends that do not tell.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return total - memory.alias_size_in_bytes


def bytes_needed(
    programs: Programs,
    runs: int,
    features: Features | Source,
    shots: int,
    recipe: Recipe | None,
    support: int | None = None,
) -> int:
    """Bytes that each device needs for training its share of the runs, as XLA tells once it has compiled for it."""
    key = jax.ShapeDtypeStruct((runs,), jax.random.key(0).dtype)
    seen = min(shots, support or shots)
    category, chosen = (jax.ShapeDtypeStruct((runs, *shape), jnp.int32) for shape in ((), (seen,)))
    rate, held = jax.ShapeDtypeStruct((), jnp.float32), windows.shapes(features, runs * seen)
    start = key, held, category, chosen, rate, programs.constants
    state = programs.init.shapes(*start)
    fitted = 0
    if programs.finalize is not None:
        fitted = bytes_of(programs.finalize.compile(state.learned, state.fixed, held, category, chosen))
    if programs.steps is None or recipe is None or not recipe.epochs:
        return max(fitted, bytes_of(programs.init.compile(*start)))
    batch = recipe.batch_size
    steps = train.call_length(episodes.count_steps(shots, recipe.epochs, batch), runs, batch, features)
    indices = jax.ShapeDtypeStruct((runs, steps, batch), jnp.int32)
    rates, keys = jax.ShapeDtypeStruct((steps,), jnp.float32), jax.ShapeDtypeStruct((runs, steps), key.dtype)
    held = windows.shapes(features, runs * steps * batch)
    return max(fitted, bytes_of(programs.steps.compile(state, held, category, indices, rates, keys)))
