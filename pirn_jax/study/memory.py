"""Memory of this machine, and refusals before a study exceeds it."""

import os
import pathlib

from pirn_jax.data.problems import InputError

GIB = 2**30

BASE_BYTES = int(1.2 * GIB)
"""Memory of a process that has compiled its programs, without features and parameters (measured)."""

_CGROUP = pathlib.Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process could still take, within the limits of its container."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


def require(needed: int, what: str, remedy: str) -> None:
    """Refuses what exceeds the memory.

    Args:
      needed: bytes.
      what: needs them, the subject of the sentence.
      remedy: what to do.

    Raises:
      InputError: if so many are not available.
    """
    free = available()
    if needed > free:
        raise InputError(
            f"{what} need about {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are available; {remedy}"
        )
