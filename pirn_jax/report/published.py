"""Results that the paper of PIRN reports of its own method, to stand beside a run."""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """One row of a table of the paper.

    Attributes:
      dataset: name of the data set.
      shots: good parts of each category, or "all".
      table: where the row stands.
      image_auroc: mean over all categories of the data set, a fraction.
      pixel_auroc: the same.
      aupro_30: the same, None where the table has none.
    """

    dataset: str
    shots: str
    table: str
    image_auroc: float
    pixel_auroc: float
    aupro_30: float | None


ROWS = (
    Published("mvtec3d", "5", "Table 1", 0.890, 0.990, 0.960),
    Published("mvtec3d", "10", "Table 1", 0.922, 0.991, 0.966),
    # The same encoder and number of shots as in Table 1, and other numbers.
    Published("mvtec3d", "10", "Table 10", 0.923, 0.993, 0.968),
    Published("mvtec3d", "50", "Table 1", 0.945, 0.993, 0.970),
    Published("mvtec3d", "all", "Table 1", 0.963, 0.994, 0.973),
    Published("eyecandies", "5", "Table 1", 0.895, 0.955, 0.887),
    Published("eyecandies", "10", "Table 1", 0.912, 0.969, 0.896),
    Published("eyecandies", "50", "Table 1", 0.924, 0.975, 0.908),
    Published("eyecandies", "all", "Table 1", 0.948, 0.983, 0.923),
    Published("realiad_d3", "all", "Table 6", 0.873, 0.961, None),
)
CATEGORIES = {"mvtec3d": 10, "eyecandies": 10, "realiad_d3": 20}
"""Over how many categories the means are taken."""


def rows(results: dict[str, Any], shots: str) -> list[Published]:
    """What was published of the data set and number of shots of a run; `tfds:NAME` is the same data as NAME."""
    dataset = str(results["dataset"]).removeprefix("tfds:").split("/")[0].removeprefix("pirn_")
    return [row for row in ROWS if (row.dataset, row.shots) == (dataset, shots)]
