"""Processes that share a study, on one host or several.

Each (`jax.distributed`) trains whole groups of runs on its own devices, without communication: a group lost with its
process is the only work lost, and no process waits for another's step.
"""

import jax
from jax.experimental import multihost_utils

from pirn_jax.data.problems import InputError

_HEARTBEAT = 20
"""Seconds without a heartbeat after which a process counts as lost."""


def connect(address: str | None, count: int | None, index: int | None) -> None:
    """Joins the processes that share a study; where none is given, those that `jax.distributed` detects.

    Args:
      address: host:port of process 0.
      count: number of processes.
      index: of this process.

    Raises:
      InputError: if they cannot be joined.
    """
    try:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=_HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"processes cannot be joined: {str(error).splitlines()[0]}") from error


def process() -> tuple[int, int]:
    """Index of this process and number of processes."""
    return jax.process_index(), jax.process_count()


def barrier(name: str) -> None:
    """Waits for all processes.

    Raises:
      InputError: if another process has ended.
    """
    if jax.process_count() == 1:
        return
    try:
        multihost_utils.sync_global_devices(name)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {jax.process_index()}: another process has ended ({str(error).splitlines()[0]}); see what it "
            "printed, then run the same command in all processes again, which continues"
        ) from error
