"""Other views of a good part, turned, moved or mirrored, from which a run learns besides the part as it was seen."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class View(NamedTuple):
    """Appearance of a part; its defaults leave the images as they are.

    Attributes:
      angle: in radians, by which the images are turned counter-clockwise about their middle.
      shift: to the right and up, in shares of the images' side.
      mirrored: left and right are exchanged, before the part is turned.
      grey: the image in RGB is grey.
      border: what is seen beyond the images, "black" or their reflection, "mirror".
    """

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    grey: bool = False
    border: str = "black"


ORIGINAL = View()


def _inp_former() -> tuple[View, ...]:
    turns = [sign * i * math.pi / 16 for i in range(1, 5) for sign in (1, -1)]
    shifts = [(x * by, y * by) for by in (0.1, 0.05) for x in (1, -1) for y in (1, -1)]
    quarters = [i * math.pi / 2 for i in (1, 2, 3)]
    return (
        ORIGINAL,
        *(View(angle, border="mirror") for angle in turns),
        *(View(shift=shift, border="mirror") for shift in shifts),
        View(mirrored=True),
        View(grey=True),
        *(View(angle) for angle in quarters),
    )


AUGMENTATIONS: Mapping[str, tuple[View, ...]] = MappingProxyType(
    {
        "none": (ORIGINAL,),
        "rotations": (ORIGINAL, *(View(i * math.pi / 4) for i in range(1, 8))),
        "inp_former": _inp_former(),
    }
)
"""Views by name, the original first: the eight rotations of AnomalyDINO (Damm et al., WACV 2025), and the published
code of INP-Former (Luo et al., CVPR 2025) for few shots."""
