"""The encoder against timm's DINOv2, whose positions are resized, and with registers stored, in a way of its own."""

import pytest

pytest.importorskip("torch")

from tests import parity  # noqa: E402

parity.declare_torchvision()
timm = pytest.importorskip("timm")

from tests.torch_vit import fade, randomise  # noqa: E402

pytestmark = parity.MARKS

CASES = [
    ("vit_small_patch14_dinov2", 12, "224"),
    ("vit_small_patch14_dinov2", 12, "112x560"),
    ("vit_small_patch14_reg4_dinov2", 12, "224"),
    ("vit_small_patch14_reg4_dinov2", 12, "112x560"),
    ("vit_base_patch14_reg4_dinov2", 2, "112x560"),
    ("vit_large_patch14_reg4_dinov2", 2, "224"),
    ("vit_giant_patch14_reg4_dinov2", 2, "112x560"),
]


def build(name: str, **options):
    model = timm.create_model(name, pretrained=False, dynamic_img_size=True, num_classes=0, **options)
    return randomise(model)


@pytest.fixture(scope="module")
def pair(request):
    """A model by its name and depth; pytest keeps one at a time."""
    name, depth = request.param
    model = build(name, depth=depth)
    return parity.Pair(model, model.blocks)


@pytest.mark.parametrize(
    ("pair", "size"),
    [((name, depth), size) for name, depth, size in CASES],
    ids=[f"{name}, {depth} blocks-{size}" for name, depth, size in CASES],
    indirect=["pair"],
)
def test_every_block_agrees(pair, size, record_property):
    assert pair.converted.layout == "timm"
    assert pair.converted.config.position_mode == "antialias"
    pair.check(*parity.SIZES[size], record_property)


def test_every_block_of_dino_agrees_where_the_position_mode_is_given(record_property):
    model = build("vit_small_patch16_224", depth=2)
    pair = parity.Pair(model, model.blocks, position_mode="antialias")
    assert not pair.converted.config.layer_scale
    pair.check(112, 560, record_property)


def test_the_epsilon_of_norms_agrees(record_property):
    model = fade(build("vit_small_patch14_reg4_dinov2", embed_dim=128, depth=2, num_heads=2))
    parity.Pair(model, model.blocks).check(112, 182, record_property)


def test_positions_are_stored_in_both_of_the_known_ways():
    counts = [build(f"vit_small_patch14_{part}dinov2", depth=1).pos_embed.shape[1] for part in ("", "reg4_")]
    assert counts == [1 + 37**2, 37**2]
