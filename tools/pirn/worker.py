"""One thread that inspects the parts of all requests, those that wait together in one call."""

import collections
import queue
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from pirn_jax import threads
from pirn_jax.data.sample import Record
from pirn_jax.inspection import verdicts
from pirn_jax.inspection.bundle import Bundle
from pirn_jax.inspection.verdicts import Limits, Ready, Verdict

_AT_ONCE = 8
"""Most parts that go through the model in one call (our choice)."""


class Answer(NamedTuple):
    """Result of a part.

    Attributes:
      verdict: on it.
      values: its anomaly map (h, w).
      ready: its arrays, and a note for the user.
    """

    verdict: Verdict
    values: np.ndarray
    ready: Ready


class Worker:
    """Inspects parts in the order in which they come.

    Attributes:
      model: the model.
      limit: where good parts end.
    """

    def __init__(self, model: Bundle, limit: Limits, most: int):
        """Starts the thread.

        Args:
          model: the model.
          limit: where good parts end.
          most: parts that may wait.
        """
        self.model, self.limit = model, limit
        self._waiting: queue.Queue[tuple[Record, Future] | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._work, name="inspection", daemon=True)
        self._thread.start()

    def submit(self, record: Record) -> "Future[Answer]":
        """Its answer once it is there.

        Raises:
          queue.Full: if too many parts wait.
        """
        answer: Future[Answer] = Future()
        self._waiting.put_nowait((record, answer))
        return answer

    @property
    def waiting(self) -> int:
        """Parts that wait."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Answers what was taken, then ends."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken, last = [first], False
            while len(taken) < _AT_ONCE and not last:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                last = following is None
                if following is not None:
                    taken.append(following)
            self._answer(taken)
            if last:
                return

    def _answer(self, taken: list[tuple[Record, Future]]) -> None:
        def prepare(record: Record) -> Ready | Exception:
            try:
                return verdicts.prepare(self.model, record)
            except Exception as error:  # noqa: BLE001
                # Whatever is wrong with one part is that one's answer.
                return error

        of_sizes: dict[Any, list[tuple[Record, Future, Ready]]] = collections.defaultdict(list)
        for (record, answer), ready in zip(taken, threads.each(prepare, [record for record, _ in taken]), strict=True):
            if isinstance(ready, Exception):
                answer.set_exception(ready)
            else:
                of_sizes[ready.part.rgb.shape].append((record, answer, ready))
        for some in of_sizes.values():
            names, parts = [record.id for record, _, _ in some], [ready for _, _, ready in some]
            try:
                judged = verdicts.judge(self.model, self.limit, names, parts)
            except Exception as error:  # noqa: BLE001
                for _, answer, _ in some:
                    answer.set_exception(error)
                continue
            for (_, answer, ready), (verdict, values) in zip(some, judged, strict=True):
                answer.set_result(Answer(verdict, values, ready))
