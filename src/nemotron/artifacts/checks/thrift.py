"""The compact encoding of Thrift, read front to back without building what nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

BOOL_TRUE, BOOL_FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_INTEGERS = (I16, I32, I64)
_MAX_DEPTH = 64
_FIXED = MappingProxyType({BYTE: 1, DOUBLE: 8})


class ThriftError(Exception):
    """The bytes are not a Thrift structure, or are cut off."""


class Reader:
    """A place in the bytes of one structure. Errors: `ThriftError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of the structure that begins here.

        The caller reads or skips the value of a field before it asks for the next.
        """
        number = 0
        while head := self._byte():
            step = head >> 4
            number = number + step if step else self._zigzag()
            yield number, head & 15

    def elements(self, wanted: int) -> range:
        """The positions in the list that begins here; its elements have to be of the type `wanted`."""
        kind, count = self._list_head()
        if count and kind != wanted:
            raise ThriftError("a list of another type")
        return range(count)

    def integer(self, kind: int) -> int:
        """A whole number."""
        if kind not in _INTEGERS:
            raise ThriftError("not a whole number")
        return self._zigzag()

    def text(self, kind: int) -> str:
        """A string."""
        if kind != BINARY:
            raise ThriftError("not a string")
        try:
            return self._bytes(self._varint()).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ThriftError("a string that is not UTF-8") from exc

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > _MAX_DEPTH:
            raise ThriftError("nested too deeply")
        if kind in _INTEGERS:
            self._varint()
        elif kind in _FIXED:
            self._bytes(_FIXED[kind])
        elif kind == BINARY:
            self._bytes(self._varint())
        elif kind in (LIST, SET):
            inner, count = self._list_head()
            for _ in range(count):
                self._skip_element(inner, depth)
        elif kind == MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._skip_element(kinds >> 4, depth)
                self._skip_element(kinds & 15, depth)
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind not in (BOOL_TRUE, BOOL_FALSE):
            raise ThriftError("a value of no known type")

    def _skip_element(self, kind: int, depth: int) -> None:
        if kind in (BOOL_TRUE, BOOL_FALSE):  # a byte of its own, where a field has it in its type
            self._byte()
        else:
            self.skip(kind, depth + 1)

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        return head & 15, self._varint() if count == 15 else count

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise ThriftError("cut short")
        self._at += count
        return piece

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ThriftError("a number without an end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
