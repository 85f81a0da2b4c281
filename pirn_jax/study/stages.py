"""Progress of long work, shown by whoever starts it."""

import contextlib
from collections.abc import Callable

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""`with stage(title, total) as advance: advance(count, text)` shows progress."""


def hidden(title: str, total: int) -> contextlib.AbstractContextManager[Callable[..., None]]:
    """A stage that shows nothing."""
    del title, total
    return contextlib.nullcontext(lambda *done: None)
