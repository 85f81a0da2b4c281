"""PLY, the Stanford polygon format: its vertices, and the rows and columns that scanners note in its header."""

import re

import numpy as np

from pirn_jax.data.clouds_table import Field, Table

_KINDS = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


def parse(data: bytes) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Vertices (n, 3) of a PLY, and height and width if its header tells them.

    Raises:
      ValueError: if the bytes are no PLY or less than its header says.
    """
    end = re.search(rb"^end_header[ \t]*\r?\n", data, re.MULTILINE)
    if not data.startswith(b"ply") or end is None:
        raise ValueError("no PLY header")
    lines = data[: end.start()].decode("latin-1").splitlines()
    body = data[end.end() :]
    table, encoding = _table([line.split() for line in lines])
    points = table.from_text(body) if encoding == "ascii" else table.from_rows(body)
    return points, _size(lines)


def _table(lines: list[list[str]]) -> tuple[Table, str]:
    encoding, element, rows, fields = "", "", 0, []
    for line in lines:
        match line:
            case ["format", name, "1.0"] if name in _ORDERS:
                encoding = name
            case ["format", *rest]:
                raise ValueError(f"its format {' '.join(rest)} is unknown")
            case ["element", "vertex", count]:
                if element:
                    raise ValueError("its vertices do not come first")
                if not count.isdecimal():
                    raise ValueError(f"its header says element vertex {count}")
                element, rows = "vertex", int(count)
            case ["element", name, *_]:
                element = name
            case ["property", "list", *_] if element == "vertex":
                raise ValueError("its vertices have lists")
            case ["property", kind, name] if element == "vertex":
                if not encoding or kind not in _KINDS:
                    raise ValueError(f"its property {name} is of the type {kind}" if encoding else "it tells no format")
                fields.append(Field(name, np.dtype(_ORDERS[encoding] + _KINDS[kind])))
    return Table(tuple(fields), rows), encoding


def _size(lines: list[str]) -> tuple[int, int] | None:
    note = re.compile(r"(?:comment|obj_info)\s+(num_cols|num_rows|width|height)\s*[:=]?\s*(\d{1,9})\s*", re.IGNORECASE)
    found = {match[1].lower(): int(match[2]) for match in map(note.fullmatch, lines) if match}
    height, width = found.get("num_rows", found.get("height", 1)), found.get("num_cols", found.get("width", 1))
    # One row or column is how writers note that there is no order.
    return (height, width) if min(height, width) > 1 else None
