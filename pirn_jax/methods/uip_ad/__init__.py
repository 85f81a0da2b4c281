"""UIP-AD: one set of prototypes for both modalities of a sample, and decoders that they guide."""

from pirn_jax.methods.base import Entry, Preset, Published, Recipe
from pirn_jax.methods.uip_ad.config import Config
from pirn_jax.methods.uip_ad.decoder import Network
from pirn_jax.methods.uip_ad.method import build

__all__ = ["ENTRY", "Config", "Network", "build"]

_PAPER_FLAGS = {
    "encoder": "dinov2_vitb14",
    "blocks": "3-6/7-10",
    "input_size": 392,
    "geometry": "depth",
    "grid": 28,
    "background": "keep",
    "fusion": "sum",
}
"""Appendix A.4: DINOv2 ViT-B/14, layers 2 to 9 from 0 in two groups, depth maps, crops of 392 pixels, here resized."""

PRESETS = {
    # Our choice for the minutes of a laptop.
    "default": Preset(Config(), Recipe(epochs=5, learning_rate=1e-3, batch_size=4)),
    # Eqs. 4 to 11 as printed; the paper names no optimiser, rate, epochs or batch: those are INP-Former's but for Adam.
    "paper": Preset(
        Config(
            num_blocks=8,
            heads=12,
            mlp_ratio=4.0,
            residual=True,
            gather_weight=0.0,
            mining_exponent=0.0,
            score="cosine",
        ),
        Recipe(epochs=200, learning_rate=1e-3, batch_size=16),
        _PAPER_FLAGS,
    ),
}

PUBLISHED = (
    Published("mvtec3d", "all", "UIP-AD paper, Table 1", 10, 0.968, None, 0.981),
    Published("eyecandies", "all", "UIP-AD paper, Table 2", 10, 0.957, None, 0.942),
    Published("realiad_d3", "all", "UIP-AD paper, Table 3", 20, 0.918, None, 0.819),
)

ENTRY = Entry(Config, PRESETS, build, PUBLISHED)
