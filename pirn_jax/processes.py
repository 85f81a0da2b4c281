"""Several processes, on one or many hosts, that share the groups of a study through its directory.

Runs need nothing from one another, so processes need no network between them: each takes its turns, leaves finished
groups in the directory and finds those of the others there. A file of each process changes as long as it lives; that is
how the others learn of its end. Only changes count, so the clocks of hosts need not agree.
"""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pirn_jax.data.problems import InputError

T = TypeVar("T")


class Team:
    """One process among those that share a study; by default a process alone.

    Attributes:
      directory: where all of them leave signs of life.
      index: of this process, from 0.
      count: of processes.
      patience: seconds without a sign of life after which a process counts as dead.
      plan: how the study is cut into groups; processes with different plans would wait for one another forever.
    """

    def __init__(
        self, directory: pathlib.Path = pathlib.Path(), index: int = 0, count: int = 1, patience: float = 120.0
    ):
        self.directory, self.index, self.count, self.patience = directory, index, count, patience
        self.plan = ""

    def takes(self, turn: int) -> bool:
        """Whether a turn is this process's."""
        return turn % self.count == self.index

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Shows signs of life during the block.

        Raises:
          OSError: if the directory cannot be written to.
        """
        if self.count == 1:
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._beat(0)
        ended = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            # The last process finds the directory empty; what a killed one left stays.
            with contextlib.suppress(OSError):
                self._sign(self.index).unlink()
                self.directory.rmdir()

    def wait(self, turn: int, what: str, find: Callable[[], T | None]) -> T:
        """Waits for what another process finishes.

        Args:
          turn: the other process's.
          what: is awaited, in words.
          find: returns it, or None as long as it is not there.

        Raises:
          InputError: if the other process shows no sign of life, or follows another plan.
        """
        owner = turn % self.count
        seen, since = self._read(owner), time.monotonic()
        while (found := find()) is None:
            sign = self._read(owner)
            if sign != seen:
                seen, since = sign, time.monotonic()
                self._check_plan(owner, sign.partition("\n")[2])
            elif time.monotonic() - since > self.patience:
                raise InputError(
                    f"{self.directory.parent}: process {owner} of {self.count} has not finished {what} and has shown "
                    f"no sign of life for {self.patience:g} s; see what it printed, then run the same command in all "
                    "processes again, which continues"
                )
            time.sleep(min(1.0, self.patience / 50))
        return found

    def _check_plan(self, owner: int, plan: str) -> None:
        if plan and plan != self.plan:
            raise InputError(
                f"{self.directory.parent}: process {owner} of {self.count} cuts the study into other groups ({plan}) "
                f"than process {self.index} ({self.plan}); give all processes equal devices"
            )

    def _sign(self, index: int) -> pathlib.Path:
        return self.directory / f"{index}-of-{self.count}"

    def _beat(self, beats: int) -> None:
        # Written in place: network file systems are quicker to show a changed file than a renamed one.
        self._sign(self.index).write_text(f"{beats}\n{self.plan}")

    def _beat_until(self, ended: threading.Event) -> None:
        beats = 0
        while not ended.wait(min(5.0, self.patience / 10)):
            beats += 1
            # A disk that is full or away for a moment is the study's to tell of.
            with contextlib.suppress(OSError):
                self._beat(beats)

    def _read(self, index: int) -> str:
        try:
            return self._sign(index).read_text()
        except OSError:
            return ""
