"""Reader of state dicts in PyTorch's legacy file format (before 1.6), without PyTorch and without unpickling.

Such a file holds five pickles, of which the fourth is the state dict and the fifth the order of the storages that
follow. The few operations that a state dict of tensors is written with are interpreted here: dictionaries, lists,
tuples, numbers, texts and tensors are built, and nothing that a file names is imported or called.
"""

import io
import math
import pathlib
import pickletools
import struct
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch BoolStorage": np.dtype("?"),
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED = "collections OrderedDict"


class LegacyFileError(ValueError):
    """The file is no state dict in PyTorch's legacy format."""


class _Name(str):
    """A global that the pickle names."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a state dict by name.

    Raises:
      LegacyFileError: naming the file, if it is another format, holds other objects, is truncated, or a tensor reaches
        past its storage.
      OSError: if the file cannot be opened.
    """
    data = path.read_bytes()
    file = io.BytesIO(data)
    try:
        if _interpret(file) != _MAGIC or _interpret(file) != _PROTOCOL:
            raise LegacyFileError("not PyTorch's legacy format")
        _interpret(file)
        tensors, keys = _interpret(file), _interpret(file)
        if not isinstance(tensors, dict) or not isinstance(keys, list):
            raise LegacyFileError("not a state dict")
        for value in tensors.values():
            if not isinstance(value, _Tensor):
                raise LegacyFileError(f"holds {type(value).__name__}, not tensors alone")
        storages = _read_storages(file, data, tensors, keys)
        return {str(name): _view(tensor, storages) for name, tensor in tensors.items()}
    except LegacyFileError as error:
        raise LegacyFileError(f"{path}: {error}") from None
    # What operations on a damaged pickle raise: its stack is empty, or holds something else.
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, OverflowError, MemoryError) as error:
        raise LegacyFileError(f"{path}: damaged ({error})") from error


def _read_storages(file: io.BytesIO, data: bytes, tensors: dict, keys: list) -> dict[str, np.ndarray]:
    """Contents of the storages: for each key its number of elements, then the elements."""
    known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    found = {}
    for key in keys:
        storage = known[key]
        (count,) = struct.unpack("<q", file.read(8))
        end = file.tell() + count * storage.dtype.itemsize
        if count != storage.size or end > len(data):
            raise LegacyFileError(f"storage {key} is cut off")
        found[key] = np.frombuffer(data, storage.dtype, count, file.tell())
        file.seek(end)
    return found


def _view(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """The array of a tensor, copied out of its storage."""
    storage = storages[tensor.storage.key]
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or min(numbers) < 0:
        raise LegacyFileError("a tensor has an impossible shape")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, storage.dtype)
    if last >= storage.size:
        raise LegacyFileError("a tensor reaches past its storage")
    # With a stride of 0 a few numbers would stand for any number of them.
    if math.prod(tensor.shape) > storage.size:
        raise LegacyFileError("a tensor is larger than its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def _interpret(file: io.BytesIO) -> Any:
    """Runs one pickle of dictionaries, lists, tuples, constants and tensors."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def popped() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            return stack.pop()
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"):
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("EMPTY_TUPLE", "TUPLE"):
            stack.append(() if name == "EMPTY_TUPLE" else tuple(popped()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            values = tuple(stack[-count:])
            del stack[-count:]
            stack.append(values)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = popped() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            if not all(isinstance(key, str) for key in pairs[::2]):
                raise LegacyFileError("holds a dictionary whose keys are no names")
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            values = popped() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(values)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            stack.append(_storage(*stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_construct(stack.pop(), arguments))
        elif name == "BUILD":
            # Attributes of an ordered dictionary, PyTorch's version numbers of its modules.
            stack.pop()
        else:
            raise LegacyFileError(f"holds more than tensors (operation {name})")
    raise LegacyFileError("cut off")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _storage(kind: str, of: Any, key: str, location: str, size: int, *view: Any) -> _Storage:
    del location
    if kind != "storage" or of not in _TYPES or view != (None,):
        raise LegacyFileError(f"holds a {of if isinstance(of, _Name) else 'storage'} of another kind")
    return _Storage(key, _TYPES[of], size)


def _construct(name: Any, arguments: tuple) -> Any:
    """The two calls that a state dict is written with: an empty ordered dictionary, and a tensor of a storage."""
    if name == _ORDERED and isinstance(name, _Name):
        if arguments:
            raise LegacyFileError("holds a dictionary of another kind")
        return {}
    if name == _REBUILD and isinstance(name, _Name):
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, _Storage):
            raise LegacyFileError("holds a tensor without a storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))
    raise LegacyFileError(f"calls {name if isinstance(name, _Name) else type(name).__name__}, which is no tensor")
