"""Directory of caches: everything in it can be made or fetched again."""

import os
import pathlib


def cache_directory() -> pathlib.Path:
    """`$PIRN_CACHE`, or `~/.cache/pirn_jax`."""
    return pathlib.Path(os.environ.get("PIRN_CACHE") or pathlib.Path.home() / ".cache" / "pirn_jax")
