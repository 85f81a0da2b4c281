"""Work on many parts in several processes: what fails is told at the end and stops nothing else."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from tools import console

Result = TypeVar("Result")


def over_parts(
    work: Callable[[Record], Result], records: Sequence[Record], workers: int, title: str, problems: Problems
) -> list[Result | None]:
    """Calls a function for every part, in `workers` processes or, for one, in this one.

    Args:
      work: can be pickled; an `InputError` of it is a problem of its part.
      records: the parts.
      workers: number of processes; more than processors or parts are no use and are not started.
      title: what is being done, for the progress bar.
      problems: where failures are noted.

    Returns:
      What the function returned, in the order of the parts; None where it failed.

    Raises:
      InputError: if a process died, as it does for want of memory.
    """
    results: list[Result | None] = [None] * len(records)
    workers = min(workers, os.cpu_count() or 1, len(records))
    with console.stage(title, len(records)) as advance:
        if workers <= 1:
            for i, record in enumerate(records):
                with problems.collecting():
                    results[i] = work(record)
                advance(1)
            return results
        # JAX has threads of its own, which do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context, _begin) as pool:
            pending = {pool.submit(work, record): i for i, record in enumerate(records)}
            try:
                for future in concurrent.futures.as_completed(pending):
                    with problems.collecting():
                        results[pending[future]] = future.result()
                    advance(1)
            except concurrent.futures.process.BrokenProcessPool as error:
                raise InputError(
                    f"--workers={workers}: a process died, perhaps for want of memory; take fewer, what is done is kept"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results


def _begin() -> None:
    """Sets a worker up: it leaves accelerators to others, and ends with its parent, however that ends."""
    jax.config.update("jax_platforms", "cpu")

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
