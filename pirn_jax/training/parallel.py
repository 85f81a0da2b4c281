"""Compilation for many runs and devices: the only module that names an engine.

A function of one run is mapped over the leading run axis with `vmap`. On one device the result is compiled by `jit`. On
several devices of a process it is compiled once, by `pmap`: the runs are cut into equal shares. With fewer runs than
devices each share's batch is cut, too, over a group of devices, and what is averaged over a batch is averaged over the
group (`losses.batch_mean`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pirn_jax import threads
from pirn_jax.methods import losses

_AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Assignment of runs and batches to devices.

    Attributes:
      shares: equal shares that the runs are cut into.
      parts: devices over which each share's batch is cut; those of the first share come first.
      devices: `shares * parts` of them.
    """

    shares: int
    parts: int
    devices: tuple[Any, ...]

    @property
    def groups(self) -> list[list[int]]:
        """Indices of the devices that share a batch."""
        return np.arange(self.shares * self.parts).reshape(self.shares, self.parts).tolist()

    def place(self, x: Any, run: int | None, batch: int | None) -> Any:
        """An array of a call, cut for the devices along a new leading axis; unchanged if all devices share it."""
        if run is None:
            return x
        each = x.shape[0] // self.shares
        cut = [x[i * each : (i + 1) * each] for i in range(self.shares)]
        if batch is not None:
            size = x.shape[batch] // self.parts
            index = (slice(None),) * batch
            pieces = [share[(*index, slice(j * size, (j + 1) * size))] for share in cut for j in range(self.parts)]
        else:
            pieces = [share for share in cut for _ in range(self.parts)]
        return np.stack(pieces) if isinstance(x, np.ndarray) else jnp.stack(pieces)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Results on several devices: a pytree with a leading axis of devices, then that of a share's runs."""

    tree: Any
    layout: Layout


class Program:
    """A function of one run, compiled for many runs and all devices, once per shape.

    Called with the function's arguments. Those that are mapped carry the run axis first, or are the `Spread` result of
    another program. Results carry the run axis first; on several devices they are `Spread`.
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
          batch_axes: per argument of a call its axis over the samples of a batch, None if it has none.
          donate: arguments whose memory the result may take.
          devices: by default those of this process.
        """
        self._function = function
        self._run_axes, self._batch_axes = tuple(run_axes), tuple(batch_axes)
        self._donate = donate
        self._devices = tuple(devices or jax.local_devices())
        self._vmapped = jax.vmap(function, in_axes=self._run_axes)
        self._jitted = jax.jit(self._vmapped, donate_argnums=donate)
        self._pmapped = functools.cache(self._pmap)

    def __call__(self, *arguments: Any, batch: int = 1) -> Any:
        """Runs the program, compiling it if the shape is new.

        Args:
          *arguments: of the function.
          batch: samples of a batch that runs are placed for where no argument has such an axis.
        """
        if len(self._devices) == 1:
            return self._jitted(*arguments)
        layout = self._layout(arguments, batch)
        leaves, trees = self._flatten(self._placed(arguments, layout))
        return Spread(self._pmapped(layout, trees)(*leaves), layout)

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """Compiles ahead of time for arguments that may be `jax.ShapeDtypeStruct`s, on several devices must be so."""
        if len(self._devices) == 1:
            return self._jitted.lower(*arguments).compile()
        layout = self._layout(arguments)

        def placed(x: Any, run: int | None, batch: int | None) -> jax.ShapeDtypeStruct:
            shape = list(x.shape)
            if run is not None:
                shape[0] //= layout.shares
                if batch is not None:
                    shape[batch] //= layout.parts
                shape.insert(0, len(layout.devices))
            return jax.ShapeDtypeStruct(tuple(shape), x.dtype)

        own = [
            jax.tree.map(functools.partial(placed, run=run, batch=batch), x)
            for x, run, batch in zip(arguments, self._run_axes, self._batch_axes, strict=True)
        ]
        leaves, trees = self._flatten(own)
        return self._pmapped(layout, trees).lower(*leaves).compile()

    def shapes(self, *arguments: Any) -> Any:
        """Shapes of the results on one device; arguments may be `jax.ShapeDtypeStruct`s."""
        return jax.eval_shape(self._vmapped, *arguments)

    def _flatten(self, arguments: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """Leaves of all arguments, and the tree of each: `pmap` misplaces axes behind an argument without leaves."""
        flat = [jax.tree.flatten(x) for x in arguments]
        return [leaf for leaves, _ in flat for leaf in leaves], tuple(tree for _, tree in flat)

    def _pmap(self, layout: Layout, trees: tuple[Any, ...]) -> Any:
        counts = [tree.num_leaves for tree in trees]

        def own(*leaves: Any) -> Any:
            ends = np.cumsum(counts).tolist()
            pieces = [leaves[end - count : end] for end, count in zip(ends, counts, strict=True)]
            arguments = [jax.tree.unflatten(tree, piece) for tree, piece in zip(trees, pieces, strict=True)]
            if layout.parts == 1:
                return self._vmapped(*arguments)
            with losses.batch_over_devices(_AXIS, layout.groups):
                return self._vmapped(*arguments)

        owner = [i for i, count in enumerate(counts) for _ in range(count)]
        axes = tuple(self._run_axes[i] for i in owner)
        donated = tuple(place for place, i in enumerate(owner) if i in self._donate)
        return jax.pmap(own, _AXIS, in_axes=axes, donate_argnums=donated, devices=list(layout.devices))

    def _placed(self, arguments: Sequence[Any], layout: Layout) -> list[Any]:
        """Arguments cut for the devices."""
        return [
            x.tree if isinstance(x, Spread) else jax.tree.map(functools.partial(layout.place, run=run, batch=batch), x)
            for x, run, batch in zip(arguments, self._run_axes, self._batch_axes, strict=True)
        ]

    def _layout(self, arguments: Sequence[Any], batch: int = 1) -> Layout:
        for x in arguments:
            if isinstance(x, Spread):
                return x.layout
        runs = next(
            jax.tree.leaves(x)[0].shape[0] for x, run in zip(arguments, self._run_axes, strict=True) if run == 0
        )
        batch = next(
            (x.shape[axis] for x, axis in zip(arguments, self._batch_axes, strict=True) if axis is not None), batch
        )
        shares, parts = layout(runs, batch, len(self._devices))
        return Layout(shares, parts, self._devices[: shares * parts])


def layout(runs: int, batch: int, devices: int) -> tuple[int, int]:
    """Number of equal shares of the runs, and of devices over which each share's batch is cut.

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
    """A pytree copied to all devices of this process; what is there already stays as it is."""
    devices = list(devices or jax.local_devices())
    if len(devices) == 1:
        return x
    return jax.device_put(x, NamedSharding(Mesh(np.array(devices), (_AXIS,)), PartitionSpec()))


def split(tree: Any, runs: int) -> list[Any]:
    """A pytree with the run axis first, cut into the shares of `shares`."""
    return [jax.tree.map(lambda x, share=share: x[share], tree) for share in shares(runs)]


def pick(result: Any, select: Callable[[Any], Any]) -> Any:
    """A part of a program's result, `Spread` if that is."""
    return Spread(select(result.tree), result.layout) if isinstance(result, Spread) else select(result)


def parts_of(result: Any) -> int:
    """Number of devices over which batches of a program with this argument are cut."""
    return result.layout.parts if isinstance(result, Spread) else 1


def collect(pieces: Sequence[Any]) -> Any:
    """NumPy arrays with the run axis first, from the results of a program for each of `shares`."""

    def joined(piece: Any) -> Any:
        if not isinstance(piece, Spread):
            return jax.tree.map(np.asarray, piece)
        # Devices that share a batch hold the same runs.
        first = slice(None, None, piece.layout.parts)
        return jax.tree.map(lambda x: np.concatenate(np.asarray(x)[first]), piece.tree)

    return jax.tree.map(lambda *shares: np.concatenate(shares), *map(joined, pieces))


def place_like(pieces: Sequence[Any], leaves: Sequence[np.ndarray]) -> list[Any]:
    """Undoes `jax.tree.leaves(collect(pieces))`: pieces of the same structure, on the same devices."""
    first = pieces[0]
    structure = jax.tree.structure(first.tree if isinstance(first, Spread) else first)
    tree = jax.tree.unflatten(structure, leaves)
    if isinstance(first, Spread):
        layout = first.layout
        return [Spread(jax.tree.map(lambda x: layout.place(x, 0, None), tree), layout)]
    return split(tree, len(leaves[0]))


def collect_batches(result: Any) -> np.ndarray:
    """Like `collect` for one array (runs, batch, ...) whose batch may have been cut over devices."""
    if not isinstance(result, Spread):
        return np.asarray(result)
    shape = result.layout.shares, result.layout.parts
    x = np.asarray(result.tree)
    x = np.moveaxis(x.reshape(*shape, *x.shape[1:]), 1, 2)
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3], *x.shape[4:])


def shares(runs: int) -> list[slice]:
    """Shares of the runs whose calls go side by side.

    Of two runs or more: a run alone turns batched products into single ones, which XLA computes by other code, slower
    on a CPU and with other bits.
    """
    return threads.shares(runs, least=2)
