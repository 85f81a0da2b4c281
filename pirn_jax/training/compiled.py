"""Compiled programs that later processes find again."""

import os
import pathlib

import jax

from pirn_jax import atomic
from pirn_jax.data.problems import InputError


def keep(directory: pathlib.Path) -> None:
    """Keeps what XLA compiles on disk for later processes, in a directory that only its owner can write.

    Who can write there can have code run by whoever reads. In a place that can only be read nothing new is kept.

    Raises:
      InputError: if the directory belongs to somebody else, or others can write there.
      OSError: if it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in atomic.READ_ONLY:
            return
        raise
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise InputError(
            f"{directory}: compiled programs of it would run as you, but it belongs to somebody else or others can "
            "write there; delete it, or choose another PIRN_CACHE"
        )
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # A study has a dozen programs of half a second each, which JAX by default would compile anew each time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
