"""Memory of this machine, and refusals before a study exceeds it."""

import os
import pathlib

from pirn_jax.data.problems import InputError

GIB = 2**30

BASE_BYTES = int(1.2 * GIB)
"""Memory of a process that has compiled its programs, without features and parameters (measured)."""

_CGROUP = pathlib.Path("/sys/fs/cgroup")
_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit of a container and what it takes, by the second and the first version of Linux's control groups."""


def available() -> int:
    """Bytes that this process could still take, within the limits of its container."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for names in _FILES:
        try:
            limit, used = (int((_CGROUP / name).read_text()) for name in names)
        except (OSError, ValueError):
            continue
        return min(free, limit - used + _reclaimable(_CGROUP / names[1]))
    return free


def _reclaimable(usage: pathlib.Path) -> int:
    """Bytes of files that Linux keeps in memory, counts as taken, and drops when somebody needs them."""
    try:
        lines = (usage.parent / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    # The first version counts the groups below apart.
    names = ("total_inactive_file", "inactive_file")
    found = dict(line.split(" ", 1) for line in lines if line.startswith(names))
    return int(next((found[name] for name in names if name in found), 0))


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
