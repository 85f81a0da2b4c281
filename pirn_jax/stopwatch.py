"""Seconds of a study by stage."""

import collections
import contextlib
import time
from collections.abc import Iterator

import jax.monitoring

_COMPILATION = "/jax/core/compile/backend_compile_duration"


class Stopwatch:
    """Seconds by stage, with XLA's compilation taken out of the stages and counted apart.

    Used as a context manager around everything it should see.

    Attributes:
      seconds: by name of the stage; `compile_s` is the compilation.
      compilations: programs that XLA compiled or fetched from its cache.
    """

    def __init__(self):
        self.seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self.compilations = 0

    def __enter__(self) -> "Stopwatch":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        begin, compiled = time.perf_counter(), self.seconds["compile_s"]
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            # Programs that compile side by side may take longer together than the block.
            self.seconds[name] += max(elapsed - (self.seconds["compile_s"] - compiled), 0.0)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event == _COMPILATION:
            self.seconds["compile_s"] += duration_secs
            self.compilations += 1
