"""Pickles written operation by operation: they name torch's classes, and torch need not be there."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple


class Named(NamedTuple):
    """A class, function or constant."""

    module: str
    name: str


class Called(NamedTuple):
    """What a function returns for these arguments."""

    of: Named
    arguments: tuple[Any, ...]


class Built(NamedTuple):
    """An instance of a class with this state."""

    of: Named
    state: Any


class Items(NamedTuple):
    """A dictionary whose keys Python could not hash."""

    pairs: list[tuple[Any, Any]]


class Outside(NamedTuple):
    """A value that lies outside the pickle, known by its id."""

    id: tuple[Any, ...]


def pickled(value: Any) -> bytes:
    """`value` as a pickle of protocol 2: plain data, and the descriptions above."""
    out = bytearray(b"\x80\x02")
    _put(value, out)
    return bytes(out + b".")


def _put(value: Any, out: bytearray) -> None:
    kind = type(value)
    if kind in _ATOMS:
        out += _ATOMS[kind](value)
    elif kind is Named:
        out += f"c{value.module}\n{value.name}\n".encode("ascii")
    elif kind is Called:
        _put(value.of, out)
        _put(value.arguments, out)
        out += b"R"
    elif kind is Built:
        _put(value.of, out)
        out += b")\x81"
        _put(value.state, out)
        out += b"b"
    elif kind is Outside:
        _put(value.id, out)
        out += b"Q"
    elif kind is tuple:
        _put_all(b"(", value, b"t", out)
    elif kind is list:
        _put_all(b"](", value, b"e", out)
    else:
        pairs = value.pairs if kind is Items else value.items()
        _put_all(b"}(", (each for pair in pairs for each in pair), b"u", out)


def _put_all(before: bytes, values: Any, after: bytes, out: bytearray) -> None:
    out += before
    for value in values:
        _put(value, out)
    out += after


def _number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def _text(value: str) -> bytes:
    text = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(text)) + text


_ATOMS = {
    type(None): lambda value: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _number,
    float: lambda value: b"G" + struct.pack(">d", value),
    str: _text,
}
