"""INP-Former: decoders that rebuild a sample from prototypes of its own (Luo et al., CVPR 2025)."""

from pirn_jax.methods.base import Entry, Preset, Recipe, published_rows
from pirn_jax.methods.inp_former.method import Config, Network, build

__all__ = ["ENTRY", "Config", "Network", "build"]

_PAPER_FLAGS = {
    "encoder": "dinov2_vitb14_reg",
    "blocks": "3-6/7-10",
    "input_size": 392,
    "grid": 28,
    "background": "keep",
    "augmentation": "inp_former",
    "fusion": "sum",
    "image_score": "0.01",
}
"""The published code: DINOv2 ViT-B/14 with registers, blocks 2 to 9 from 0 in two groups; here images are resized."""

PRESETS = {
    # Our choice for the minutes of a laptop.
    "default": Preset(Config(), Recipe(epochs=5, learning_rate=1e-3, batch_size=4, schedule="cosine")),
    # The published code but for one model for all categories.
    "paper": Preset(
        Config(num_blocks=8, heads=12, mlp_ratio=4.0, score="cosine"),
        Recipe(epochs=200, learning_rate=1e-3, batch_size=16, schedule="cosine"),
        _PAPER_FLAGS,
    ),
}

PUBLISHED = published_rows(
    "PIRN paper, Table 1",
    {
        "mvtec3d": {"5": (0.851, 0.957), "10": (0.885, 0.960), "50": (0.921, 0.965)},
        "eyecandies": {"5": (0.859, 0.862), "10": (0.872, 0.870), "50": (0.902, 0.892)},
    },
)

ENTRY = Entry(Config, PRESETS, build, PUBLISHED)
