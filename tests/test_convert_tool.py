"""The converter from files to a file, and what it says of files that it cannot use."""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from pirn_jax.encoders import pretrained, weights
from tests.public_weights import DINO, REGISTERS, facebook, huggingface, params_of
from tools import public_files

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = dataclasses.replace(REGISTERS, width=64, heads=1, patch=14)
STATE = facebook(CONFIG)


def run(*flags: str, as_path: bool = False, **environment: str) -> subprocess.CompletedProcess:
    start = [str(ROOT / "tools" / "convert_dinov2.py")] if as_path else ["-m", "tools.convert_dinov2"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(
        [sys.executable, *start, *flags],
        cwd=None if as_path else ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess, said: str) -> None:
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr + done.stdout


def test_a_file_is_converted_described_and_loaded(tmp_path):
    source = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(huggingface(STATE), source)
    done = run(f"--source={source}", as_path=True)
    assert done.returncode == 0, done.stderr
    encoder = pretrained.load(str(pretrained.converted_path("model")))
    assert encoder.config == CONFIG
    assert encoder.groups == (pretrained.default_blocks(3),)
    np.testing.assert_array_equal(encoder.params["params"]["cls"], params_of(STATE, CONFIG)["params"]["cls"])
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for said in (
        digest,
        "huggingface's",
        "used, 3 not needed",
        "embeddings.mask_token",
        "3 blocks of 64 channels, 1 heads, gelu MLP of 256, layer scale, 4 registers, patches of 14 pixels",
        "antialias",
        "stored as float32",
        "1, 2, averaged",
        "test image of 224 pixels",
        "all finite",
        str(pretrained.converted_path("model")),
    ):
        assert said in done.stdout, said
    stored = weights.load(pretrained.converted_path("model"))
    assert stored.provenance["source"] == "model.safetensors"
    assert stored.provenance["source_sha256"] == digest
    assert (stored.provenance["licence"], stored.provenance["layout"]) == ("unknown", "huggingface")
    assert set(stored.provenance) == {"source", "source_sha256", "licence", "layout", "description"}


def test_flags_set_precision_blocks_position_mode_and_licence(tmp_path):
    source, output = tmp_path / "model.safetensors", tmp_path / "out" / "mine.safetensors"
    safetensors.numpy.save_file(STATE, source)
    flags = ("--dtype=float16", "--blocks=3,1", "--position_mode=plain", "--licence=MIT")
    done = run(f"--source={source}", f"--output={output}", *flags)
    assert done.returncode == 0, done.stderr
    stored = weights.load(output)
    assert (stored.blocks, stored.config.position_mode, stored.provenance["licence"]) == ((1, 3), "plain", "MIT")
    assert output.stat().st_size < 0.6 * source.stat().st_size


def test_what_cannot_be_converted_is_told_in_one_sentence(tmp_path):
    resnet = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file({"conv1.weight": np.ones((8, 3, 7, 7), np.float32)}, resnet)
    assert_refused(run(f"--source={resnet}"), "supported are vision transformers of DINO and DINOv2")
    assert not pretrained.converted_path("resnet").exists()
    assert_refused(run(), "give either --source=FILE or --download=NAME")


def test_a_download_is_converted_under_its_name(tmp_path, monkeypatch):
    # What is in the cache already, with its record, is not fetched again.
    folder = tmp_path / "cache" / "downloads"
    folder.mkdir(parents=True)
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(DINO, width=64, heads=1, patch=16)
    state = {name: torch.from_numpy(value) for name, value in facebook(config).items()}
    torch.save(state, folder / "dino_deitsmall16_pretrain.pth")
    done = run("--download=dino_vits16")
    assert done.returncode == 0, done.stderr
    assert "Apache-2.0" in done.stdout
    assert (folder / "dino_deitsmall16_pretrain.pth.json").exists()
    assert pretrained.load("dino_vits16").config == config


def test_half_precision_of_safetensors_is_read(tmp_path):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        state = {name: value.astype(dtype) for name, value in STATE.items()}
        safetensors.numpy.save_file(state, tmp_path / "half.safetensors")
        found = public_files.read(tmp_path / "half.safetensors")
        np.testing.assert_array_equal(np.float32(found["cls_token"]), np.float32(state["cls_token"]))


FILES = {
    "page.pth": (b"<html>Sign in</html>", "is a web page"),
    "empty.pth": (b"", "is empty"),
    "text.pth": (b"once upon a time there was a file of weights", "is damaged, or neither PyTorch's file nor"),
    "short.safetensors": (b"\x10\0\0\0\0\0\0\0{", "is damaged, or neither"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_no_weights_are_named(name, tmp_path):
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {said}"):
        public_files.read(tmp_path / name)


def test_directories_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="is a directory; name the file"):
        public_files.read(tmp_path)
    with pytest.raises(ValueError, match="model.pth is not there"):
        public_files.read(tmp_path / "model.pth")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def save(torch, path: pathlib.Path, wrap=lambda state: state, **options) -> None:
    torch.save(wrap({name: torch.from_numpy(value) for name, value in STATE.items()}), path, **options)


WRAPPERS = {
    "bare": lambda state: state,
    "teacher": lambda state: {"student": {}, "teacher": state, "epoch": 3},
    "args": lambda state: {"args": argparse.Namespace(lr=1.0), "teacher": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": state}},
}


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pytorchs_files_are_read_and_unwrapped(torch, wrapper, zipped, tmp_path):
    save(torch, tmp_path / "model.pth", WRAPPERS[wrapper], _use_new_zipfile_serialization=zipped)
    found = public_files.read(tmp_path / "model.pth")
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.torch
def test_half_precision_of_pytorch_is_read(torch, tmp_path):
    for dtype in (torch.float16, torch.bfloat16):
        value = torch.tensor([1.5, -2.25]).to(dtype)
        torch.save({"x": value, "count": torch.tensor(3)}, tmp_path / "model.pth")
        found = public_files.read(tmp_path / "model.pth")
        assert found["x"].dtype == np.float32
        assert found["x"].tolist() == [1.5, -2.25]
        assert found["count"].dtype == np.int64


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.torch
@pytest.mark.parametrize("form", ["zipped", "legacy", "pickle"])
def test_code_in_a_file_is_not_executed(torch, form, tmp_path):
    source, witness = tmp_path / "model.pth", tmp_path / "witness"
    content = {"model": {"x": torch.ones(3)}, "extra": Malicious(witness)}
    if form == "pickle":
        source.write_bytes(pickle.dumps({"x": np.ones(3), "extra": Malicious(witness)}))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=form == "zipped")
    with pytest.raises(ValueError, match=r"model\.pth is damaged, or holds objects besides tensors.*state_dict"):
        public_files.read(source)
    assert not witness.exists()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.99])
def test_truncated_files_of_pytorch_are_named(torch, share, zipped, tmp_path):
    path = tmp_path / "model.pth"
    save(torch, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"model\.pth is damaged"):
        public_files.read(path)


@pytest.mark.torch
@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, {"model": [1]}, {"encoder": {"x": 1}}])
def test_files_without_tensors_are_named(torch, content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth holds no tensors by name, and none under teacher, state_dict"):
        public_files.read(tmp_path / "model.pth")


@pytest.mark.torch
def test_older_torch_is_refused(torch, tmp_path, monkeypatch):
    save(torch, tmp_path / "model.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ValueError, match=r"torch 2\.9\.1\+cpu may execute code .* 2\.10 .*pirn_jax\[convert\]"):
        public_files.read(tmp_path / "model.pth")


def test_a_missing_torch_is_told_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"need torch 2\.10 or newer: pip install 'pirn_jax\[convert\]'"):
        public_files.read(tmp_path / "model.pth")
