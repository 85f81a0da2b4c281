"""Files of encoders: what is written is what is read, and what is no such file is refused in words."""

import dataclasses
import json
import os
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy

from pirn_jax.encoders import pretrained, vit, weights
from tests.public_weights import CONFIGS, DINOV2, GATED, REGISTERS, facebook, params_of

PROVENANCE = {
    "source": "tiny.pth",
    "source_sha256": "0" * 64,
    "licence": "Apache-2.0",
    "layout": "facebook",
    "description": "a tiny encoder",
}


def stored(config: vit.ViTConfig = DINOV2, **changes) -> weights.Stored:
    encoder = weights.Stored(config, params_of(facebook(config), config), (1, 3), PROVENANCE)
    return dataclasses.replace(encoder, **changes)


def rewrite(path, change) -> None:
    """Applies `change(tensors, metadata)` to a file of ours."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["pirn_jax"])
    tensors = safetensors.numpy.load(data)
    change(tensors, metadata)
    path.write_bytes(safetensors.numpy.save(tensors, {"pirn_jax": json.dumps(metadata)}))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_encoder_is_loaded_as_it_was(name, tmp_path):
    config = dataclasses.replace(CONFIGS[name], mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.05), hidden=CONFIGS[name].inner)
    written = stored(config)
    weights.save(tmp_path / "deep" / "tiny.safetensors", written)
    read = weights.load(str(tmp_path / "deep" / "tiny.safetensors"))
    assert (read.config, read.blocks, read.provenance) == (config, (1, 3), PROVENANCE)
    jax.tree.map(np.testing.assert_array_equal, read.params, written.params)
    assert jax.tree.structure(read.params) == jax.tree.structure(written.params)


def test_the_same_encoder_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        weights.save(tmp_path / name, stored())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_half_precision_takes_half_the_bytes_and_is_read_as_float32(tmp_path):
    weights.save(tmp_path / "full", stored())
    weights.save(tmp_path / "half", stored(), np.float16)
    saved = (tmp_path / "full").stat().st_size - (tmp_path / "half").stat().st_size
    count = sum(leaf.size for leaf in jax.tree.leaves(stored().params))
    assert 2 * count <= saved <= 2 * count + 64
    read = weights.load(tmp_path / "half").params
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(read))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float16(b)), read, stored().params)


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    large = stored(params=jax.tree.map(lambda leaf: 1e6 * leaf, stored().params))
    with pytest.raises(ValueError, match="not finite as float16; store it as float32"):
        weights.save(tmp_path / "half", large, np.float16)
    with pytest.raises(ValueError, match="dtype .*float32 or float16"):
        weights.save(tmp_path / "half", large, np.int8)
    assert not list(tmp_path.iterdir())


def test_tensors_are_named_by_their_paths_in_the_tree(tmp_path):
    weights.save(tmp_path / "tiny", stored(REGISTERS))
    found = safetensors.numpy.load_file(tmp_path / "tiny")
    assert {name: tensor.shape for name, tensor in found.items()} == dict(vit.shapes(REGISTERS))
    assert found["block_2.attention.qkv.kernel"].shape == (12, 36)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_initialised_encoder(name):
    config = dataclasses.replace(CONFIGS[name], depth=2)
    tree = jax.eval_shape(vit.ViT(config, (2,)).init, jax.random.key(0), np.zeros((8, 12, 3), np.float32))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    assert dict(vit.shapes(config)) == {".".join(key.key for key in path): leaf.shape for path, leaf in leaves}


FILES = {
    "web page": (b"<!DOCTYPE html><html>login</html>", "a web page"),
    "page after a blank line": (b"\xef\xbb\xbf \n<html>", "a web page"),
    "empty": (b"", "empty"),
    "zipped torch": (b"PK\x03\x04" + bytes(100), r"PyTorch's file; convert it with .*tools.convert_dinov2 --source"),
    "pickle": (b"\x80\x02}q\x00.", "a pickle.*tools.convert_dinov2"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS"),
    "text": (b"hello, world, this is no encoder at all", "damaged or no .safetensors"),
    "spaces": (b"        ", "damaged or no .safetensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_encoder_are_named_with_the_remedy(kind, tmp_path):
    content, said = FILES[kind]
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=rf"encoder\.safetensors is {said}"):
        weights.load(path)


def test_directories_and_missing_files_are_named(tmp_path):
    with pytest.raises(weights.WeightsError, match="is a directory; name the file"):
        weights.load(tmp_path)
    with pytest.raises(weights.WeightsError, match="encoder is not there; check the name"):
        weights.load(tmp_path / "encoder")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(share, tmp_path):
    path = tmp_path / "tiny"
    weights.save(path, stored())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(weights.WeightsError, match="damaged or no .safetensors"):
        weights.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_programs_tensors_are_sent_to_the_converter(metadata, tmp_path):
    safetensors.numpy.save_file(facebook(DINOV2), tmp_path / "model.safetensors", metadata)
    with pytest.raises(weights.WeightsError, match="another program's .*tools.convert_dinov2 --source=.*model"):
        weights.load(tmp_path / "model.safetensors")


def delete(key):
    return lambda tensors, metadata: tensors.pop(key)


def update(**values):
    return lambda tensors, metadata: metadata.update(values)


def put(name, value):
    return lambda tensors, metadata: tensors.update({name: value})


CHANGES = {
    "version": (update(format=2), "has version 2 of the format, this program reads 1"),
    "no version": (lambda tensors, metadata: metadata.pop("format"), "metadata that make no sense .*'format'"),
    "mode": (lambda tensors, metadata: metadata["config"].update(position_mode="nearest"), "no sense.*position_mode"),
    "field": (lambda tensors, metadata: metadata["config"].update(rope=True), "no sense.*rope"),
    "blocks": (update(blocks=None), "make no sense"),
    "missing": (delete("block_2.shrink.bias"), r"tensor block_2\.shrink\.bias has shape none.*expected \(12,\)"),
    "shape": (put("cls", np.ones((1, 13), np.float32)), r"tensor cls has shape \(1, 13\), expected \(1, 12\)"),
    "extra": (put("block_9.x", np.ones(3, np.float32)), r"block_9\.x has shape \(3,\), expected no such tensor"),
    "dtype": (put("cls", np.ones((1, 12), np.int8)), "tensor cls holds int8, expected float32 or float16"),
    "patch": (lambda tensors, metadata: metadata["config"].update(patch=10**6), "patch is 1000000, expected a whole"),
    "endless": (lambda tensors, metadata: metadata["config"].update(depth=10**12), "depth is 1000000000000, expected"),
    "heads": (lambda tensors, metadata: metadata["config"].update(heads=0), "heads is 0, expected a whole number"),
    "words": (lambda tensors, metadata: metadata["config"].update(width="12"), "width is '12', expected a whole"),
    "nothing": (lambda tensors, metadata: metadata["config"].update(registers=None), "registers is None, expected"),
    "colours": (lambda tensors, metadata: metadata["config"].update(std=[1]), r"std is \[1\], expected three numbers"),
    "depth": (lambda tensors, metadata: metadata["config"].update(depth=4), r"block_4\..* has shape none"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_files_that_contradict_themselves_are_refused(kind, tmp_path):
    change, said = CHANGES[kind]
    path = tmp_path / "tiny.safetensors"
    weights.save(path, stored())
    rewrite(path, change)
    with pytest.raises(weights.WeightsError, match=rf"tiny\.safetensors.*{said}"):
        weights.load(path)


def test_a_failed_write_leaves_the_file_of_before(tmp_path, monkeypatch):
    path = tmp_path / "tiny"
    weights.save(path, stored())
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        weights.save(path, stored(GATED))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_encoders_are_loaded_by_path_and_by_name(tmp_path):
    path = tmp_path / "mine.safetensors"
    weights.save(path, stored(provenance={**PROVENANCE, "note": "Only a test."}))
    weights.save(pretrained.converted_path("dinov2_vits14"), stored())
    mine, named = pretrained.load(str(path)), pretrained.load("dinov2_vits14")
    assert (mine.name, mine.groups, mine.note) == (str(path), ((1, 3),), "Only a test.")
    assert (named.name, named.groups, named.note) == ("dinov2_vits14", ((1, 3),), "")
    assert mine.digest == named.digest
    image = np.zeros((8, 8, 3), np.float32)
    model = jax.jit(vit.ViT(DINOV2, (1, 3)).apply)
    np.testing.assert_array_equal(model(mine.params, image), model(stored().params, image))


def test_blocks_can_be_chosen(tmp_path):
    weights.save(tmp_path / "mine.safetensors", stored())
    name = str(tmp_path / "mine.safetensors")
    assert pretrained.load(name, [((3, 2, 3), (1,))]).groups == ((2, 3), (1,))
    assert pretrained.load(name, [((3, 2),)]).digest == pretrained.load(name, [((2, 3),)]).digest
    assert pretrained.load(name, [((2, 3),)]).digest != pretrained.load(name).digest
    for groups in ((), ((),), ((0, 1),), ((1,), (4,))):
        with pytest.raises(ValueError, match="mine.safetensors, which has blocks 1 to 3"):
            pretrained.load(name, [groups])


def test_encoders_that_are_not_there_are_told_how_to_get():
    with pytest.raises(ValueError, match=r"python -m tools\.convert_dinov2 --download=dino_vitb8"):
        pretrained.load("dino_vitb8")
    with pytest.raises(weights.WeightsError, match="nowhere.safetensors is not there"):
        pretrained.load("nowhere.safetensors")


def test_a_file_of_pytorch_is_sent_to_the_converter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(weights.WeightsError, match="model.pth is PyTorch's file; convert it"):
        pretrained.load("model.pth")


def test_the_built_in_encoder_is_a_file_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(ValueError, match="lacks the built-in encoder.* choose one of random, dinov2_vits14"):
        pretrained.load("builtin")
    weights.save(tmp_path / "builtin.safetensors", stored())
    assert pretrained.load("builtin").config == DINOV2


def test_default_blocks_are_spread_alike():
    assert pretrained.default_blocks(12) == tuple(range(2, 11))
    assert pretrained.default_blocks(24) == tuple(range(4, 21, 2))
    for depth in (1, 2, 3, 4, 24, 40):
        blocks = pretrained.default_blocks(depth)
        assert 1 <= blocks[0] <= blocks[-1] <= depth
    assert len(pretrained.default_blocks(40)) == 9


def test_the_catalogue_has_whole_entries():
    for name, source in pretrained.CATALOGUE.items():
        assert source.address.startswith("https://dl.fbaipublicfiles.com/dino")
        assert ("_reg4_" in source.address) == name.endswith("_reg")
        assert (source.size is None) == (source.sha256 is None)
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
        assert source.licence == "Apache-2.0"
    known = [source.sha256 for source in pretrained.CATALOGUE.values() if source.sha256]
    assert len(set(known)) == len(known)
    # float32 weights and a little besides.
    for name, parameters in (("dinov2_vitb14", 86_580_480), ("dinov2_vitb14_reg", 86_583_552)):
        size = pretrained.CATALOGUE[name].size
        assert size is not None
        assert 4 * parameters < size < 4 * parameters + 100_000
