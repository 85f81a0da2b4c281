"""Numbers that the PIRN paper (ICLR 2026) prints, by table; fractions, None where a table has none.

Table 3 is printed again as Table 9, Table 5 as Table 11. Of Table 2 the marks that say which modules are on are not
legible in the text at hand: the rows are those that a published review of the paper names. Of Table 6 the columns of
three methods are legible, and of PIRN the averages and two categories that Sec. 4 tells.
"""

from collections.abc import Mapping
from typing import NamedTuple

Values = tuple[float | None, ...]
"""Image AUROC, pixel AUROC, AUPRO@30%; or one metric by category, their mean last."""

MVTEC, EYECANDIES, REALIAD = "mvtec3d", "eyecandies", "realiad_d3"

TITLES = {
    "procedural": "built-in parts",
    MVTEC: "MVTec 3D-AD",
    EYECANDIES: "Eyecandies",
    REALIAD: "Real-IAD D3",
}
"""Data sets in words; others are called by their names."""


class FewShot(NamedTuple):
    """A row of Table 1.

    Attributes:
      shots: "5", "10", "50" or "all".
      method: as the table calls it.
      values: by data set.
    """

    shots: str
    method: str
    values: Mapping[str, Values]


_FEW_SHOT = """
5   BTF         .671 .980 .920  .652 .815 .738
5   AST         .680 .950 .903  .633 .741 .691
5   M3DM        .822 .984 .937  .764 .871 .807
5   CFM         .811 .986 .949  .795 .879 .801
5   3D-ADNAS    .826 -    -     .775 .875 -
5   INP-Former  .851 .988 .957  .859 .946 .862
5   PIRN        .890 .990 .960  .895 .955 .887
10  BTF         .695 .983 .928  .685 .834 .806
10  AST         .689 .946 .835  .671 .767 .624
10  M3DM        .845 .986 .943  .824 .890 .812
10  CFM         .845 .987 .954  .838 .903 .825
10  3D-ADNAS    .848 -    -     .807 .869 -
10  INP-Former  .885 .989 .960  .872 .947 .870
10  PIRN        .922 .991 .966  .912 .969 .896
50  BTF         .806 .989 .947  .721 .856 .824
50  AST         .794 .974 .929  .739 .862 .715
50  M3DM        .907 .989 .955  .836 .933 .846
50  CFM         .906 .991 .965  .852 .926 .851
50  3D-ADNAS    .890 -    -     .868 .912 -
50  INP-Former  .921 .991 .965  .902 .967 .892
50  PIRN        .945 .993 .970  .924 .975 .908
all BTF         .865 .992 .959  .740 .883 .845
all AST         .937 .976 .944  .780 .902 .744
all M3DM        .945 .992 .964  .882 .977 .887
all CFM         .954 .993 .971  .881 .974 .887
all 3D-ADNAS    .951 -    -     .946 .970 -
all INP-Former  .952 .994 .971  .934 .981 .918
all PIRN        .963 .994 .973  .948 .983 .923
"""


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)


def _few_shot(line: str) -> FewShot:
    shots, method, *numbers = line.split()
    values = tuple(map(_number, numbers))
    return FewShot(shots, method, {MVTEC: values[:3], EYECANDIES: values[3:]})


FEW_SHOT = tuple(map(_few_shot, _FEW_SHOT.strip().splitlines()))
"""Table 1."""

MODULES: dict[str, Values] = {
    "w/o BPA, APR, MNC": (0.828, 0.976, 0.952),
    "w/o BPA": (0.883, 0.990, 0.956),
    "w/o APR": (0.916, 0.990, 0.961),
    "w/o MNC": (0.867, 0.988, 0.947),
    "full PIRN": (0.922, 0.991, 0.966),
}
"""Table 2: MVTec 3D-AD, 10 shots."""

ASSIGNMENTS: dict[str, Values] = {
    "softmax attention": (0.832, 0.967, 0.929),
    "linear attention": (0.845, 0.968, 0.931),
    "sigmoid attention": (0.878, 0.976, 0.954),
    "balanced optimal transport": (0.922, 0.991, 0.966),
}
"""Tables 3 and 9: MVTec 3D-AD, 10 shots."""

CONTEXTS: dict[str, Values] = {
    "w/o APR": (0.916, 0.990, 0.961),
    "global averaging": (0.915, 0.989, 0.960),
    "top-k averaging": (0.921, 0.991, 0.964),
    "balanced optimal transport": (0.922, 0.991, 0.966),
}
"""Table 4: MVTec 3D-AD, 10 shots."""

BACKBONES: dict[str, Values] = {
    "DINOv1 ViT-B/8": (0.892, 0.974, 0.946),
    "DINOv2 ViT-B/14": (0.923, 0.993, 0.968),
    "DINOv2 ViT-L/14": (0.928, 0.994, 0.970),
}
"""Table 10: MVTec 3D-AD, 10 shots."""

MVTEC_CATEGORIES = ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire")

PER_CATEGORY: dict[str, dict[str, Values]] = {
    "image_auroc": {
        "BTF": (0.938, 0.765, 0.972, 0.888, 0.960, 0.664, 0.904, 0.929, 0.982, 0.726, 0.865),
        "AST": (0.983, 0.873, 0.976, 0.971, 0.932, 0.885, 0.974, 0.981, 1.000, 0.797, 0.937),
        "M3DM": (0.994, 0.909, 0.972, 0.976, 0.960, 0.942, 0.973, 0.899, 0.972, 0.850, 0.945),
        "CFM": (0.994, 0.888, 0.984, 0.993, 0.980, 0.888, 0.941, 0.943, 0.980, 0.953, 0.954),
        "3D-ADNAS": (0.997, 1.000, 0.971, 0.986, 0.966, 0.948, 0.897, 0.873, 1.000, 0.867, 0.951),
        "Shape Guided": (0.986, 0.894, 0.983, 0.991, 0.976, 0.857, 0.990, 0.965, 0.990, 0.869, 0.947),
        "PIRN": (0.971, 0.973, 0.941, 0.957, 0.975, 0.993, 0.992, 0.950, 0.996, 0.880, 0.963),
    },
    "aupro_30": {
        "BTF": (0.976, 0.969, 0.979, 0.973, 0.933, 0.888, 0.896, 0.912, 0.950, 0.971, 0.959),
        "AST": (0.970, 0.947, 0.981, 0.939, 0.913, 0.906, 0.979, 0.982, 0.889, 0.940, 0.944),
        "M3DM": (0.970, 0.971, 0.979, 0.950, 0.941, 0.932, 0.977, 0.971, 0.971, 0.975, 0.964),
        "CFM": (0.979, 0.972, 0.982, 0.945, 0.950, 0.968, 0.980, 0.943, 0.950, 0.981, 0.971),
        "Shape Guided": (0.981, 0.973, 0.982, 0.971, 0.962, 0.978, 0.981, 0.983, 0.974, 0.975, 0.976),
        "PIRN": (0.966, 0.978, 0.983, 0.972, 0.976, 0.971, 0.981, 0.978, 0.974, 0.951, 0.973),
    },
}
"""Tables 5 and 11: MVTec 3D-AD, all shots; by `MVTEC_CATEGORIES`, then the mean that is printed."""

REALIAD_MEANS: dict[str, Values] = {
    "Cflow (RGB)": (0.645, 0.808),
    "SimpleNet (RGB)": (0.659, 0.843),
    "PointMAE (3D)": (0.644, 0.554),
    "D3M (RGB, pseudo-3D, 3D)": (0.890, None),
    "PIRN (RGB, normals)": (0.873, 0.961),
}
"""Table 6, averages of image and pixel AUROC over 20 categories, all shots."""

REALIAD_TOLD: dict[str, Mapping[str, float]] = {
    "D3M (RGB, pseudo-3D, 3D)": {"fork_crimp_terminal": 0.819, "lego_propeller": 0.739},
    "PIRN (RGB, normals)": {"fork_crimp_terminal": 0.978, "lego_propeller": 1.000},
}
"""Image AUROC of categories that Sec. 4 tells of Table 6."""

LATENCY_MS = 17.49
"""Of PIRN on MVTec 3D-AD, as a published review of the paper has it; the paper's machine has two RTX 4090."""

DISPLACEMENT = (0.40, 0.50)
"""How much farther anomalous tokens move than normal ones on average (Sec. 4, Figure 4), as a share."""
