"""Small Parquet files, written by hand: one row group, one page a column, nothing compressed.

Only what a stub needs: columns of whole numbers and texts, and lists of them, none of them null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Value = int | str
Cell = Value | Sequence[Value]

_MAGIC = b"PAR1"
# Types of the compact Thrift encoding.
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
# Enumerations of Parquet: physical types, repetitions, annotations, encodings.
_INT32, _BYTES = 1, 6
_REQUIRED, _REPEATED = 0, 2
_UTF8, _AS_LIST = 0, 3
_PLAIN, _RLE = 0, 3


class _Field(NamedTuple):
    number: int
    kind: int
    data: bytes


class _Column(NamedTuple):
    name: str
    cells: Sequence[Cell]

    @property
    def is_list(self) -> bool:
        return not isinstance(self.cells[0], int | str)

    @property
    def values(self) -> list[Value]:
        found: list[Value] = []
        for cell in self.cells:
            found += [cell] if isinstance(cell, int | str) else cell
        return found

    @property
    def is_text(self) -> bool:
        return isinstance(self.values[0], str)

    @property
    def path(self) -> list[str]:
        return [self.name, "list", "element"] if self.is_list else [self.name]


def parquet(columns: Mapping[str, Sequence[Cell]], metadata: Mapping[str, str]) -> bytes:
    """A file with these columns of equal length and these key-value pairs.

    There is at least one row, and no list is empty.
    """
    rows = {len(cells) for cells in columns.values()}
    assert len(rows) == 1 and rows != {0}
    written = bytearray(_MAGIC)
    chunks = []
    for name, cells in columns.items():
        column = _Column(name, cells)
        page = _page(column)
        chunks.append(_chunk(column, len(written), len(page)))
        written += page
    count = rows.pop()
    group = _struct(_list(1, _STRUCT, chunks), _int(2, len(written), _I64), _int(3, count, _I64))
    schema = [_struct(_text(4, "schema"), _int(5, len(columns)))]
    for name, cells in columns.items():
        schema += _schema(_Column(name, cells))
    footer = _struct(
        _int(1, 1),
        _list(2, _STRUCT, schema),
        _int(3, count, _I64),
        _list(4, _STRUCT, [group]),
        _list(5, _STRUCT, [_struct(_text(1, k), _text(2, v)) for k, v in metadata.items()]),
        _text(6, "nemotron stub"),
    )
    return bytes(written) + footer + len(footer).to_bytes(4, "little") + _MAGIC


def _page(column: _Column) -> bytes:
    data = _levels(column) if column.is_list else b""
    for value in column.values:
        if isinstance(value, str):
            text = value.encode()
            data += len(text).to_bytes(4, "little") + text
        else:
            data += value.to_bytes(4, "little", signed=True)
    inner = _struct(_int(1, len(column.values)), _int(2, _PLAIN), _int(3, _RLE), _int(4, _RLE))
    header = _struct(_int(1, 0), _int(2, len(data)), _int(3, len(data)), _Field(5, _STRUCT, inner))
    return header + data


def _levels(column: _Column) -> bytes:
    """Where each list begins (repetition 0, then 1), and that every item is there (definition 1)."""
    begins = b""
    for cell in column.cells:
        assert not isinstance(cell, int | str) and cell
        begins += _run(1, 0) + (_run(len(cell) - 1, 1) if len(cell) > 1 else b"")
    there = _run(len(column.values), 1)
    return b"".join(len(part).to_bytes(4, "little") + part for part in (begins, there))


def _run(count: int, level: int) -> bytes:
    return _varint(count << 1) + bytes((level,))


def _chunk(column: _Column, offset: int, size: int) -> bytes:
    meta = _struct(
        _int(1, _BYTES if column.is_text else _INT32),
        _list(2, _I32, [_zigzag(_PLAIN), _zigzag(_RLE)]),
        _list(3, _BINARY, [_string(part) for part in column.path]),
        _int(4, 0),
        _int(5, len(column.values), _I64),
        _int(6, size, _I64),
        _int(7, size, _I64),
        _int(9, offset, _I64),
    )
    return _struct(_int(2, offset, _I64), _Field(3, _STRUCT, meta))


def _schema(column: _Column) -> list[bytes]:
    kind = _int(1, _BYTES if column.is_text else _INT32)
    note = [_int(6, _UTF8)] if column.is_text else []
    if not column.is_list:
        return [_struct(kind, _int(3, _REQUIRED), _text(4, column.name), *note)]
    return [
        _struct(_int(3, _REQUIRED), _text(4, column.name), _int(5, 1), _int(6, _AS_LIST)),
        _struct(_int(3, _REPEATED), _text(4, "list"), _int(5, 1)),
        _struct(kind, _int(3, _REQUIRED), _text(4, "element"), *note),
    ]


def _struct(*fields: _Field) -> bytes:
    data, last = b"", 0
    for field in fields:
        data += bytes(((field.number - last) << 4 | field.kind,)) + field.data
        last = field.number
    return data + b"\0"


def _int(number: int, value: int, kind: int = _I32) -> _Field:
    return _Field(number, kind, _zigzag(value))


def _text(number: int, value: str) -> _Field:
    return _Field(number, _BINARY, _string(value))


def _list(number: int, kind: int, items: Sequence[bytes]) -> _Field:
    count = len(items)
    head = bytes((count << 4 | kind,)) if count < 15 else bytes((0xF0 | kind,)) + _varint(count)
    return _Field(number, _LIST, head + b"".join(items))


def _string(value: str) -> bytes:
    data = value.encode()
    return _varint(len(data)) + data


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
