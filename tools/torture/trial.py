"""A trial of the torture: how often it was made, and what failed."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Trial:
    """One line of the table.

    Attributes:
      name: of the fault.
      tries: how often it was tried.
      failures: a sentence each.
      seconds: that it took.
      told: what else to say of it.
    """

    name: str
    tries: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    told: str = ""

    def expect(self, holds: bool, sentence: str) -> None:
        """Notes a failure unless something holds."""
        if not holds:
            self.failures.append(sentence)


@contextlib.contextmanager
def timed(trial: Trial) -> Iterator[Trial]:
    """Counts the seconds of a block; an error in it is a failure of the trial."""
    begin = time.monotonic()
    try:
        yield trial
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        trial.failures.append(f"{type(error).__name__}: {error}")
    finally:
        trial.seconds = time.monotonic() - begin


def table(trials: list[Trial]) -> str:
    """Table of trials, and below it their failures."""
    rows = [("fault", "tries", "failures", "seconds", "")]
    rows += [(t.name, f"{t.tries:,}", str(len(t.failures)), f"{t.seconds:.0f}", t.told) for t in trials]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{trial.name}: {sentence}" for trial in trials for sentence in trial.failures[:20]]
    return "\n".join(lines)
