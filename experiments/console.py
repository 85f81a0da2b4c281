"""Progress: a bar where a person watches, and everywhere one line for each finished stage."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def stage(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows one stage of work on standard error.

    Args:
      title: what is being done.
      total: steps it takes.

    Yields:
      `advance(count, loss)`: tells that `count` more steps are done, with the current loss if there is one.
    """
    begin = time.perf_counter()
    watched = sys.stderr.isatty()
    with tqdm(total=total, desc=title, disable=not watched, leave=False, dynamic_ncols=True) as bar:

        def advance(count: int, loss: float | None = None) -> None:
            if loss is not None:
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(count)

        yield advance
    print(f"{title}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
