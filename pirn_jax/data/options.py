"""Options of the readers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """Choices that readers take note of where their data set offers them.

    Attributes:
      light: which of Eyecandies' six images shows a part, 0 to 5.
      native_normals: takes the data set's own normals where it has some, instead of computing them.
      unit: metres in one unit of the data set's clouds; None takes the unit that its authors name.
    """

    light: int = 4
    native_normals: bool = False
    unit: float | None = None
