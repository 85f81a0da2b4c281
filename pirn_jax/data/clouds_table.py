"""The table of numbers inside a PLY or PCD: a row for each point, laid out as the header says."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from pirn_jax.data import images

_NOT_A_NUMBER = re.compile(r"[-+]?(?:nan\([a-z0-9]*\)|1\.#[a-z]+\d*|inf(?:inity)?)(?=\s|$)", re.IGNORECASE)
"""What C runtimes write that is no number: glibc's nan(...), Microsoft's -nan(ind), 1.#QNAN and 1.#INF."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One value of a point.

    Attributes:
      name: such as "x".
      kind: type and byte order.
      count: numbers in the value.
    """

    name: str
    kind: np.dtype
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Table:
    """Layout of the table that follows a header.

    Attributes:
      fields: in the order of the file.
      rows: number of points.
    """

    fields: tuple[Field, ...]
    rows: int

    def __post_init__(self):
        names = [field.name for field in self.fields]
        missing = [name for name in "xyz" if names.count(name) != 1]
        if missing:
            raise ValueError(f"its points have no {', '.join(missing)}, or more than one")
        for field in self.fields:
            if field.count < 1 or (field.name in ("x", "y", "z") and field.count != 1):
                raise ValueError(f"its points have {field.count} numbers for {field.name}")
        if not 0 < 3 * self.rows <= images.MOST_VALUES:
            raise ValueError(f"its header claims {self.rows:,} points")

    @property
    def row_bytes(self) -> int:
        """Bytes of a point in a binary file."""
        return sum(field.kind.itemsize * field.count for field in self.fields)

    def from_text(self, body: bytes) -> np.ndarray:
        """Coordinates (rows, 3) from a line of text for each point.

        Raises:
          ValueError: if the lines do not hold what the header says.
        """
        lines = body.decode("ascii").split("\n", self.rows)[: self.rows]
        if len(lines) < self.rows or not all(line.strip() for line in lines):
            raise ValueError(f"{self.rows:,} points are claimed, fewer lines hold one")
        first = np.cumsum([0, *(field.count for field in self.fields)])
        columns = [first[i] for i in self._coordinates()]
        try:
            return np.loadtxt(lines, usecols=columns, comments=None, ndmin=2)
        except ValueError:
            plain = [_NOT_A_NUMBER.sub("nan", line) for line in lines]
            return np.loadtxt(plain, usecols=columns, comments=None, ndmin=2)

    def from_rows(self, body: bytes) -> np.ndarray:
        """Coordinates (rows, 3) from points that follow each other in binary.

        Raises:
          ValueError: if there are fewer than the header says.
        """
        self._check_length(body)
        kind = np.dtype([(str(i), field.kind, (field.count,)) for i, field in enumerate(self.fields)])
        points = np.frombuffer(body, kind, self.rows)
        return np.concatenate([points[str(i)] for i in self._coordinates()], axis=1)

    def from_columns(self, body: bytes) -> np.ndarray:
        """Coordinates (rows, 3) from binary fields that follow each other, each with all points.

        Raises:
          ValueError: if there are fewer than the header says.
        """
        self._check_length(body)
        first = np.cumsum([0, *(self.rows * field.kind.itemsize * field.count for field in self.fields)])
        columns = [np.frombuffer(body, self.fields[i].kind, self.rows, first[i]) for i in self._coordinates()]
        return np.stack(columns, axis=1)

    def _coordinates(self) -> Iterator[int]:
        names = [field.name for field in self.fields]
        return (names.index(name) for name in "xyz")

    def _check_length(self, body: bytes) -> None:
        if len(body) < self.rows * self.row_bytes:
            raise ValueError(f"{self.rows * self.row_bytes:,} bytes of points are claimed, {len(body):,} are there")
