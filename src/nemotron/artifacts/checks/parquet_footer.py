"""The footer of a Parquet file: its columns, rows and metadata, read without trusting it and without a row.

The format: `PAR1`, the pages, a Thrift structure, its length in 4 bytes, `PAR1` again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import open_regular, unreadable
from .report import Problem, shown
from .thrift import BINARY, LIST, STRUCT, Reader, ThriftError

MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
# 16 MiB hold the footer of 10,000 row groups of 8 columns.
_LIMIT = 16 << 20
_MAX_COLUMNS = 10_000
_MAX_GROUPS = 200_000
_MAX_DEPTH = 32
_MAX_KEYS = 1000
_KINDS = ("boolean", "int32", "int64", "int96", "float", "double", "bytes", "bytes")
_REPEATED = 2


@dataclass(frozen=True, slots=True)
class Element:
    """A node of the schema: `kind` is the type of a leaf and None for a group of `children`."""

    name: str
    kind: str | None
    repeated: bool
    children: tuple[Element, ...] = ()


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says of itself. metadata: the key-value pairs, strings of at most 1,000 characters."""

    columns: tuple[Element, ...]
    rows: int
    row_groups: int
    metadata: Mapping[str, str]
    bytes: int


def read_footer(path: Path) -> Footer | Problem:
    """The footer of the file at `path`, or the first thing that is wrong with it."""
    file = open_regular(path)
    if isinstance(file, Problem):
        return file
    with file:
        try:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(4)
            file.seek(max(0, size - 8))
            tail = file.read(8)
            if head == _ENCRYPTED or tail[4:] == _ENCRYPTED:
                return _broken("an encrypted Parquet file, which is not read")
            if size < 12 or head != MAGIC:
                return _broken("no Parquet file")
            if tail[4:] != MAGIC:
                return _broken("cut short: the Parquet footer at the end is missing")
            length = int.from_bytes(tail[:4], "little")
            if length > size - 12:
                return _broken(f"cut short: {size} bytes, the footer alone has {length}")
            if length > _LIMIT:
                return _broken(f"a footer of {length} bytes, more than the {_LIMIT} that are read")
            file.seek(size - 8 - length)
            data = file.read(length)
        except OSError as exc:
            return unreadable(exc)
    try:
        return _Parser(data, size, size - 8 - length).footer()
    except ThriftError as exc:
        return _broken(f"the footer cannot be read: {exc}")


def _broken(what: str) -> Problem:
    return Problem("data.broken_parquet", what, fix="copy or write the file again")


class _Parser:
    def __init__(self, data: bytes, size: int, pages_end: int) -> None:
        self._reader = Reader(data)
        self._size = size
        self._pages_end = pages_end
        self._groups = 0
        self._rows_in_groups = 0

    def footer(self) -> Footer | Problem:
        reader = self._reader
        schema: list[tuple[str, str | None, bool, int]] = []
        rows, metadata = -1, dict[str, str]()
        for number, kind in reader.fields():
            if number == 2 and kind == LIST:
                schema = self._schema()
            elif number == 3:
                rows = reader.integer(kind)
            elif number == 4 and kind == LIST:
                for _ in reader.elements(STRUCT):
                    self._row_group()
            elif number == 5 and kind == LIST:
                metadata = self._metadata()
            else:
                reader.skip(kind)
        root, rest = _tree(schema, 0, 0)
        if rest != len(schema) or not root.children:
            raise ThriftError("a schema that is no tree")
        if not 0 <= rows < 1 << 63 or rows != self._rows_in_groups:
            return _broken(f"{rows} rows in the file, {self._rows_in_groups} in its row groups")
        return Footer(root.children, rows, self._groups, metadata, self._size)

    def _schema(self) -> list[tuple[str, str | None, bool, int]]:
        reader, found = self._reader, list[tuple[str, str | None, bool, int]]()
        for _ in reader.elements(STRUCT):
            name, leaf, repeated, children = "", None, False, 0
            for number, kind in reader.fields():
                if number == 1:
                    leaf = _kind_of(reader.integer(kind))
                elif number == 3:
                    repeated = reader.integer(kind) == _REPEATED
                elif number == 4:
                    name = reader.text(kind)
                elif number == 5:
                    children = reader.integer(kind)
                else:
                    reader.skip(kind)
            found.append((name, leaf, repeated, children))
            if len(found) > _MAX_COLUMNS:
                raise ThriftError(f"more than {_MAX_COLUMNS:,} columns")
        return found

    def _row_group(self) -> None:
        reader = self._reader
        self._groups += 1
        if self._groups > _MAX_GROUPS:
            raise ThriftError(f"more than {_MAX_GROUPS:,} row groups")
        for number, kind in reader.fields():
            if number == 1 and kind == LIST:
                for _ in reader.elements(STRUCT):
                    self._column_chunk()
            elif number == 3:
                self._rows_in_groups += reader.integer(kind)
            else:
                reader.skip(kind)

    def _column_chunk(self) -> None:
        reader = self._reader
        for number, kind in reader.fields():
            if number == 1:
                named = shown(reader.text(kind))
                raise ThriftError(f"its pages are in another file, {named}")
            if number == 3 and kind == STRUCT:
                self._pages()
            else:
                reader.skip(kind)

    def _pages(self) -> None:
        """The pages of a column in a row group lie between the first bytes of the file and the footer."""
        reader = self._reader
        length, starts = 0, list[int]()
        for number, kind in reader.fields():
            if number == 7:
                length = reader.integer(kind)
            elif number in (9, 11):
                starts.append(reader.integer(kind))
            else:
                reader.skip(kind)
        start = min((each for each in starts if each > 0), default=0)
        if start < len(MAGIC) or length < 0 or start + length > self._pages_end:
            raise ThriftError(f"pages at {start} to {start + length}, the footer begins at {self._pages_end}")

    def _metadata(self) -> dict[str, str]:
        reader, found = self._reader, dict[str, str]()
        for _ in reader.elements(STRUCT):
            key, value = "", ""
            for number, kind in reader.fields():
                if number == 1:
                    key = reader.text(kind)
                elif number == 2 and kind == BINARY:
                    value = reader.text(kind)
                else:
                    reader.skip(kind)
            if len(found) < _MAX_KEYS:
                found[key[:_MAX_KEYS]] = value[:_MAX_KEYS]
        return found


def _kind_of(number: int) -> str:
    return _KINDS[number] if 0 <= number < len(_KINDS) else "unknown"


def _tree(schema: list[tuple[str, Any, bool, int]], at: int, depth: int) -> tuple[Element, int]:
    """The node at a position of the flattened schema, and the position after what belongs to it."""
    if at >= len(schema) or depth > _MAX_DEPTH:
        raise ThriftError("a schema that is no tree")
    name, kind, repeated, count = schema[at]
    children = []
    at += 1
    for _ in range(count):
        child, at = _tree(schema, at, depth + 1)
        children.append(child)
    return Element(name, None if children else kind, repeated, tuple(children)), at
