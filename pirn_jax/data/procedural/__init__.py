"""Built-in parts: colour images, organised point clouds and ground truth, generated in the layout of MVTec 3D-AD.

Six categories: food with strong natural variation (`doughnut`, `strawberry`), a turned part (`knob`), moulded ones
(`gear`, `connector`) and a woven one (`coaster`). Each has five defects: one that shows only in the point cloud, one
only in the colour image, two in both, and one where both are normal and only their combination is wrong. A defect that
shows only in the point cloud simulates diffuse tent lighting: the colour image is that of the undamaged surface.
"""

from pirn_jax.data.procedural.catalogue import (
    CATEGORIES,
    COLOUR_THRESHOLD,
    HEIGHT_THRESHOLD_MM,
    VERSION,
    defects,
    reference,
    render,
)
from pirn_jax.data.procedural.dataset import DEFAULT_COUNTS, Counts, ensure, write
from pirn_jax.data.procedural.defects import DEFECTS

__all__ = [
    "CATEGORIES",
    "COLOUR_THRESHOLD",
    "DEFAULT_COUNTS",
    "DEFECTS",
    "HEIGHT_THRESHOLD_MM",
    "VERSION",
    "Counts",
    "defects",
    "ensure",
    "reference",
    "render",
    "write",
]
