"""PCD, the format of the Point Cloud Library, version 0.7: ascii, binary and binary_compressed."""

import re
import struct

import numpy as np

from pirn_jax.data.clouds_table import Field, Table

_TYPES = {"F": "f", "I": "i", "U": "u"}


def parse(data: bytes) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Points (n, 3) of a PCD, and its height and width if it is organised.

    Raises:
      ValueError: if the bytes are no PCD or less than its header says.
    """
    end = re.search(rb"^DATA[ \t]+(\w+)[ \t]*\r?\n", data, re.MULTILINE)
    if end is None:
        raise ValueError("no PCD header")
    lines = (line.split() for line in data[: end.start()].decode("latin-1").splitlines())
    header = {line[0].upper(): line[1:] for line in lines if len(line) > 1}
    width, height, points = (_number(header, key) for key in ("WIDTH", "HEIGHT", "POINTS"))
    # Before version 0.6 a header tells the number of points alone.
    rows = points if width is None or height is None else width * height
    if rows is None:
        raise ValueError("its header lacks WIDTH and HEIGHT, and POINTS too")
    found = _decode(Table(_fields(header), rows), end[1].decode(), data[end.end() :])
    if width is None or height is None or min(height, width) < 2:
        return found, None
    return found, (height, width)


def _number(header: dict[str, list[str]], key: str) -> int | None:
    values = header.get(key, [])
    if not values:
        return None
    if len(values) > 1 or not values[0].isdecimal():
        raise ValueError(f"its header says {key} {' '.join(values)}")
    return int(values[0])


def _fields(header: dict[str, list[str]]) -> tuple[Field, ...]:
    # Older programs say COLUMNS.
    names = header.get("FIELDS", header.get("COLUMNS", []))
    defaults = {"TYPE": "F", "SIZE": "4", "COUNT": "1"}
    columns = {key: header.get(key, [default] * len(names)) for key, default in defaults.items()}
    for key, values in columns.items():
        if len(values) != len(names):
            raise ValueError(f"its header names {len(names)} fields, and {key} has {len(values)} values")
    for key in ("SIZE", "COUNT"):
        if not all(value.isdecimal() for value in columns[key]):
            raise ValueError(f"its header says {key} {' '.join(columns[key])}")
    unknown = {kind for kind in columns["TYPE"] if kind.upper() not in _TYPES}
    if unknown:
        raise ValueError(f"its header has fields of TYPE {', '.join(sorted(unknown))}, not F, I or U")
    return tuple(
        Field(name, np.dtype(f"<{_TYPES[kind.upper()]}{int(size)}"), int(count))
        for name, kind, size, count in zip(names, *columns.values(), strict=True)
    )


def _decode(table: Table, encoding: str, body: bytes) -> np.ndarray:
    if encoding == "ascii":
        return table.from_text(body)
    if encoding == "binary":
        return table.from_rows(body)
    if encoding == "binary_compressed":
        if len(body) < 8:
            raise ValueError("it ends before its points")
        packed, unpacked = struct.unpack_from("<II", body)
        if unpacked != table.rows * table.row_bytes:
            raise ValueError(f"{unpacked:,} bytes of points are packed, {table.rows * table.row_bytes:,} are claimed")
        return table.from_columns(_unpack_lzf(body[8 : 8 + packed], unpacked))
    raise ValueError(f"DATA {encoding} is unknown")


def _unpack_lzf(packed: bytes, size: int) -> bytes:
    """Bytes of an LZF stream: runs of 1 to 32 new bytes, and copies of 3 to 264 bytes from up to 8192 back."""
    out = bytearray()
    at = 0
    while at < len(packed) and len(out) <= size:
        control = packed[at]
        at += 1
        if control < 32:
            out += packed[at : at + control + 1]
            at += control + 1
            continue
        length = (control >> 5) + 2
        if at + (length == 9) >= len(packed):
            raise ValueError("its compressed points end within a copy")
        if length == 9:
            length += packed[at]
            at += 1
        start = len(out) - ((control & 31) << 8) - packed[at] - 1
        at += 1
        if start < 0:
            raise ValueError("a copy from before the first byte")
        piece = out[start : start + length]
        # A copy may run into what it writes: then its bytes repeat.
        out += (piece * (length // len(piece) + 1))[:length]
    if len(out) != size:
        raise ValueError(f"{size:,} bytes were claimed, {len(out):,} came out")
    return bytes(out)
