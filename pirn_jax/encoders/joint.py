"""Several encoders side by side."""

import dataclasses
from typing import Any

Groups = tuple[tuple[int, ...], ...]
"""Layer groups, the blocks of each, from 1."""


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """Architectures of several encoders, whose features lie side by side along channels.

    Attributes:
      parts: architecture and layer groups of each.
    """

    parts: tuple[tuple[Any, Groups], ...]

    @property
    def patch(self) -> int:
        """Side in pixels of the smallest patch."""
        return min(config.patch for config, _ in self.parts)

    @property
    def width(self) -> int:
        """Channels of all encoders together."""
        return sum(config.width for config, _ in self.parts)


def parts(config: Any, groups: Groups) -> tuple[tuple[Any, Groups], ...]:
    """Architecture and layer groups of each encoder; of a single one these two."""
    return config.parts if isinstance(config, JointConfig) else ((config, groups),)
