"""How many runs become one program and where it runs: the only module that names an engine.

A function of one run is mapped over the leading run axis with `vmap`. With several devices the runs are cut into equal
shares, and each share runs the very program that one device alone would run: nothing is communicated, and the bits are
those of one device. Devices beyond the runs share batches: the parts of a step are cut over them by shardings under
`jit`, and XLA adds what has to be summed. So a mean over the whole batch, wherever a loss takes it, stays exact.

`pmap` and `shard_map` would compile once for all devices. But XLA optimises a program of several partitions by other
passes, and its results differ in the last bit from those of one device.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pirn_jax import threads

RUNS_ON_CPU = 10
"""Most runs that train together on a CPU: more gain no speed, and a group is saved soon."""

_ROOM = 0.8
"""Share of a device's memory to plan with; the rest is left to fragments and to what XLA's analysis leaves out."""


class Program:
    """A function of one run, compiled for many runs: once per shape, on every device that takes a share.

    Called with the function's arguments. Those that are mapped, and all results, carry the run axis first.
    """

    def __init__(
        self,
        function: Callable,
        run_axes: Sequence[int | None],
        batch_axes: Sequence[int | None],
        donate: tuple[int, ...] = (),
        devices: Sequence[Any] | None = None,
    ):
        """Prepares the program; nothing is compiled yet.

        Args:
          function: of one run, without Python side effects.
          run_axes: per argument 0 if it carries the run axis, None if all runs share it.
          batch_axes: per argument of a call its axis over the parts of a batch, None if it has none.
          donate: arguments whose memory the result may take.
          devices: by default those of this process.
        """
        self._mapped = jax.vmap(function, in_axes=tuple(run_axes))
        self._axes = list(zip(run_axes, batch_axes, strict=True))
        self._donate = donate
        self._devices = list(devices or jax.local_devices())
        self._compiled = functools.cache(self._jit)

    def __call__(self, *arguments: Any) -> Any:
        """Runs the program, compiling it if the shape is new."""
        if len(self._devices) == 1:
            return self._compiled(None)(*arguments)
        grid = self._grid(arguments)
        placed = [
            # What all runs share may lie on all devices already.
            everywhere(x, self._devices) if axes == (None, None) else jax.device_put(x, _sharding(grid, *axes))
            for x, axes in zip(arguments, self._axes, strict=True)
        ]
        meshes = [Mesh(devices, ("part",)) for devices in grid.devices]
        # All shares are picked before the first program takes the memory of what it is given.
        owned = [
            [_pick(x, mesh, len(meshes), *axes) for x, axes in zip(placed, self._axes, strict=True)] for mesh in meshes
        ]
        results = [self._compiled(mesh)(*own) for mesh, own in zip(meshes, owned, strict=True)]
        return jax.tree.map(lambda *shares: _join(shares, grid), *results)

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """Compiles ahead of time what the first device runs of a call; arguments may be `jax.ShapeDtypeStruct`s.

        Calls find it in the cache of `keep_compiled`, in other processes too.
        """
        if len(self._devices) == 1:
            return self._compiled(None).lower(*arguments).compile()
        grid = self._grid(arguments)
        mesh = Mesh(grid.devices[0], ("part",))

        def describe(x: Any, run: int | None, batch: int | None) -> jax.ShapeDtypeStruct:
            shape = _share_shape(x.shape, len(grid.devices), run)
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=_sharding(mesh, None, batch))

        own = [
            jax.tree.map(lambda x, axes=axes: describe(x, *axes), argument)
            for argument, axes in zip(arguments, self._axes, strict=True)
        ]
        return self._compiled(mesh).lower(*own).compile()

    def shapes(self, *arguments: Any) -> Any:
        """Shapes of the results; arguments may be `jax.ShapeDtypeStruct`s."""
        return jax.eval_shape(self._mapped, *arguments)

    def _jit(self, mesh: Mesh | None) -> jax.stages.Wrapped:
        """The program of a share on the devices of a mesh, or on one device without."""
        replicated = mesh and NamedSharding(mesh, PartitionSpec())
        return jax.jit(self._mapped, donate_argnums=self._donate, out_shardings=replicated)

    def _grid(self, arguments: Sequence[Any]) -> Mesh:
        """The devices of each share of the runs, a share a row."""
        pairs = list(zip(arguments, self._axes, strict=True))
        runs = next(jax.tree.leaves(x)[0].shape[0] for x, (run, _) in pairs if run == 0)
        batch = next((x.shape[axis] for x, (_, axis) in pairs if axis is not None), 1)
        shares, parts = layout(runs, batch, len(self._devices))
        return Mesh(np.array(self._devices[: shares * parts]).reshape(shares, parts), ("run", "part"))


def layout(runs: int, batch: int, devices: int) -> tuple[int, int]:
    """Into how many equal shares the runs are cut, and over how many devices the batch of each share.

    Both divide evenly, as many devices as possible work, and runs are cut rather than batches: that needs no
    communication. So 4 runs with batches of 2 take 8 devices as (4, 2), 3 runs with batches of 4 take 6 as (3, 2).
    """
    choices = [
        (shares, parts)
        for shares in range(1, min(runs, devices) + 1)
        for parts in range(1, devices // shares + 1)
        if runs % shares == 0 and batch % parts == 0
    ]
    return max(choices, key=lambda choice: (choice[0] * choice[1], choice[0]))


def everywhere(x: Any, devices: Sequence[Any] | None = None) -> Any:
    """Arrays copied to all devices of this process; those that are there already stay as they are."""
    devices = list(devices or jax.local_devices())
    if len(devices) == 1:
        return x
    return jax.device_put(x, NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec()))


def _sharding(mesh: Mesh, run: int | None, batch: int | None) -> NamedSharding:
    names = {run: "run", batch: "part"}
    return NamedSharding(mesh, PartitionSpec(*(names.get(axis) for axis in range((batch or 0) + 1))))


def _share_shape(shape: tuple[int, ...], shares: int, run: int | None) -> tuple[int, ...]:
    return shape if run is None else (shape[0] // shares, *shape[1:])


def _pick(x: Any, mesh: Mesh, shares: int, run: int | None, batch: int | None) -> Any:
    """What the devices of one share hold of an argument, without copying."""

    def pick(x: jax.Array) -> jax.Array:
        held = {shard.device: shard.data for shard in x.addressable_shards}
        pieces = [held[device] for device in mesh.devices.flat]
        shape, sharding = _share_shape(x.shape, shares, run), _sharding(mesh, None, batch)
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return jax.tree.map(pick, x)


def _join(shares: Sequence[jax.Array], grid: Mesh) -> jax.Array:
    """One array with the run axis first of what shares hold, without copying."""
    pieces = [shard.data for share in shares for shard in share.addressable_shards]
    shape = (len(shares) * shares[0].shape[0], *shares[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, _sharding(grid, 0, None), pieces)


def shares(runs: int) -> list[slice]:
    """Shares of the runs whose calls go side by side.

    Of two runs or more: a run alone turns batched products into single ones, which XLA computes by other code, slower
    on a CPU and with other bits.
    """
    return threads.shares(runs, least=2)


def runs_at_once(runs: int, needs: Callable[[int], int] = lambda runs: 0, taken: int = 0, processes: int = 1) -> int:
    """How many runs share one call of the program; all groups of a study have this size.

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
    """How many of the runs fit into a device's room in bytes, at least one; what they need grows linearly."""
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


def keep_compiled(directory: pathlib.Path) -> None:
    """Keeps what XLA compiles on disk for later processes, in a directory that only its owner can enter.

    Who can write there can have code run by whoever reads.

    Raises:
      OSError: if the directory cannot be made, or belongs to somebody else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(directory))
