"""Problems of the user's input, in full sentences, all of them in one run."""

import contextlib
from collections.abc import Iterator

_SHOWN = 20


class InputError(ValueError):
    """Something is wrong with what the user gave; the message is one sentence that names it and the remedy."""


class Problems:
    """Collects what is wrong, so that one run tells all of it.

    Attributes:
      found: the sentences, in the order in which they were met.
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, sentence: str) -> None:
        """Notes one problem, once."""
        if sentence not in self.found:
            self.found.append(sentence)

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Notes an `InputError` of its block instead of letting it through."""
        try:
            yield
        except InputError as error:
            self.add(str(error))

    def check(self) -> None:
        """Stops if anything was found.

        Raises:
          InputError: with the one sentence, or a list of the first ones.
        """
        if not self.found:
            return
        if len(self.found) == 1:
            raise InputError(self.found[0])
        lines = [f"{len(self.found)} problems:", *self.found[:_SHOWN]]
        if len(self.found) > _SHOWN:
            lines.append(f"and {len(self.found) - _SHOWN} more; python -m tools.check_dataset lists all")
        raise InputError("\n  ".join(lines))
