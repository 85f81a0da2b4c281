"""Flags of what a method sees of parts, and of how its maps become one."""

import math
import re
from typing import Any

from absl import flags

from pirn_jax import features, scoring
from pirn_jax.data.views import AUGMENTATIONS
from pirn_jax.encoders import pretrained
from pirn_jax.study.spec import MODALITIES

flags.DEFINE_string(
    "encoder",
    pretrained.DEFAULT,
    f"Frozen encoder: {', '.join(pretrained.NAMES)}, or a file of tools/convert_dinov2.py; or several, whose features "
    "lie side by side, separated by commas.",
)
flags.DEFINE_string(
    "blocks", None, "Blocks of a single encoder, from 1, as 2-10 or 2,3,4, averaged; groups of layers as 2-5/6-9."
)
flags.DEFINE_integer("grid", 0, "Patches along a side; by default the finest of the encoders'.", lower_bound=0)
flags.DEFINE_list("modalities", list(MODALITIES), "Modalities: rgb, geometry, or both.")
flags.DEFINE_enum("background", "ignore", features.BACKGROUNDS, "Whether patches off the part count.")
flags.DEFINE_enum(
    "augmentation",
    "none",
    list(AUGMENTATIONS),
    "Views of each good part to learn from: as it is; eight rotations, for parts that lie turned; or 22 forms.",
)
flags.DEFINE_float("sigma", 4.0, "Gaussian on anomaly maps, in pixels of the encoder's input.", lower_bound=0.0)
flags.DEFINE_enum(
    "fusion",
    "maximum",
    scoring.FUSIONS,
    "Sum of maps; or sum, one-class sum, or maximum, of each judge, of maps divided by what good parts reach.",
)

FLAGS = flags.FLAGS


def fields() -> dict[str, Any]:
    """Fields of a `Spec` by name; its encoder is loaded.

    Raises:
      ValueError: if a flag has an impossible value.
    """
    if not math.isfinite(FLAGS.sigma):
        raise ValueError(f"--sigma={FLAGS.sigma}: give a number of pixels, 0 for no smoothing")
    blocks = _parse_blocks(FLAGS.blocks)
    if blocks is not None and "," in FLAGS.encoder:
        raise ValueError(f"--blocks={FLAGS.blocks}: blocks are those of one encoder; give --encoder=NAME with it")
    return {
        "encoder": pretrained.load(FLAGS.encoder, None if blocks is None else [blocks]),
        "modalities": tuple(FLAGS.modalities),
        **{name: FLAGS[name].value for name in ("grid", "background", "augmentation", "sigma", "fusion")},
    }


def _parse_blocks(text: str | None) -> tuple[tuple[int, ...], ...] | None:
    """Layer groups such as 2-10, 2,3,4 or 2-5/6-9."""
    if text is None:
        return None
    groups = []
    for group in text.split("/"):
        numbers: list[int] = []
        for part in group.split(","):
            ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
            if not ends or int(ends[1]) < 1 or int(ends[2] or ends[1]) < int(ends[1]):
                raise ValueError(f"--blocks={text}: give numbers of blocks, from 1, as 2-10, 2,3,4 or 2-5/6-9")
            numbers += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        groups.append(tuple(numbers))
    return tuple(groups)
