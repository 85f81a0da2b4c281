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
    header = {line[0]: line[1:] for line in lines if len(line) > 1}
    (width,), (height,) = (map(int, header.get(key, ())) for key in ("WIDTH", "HEIGHT"))
    table = Table(_fields(header), width * height)
    return _decode(table, end[1].decode(), data[end.end() :]), (height, width) if min(height, width) > 1 else None


def _fields(header: dict[str, list[str]]) -> tuple[Field, ...]:
    names = header.get("FIELDS", [])
    columns = zip(
        names, header.get("TYPE", []), header.get("SIZE", []), header.get("COUNT", ["1"] * len(names)), strict=True
    )
    return tuple(
        Field(name, np.dtype(f"<{_TYPES[kind]}{int(size)}"), int(count)) for name, kind, size, count in columns
    )


def _decode(table: Table, encoding: str, body: bytes) -> np.ndarray:
    if encoding == "ascii":
        return table.from_text(body)
    if encoding == "binary":
        return table.from_rows(body)
    if encoding == "binary_compressed":
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
