"""Reader of PyTorch's legacy files: tensors and nothing else, from honest, damaged and malicious files."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from pirn_jax.encoders import torch_legacy
from pirn_jax.encoders.torch_legacy import LegacyFileError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Global:
    """Pickled as a name of a module."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce_ex__(self, protocol):
        return self.function, self.arguments


class Writer(pickle._Pickler):
    """Writes globals by name, and storages as persistent ids, as PyTorch does."""

    def persistent_id(self, obj):
        """Tuples that begin with "storage"."""
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None

    def save(self, obj, save_persistent_id=True):
        """Globals without importing them."""
        if isinstance(obj, Global):
            self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
        else:
            super().save(obj, save_persistent_id)

    def save_reduce(self, func, args, *more, **named):
        """Calls of globals."""
        if isinstance(func, Global):
            self.save(func)
            self.save(args)
            self.write(b"R")
        else:
            super().save_reduce(func, args, *more, **named)


def dump(value):
    buffer = io.BytesIO()
    Writer(buffer, 2).dump(value)
    return buffer.getvalue()


def tensor(key, offset, shape, strides, kind="FloatStorage", size=6):
    storage = ("storage", Global("torch", kind), key, "cpu", size, None)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, {})


def legacy(state, storages):
    """The bytes of a file with a state dict and its storages by key."""
    parts = [MAGIC, PROTOCOL, {"little_endian": True}, state, list(storages)]
    data = b"".join(map(dump, parts))
    for values in storages.values():
        data += struct.pack("<q", len(values)) + values.tobytes()
    return data


def read(tmp_path, data):
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    return torch_legacy.read(path)


VALUES = np.arange(6, dtype=np.float32)
WHOLE = {
    "a": tensor("0", 0, (2, 3), (3, 1)),
    "b.c": tensor("0", 1, (2, 2), (1, 2)),
    "n": tensor("1", 0, (), (), "LongStorage", 1),
}
STORAGES = {"0": VALUES, "1": np.array([7])}


def test_tensors_are_views_of_their_storages(tmp_path):
    found = read(tmp_path, legacy(WHOLE, STORAGES))
    np.testing.assert_array_equal(found["a"], VALUES.reshape(2, 3))
    np.testing.assert_array_equal(found["b.c"], [[1, 3], [2, 4]])
    assert (found["n"], found["n"].dtype) == (7, np.int64)


@pytest.mark.torch
def test_files_of_pytorch_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5)).eval()
    path = tmp_path / "model.pth"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    found, expected = torch_legacy.read(path), module.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.numpy())
    torch.save(module.state_dict(), path)
    with pytest.raises(LegacyFileError, match="model.pth: "):
        torch_legacy.read(path)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"a": Call(Global("os", "system"), "touch hacked")}, "which is no tensor"),
        ({"a": Call(Global("builtins", "eval"), "open('hacked', 'w')")}, "which is no tensor"),
        ({"a": Global("os", "system")}, "holds _Name, not tensors alone"),
        ({"a": Call(Global("collections", "OrderedDict"), [("a", 1)])}, "dictionary of another kind"),
        ({"a": tensor("0", 0, (2, 3), (3, 1), "UntypedStorage")}, "of another kind"),
        ({"a": tensor("0", 0, (3, 3), (3, 1))}, "reaches past its storage"),
        ({"a": tensor("0", 0, (2, 3), (3, 10**12))}, "reaches past its storage"),
        ({"a": tensor("0", 0, (10**9, 10**9), (0, 0))}, "larger than its storage"),
        ({"a": tensor("0", -1, (2,), (1,))}, "impossible shape"),
        ({"a": tensor("0", 3, (2, 2), (-1, 1))}, "impossible shape"),
        ({"a": [1, 2]}, "holds list, not tensors alone"),
        ([1, 2], "not a state dict"),
        ({"a": tensor("9", 0, (2,), (1,))}, "damaged"),
    ],
)
def test_other_objects_are_refused_and_nothing_runs(tmp_path, monkeypatch, state, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LegacyFileError, match=sentence):
        read(tmp_path, legacy(state, {"0": VALUES}))
    assert os.listdir(tmp_path) == ["model.pth"]


def test_every_truncation_is_refused(tmp_path):
    values = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    data = legacy({"a": tensor("0", 0, (4000,), (1,), size=4000)}, {"0": values})
    assert len(data) > 16000
    for length in [*range(0, len(data), 1024), *range(0, 400, 7), len(data) - 1]:
        with pytest.raises(LegacyFileError, match="model.pth: "):
            read(tmp_path, data[:length])
    np.testing.assert_array_equal(read(tmp_path, data)["a"], values)


def test_a_size_that_the_file_does_not_have_allocates_nothing(tmp_path):
    data = legacy({"a": tensor("0", 0, (2**40,), (1,), size=2**40)}, {"0": VALUES})
    with pytest.raises(LegacyFileError, match="storage 0 is cut off"):
        read(tmp_path, data)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), b"version https://git-lfs", b"<html>", bytes(5000)])
def test_other_files_are_refused(tmp_path, data):
    with pytest.raises(LegacyFileError, match="model.pth: "):
        read(tmp_path, data)


def test_attributes_of_an_ordered_dictionary_are_passed_over(tmp_path):
    with_attributes = dump({"a": WHOLE["a"]})[:-1] + dump({"_metadata": 1})[2:-1] + b"b."
    file = b"".join([dump(MAGIC), dump(PROTOCOL), dump({}), with_attributes, dump(["0"])])
    file += struct.pack("<q", 6) + VALUES.tobytes()
    np.testing.assert_array_equal(read(tmp_path, file)["a"], VALUES.reshape(2, 3))
