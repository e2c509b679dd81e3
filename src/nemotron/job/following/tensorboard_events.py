"""Reads the scalars of a TensorBoard event file while somebody else writes it. Standard library only.

A file is a row of framed records: length (8 bytes), checksum of the length (4), an `Event` message, checksum
of the message (4). Of a message only what a scalar needs is decoded; a record may hold a picture instead.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 4 << 20
# A scalar's record has about a hundred bytes; what is larger is a picture or a graph, and is stepped over.
_LARGEST = 64 << 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed
_MASK = 0xA282EAD8
_DT_FLOAT, _DT_DOUBLE = 1, 2


@dataclass(frozen=True)
class Scalar:
    """One value. time: epoch seconds. at: where its record begins in the file."""

    step: int
    time: float
    tag: str
    value: float
    at: int


class EventFile:
    """An event file, read from `offset` on, each byte once."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def read(self) -> list[Scalar]:
        """The scalars of the next whole records, some megabytes of them at most.

        A record that is not all there yet is read the next time. Raises OSError.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(_CHUNK)
        found: list[Scalar] = []
        at = 0
        while (length := _framed(data, at)) is not None:
            end = at + 12 + length + 4
            if length > _LARGEST:
                found_size = self.path.stat().st_size
                if self.offset + end > found_size:
                    break
            elif end > len(data):
                break
            else:
                found += _scalars(data, at + 12, length, self.offset + at)
            at = end
        self.offset += at
        return found


def shortest(value: float) -> float:
    """The shortest decimal that a 32-bit float of this value is written from: 0.1, not 0.10000000149."""
    for digits in (6, 7, 8):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def checksum(data: bytes) -> int:
    """The masked CRC-32C of a record's frame."""
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_POLYNOMIAL if number & 1 else 0)
        found.append(number)
    return tuple(found)


def _framed(data: bytes, at: int) -> int | None:
    """The length of the record at `at`; None where no frame is there, such as zeros that a crash left."""
    if at + 12 > len(data) or struct.unpack_from("<I", data, at + 8)[0] != checksum(data[at : at + 8]):
        return None
    length: int = struct.unpack_from("<Q", data, at)[0]
    return length


def _scalars(data: bytes, at: int, length: int, place: int) -> list[Scalar]:
    """The scalars of the event at `at`; none where the message is damaged or of another kind."""
    message = data[at : at + length]
    if struct.unpack_from("<I", data, at + length)[0] != checksum(message):
        return []
    step, time = 0, 0.0
    named: list[tuple[str, float]] = []
    try:
        for number, kind, value in _fields(message):
            if (number, kind) == (1, _FIXED64):
                time = struct.unpack("<d", value)[0]
            elif (number, kind) == (2, _VARINT):
                step = int.from_bytes(value, "little", signed=True)
            elif (number, kind) == (5, _BYTES):
                named += [one for n, k, v in _fields(value) if (n, k) == (1, _BYTES) for one in _named(v)]
    except (IndexError, struct.error, UnicodeDecodeError):
        return []
    return [Scalar(step, time, tag, value, place) for tag, value in named]


def _named(message: bytes) -> Iterator[tuple[str, float]]:
    """Tag and value of a summary's entry, where it is a scalar."""
    tag, found = "", None
    for number, kind, value in _fields(message):
        if (number, kind) == (1, _BYTES):
            tag = value.decode("utf-8")
        elif (number, kind) == (2, _FIXED32):
            found = shortest(struct.unpack("<f", value)[0])
        elif (number, kind) == (8, _BYTES):
            found = _tensor(value)
    if tag and found is not None:
        yield tag, found


def _tensor(message: bytes) -> float | None:
    """The one number of a tensor of floats or doubles."""
    form = {_DT_FLOAT: "<f", _DT_DOUBLE: "<d"}
    dtype, raw = 0, b""
    for number, kind, value in _fields(message):
        if (number, kind) == (1, _VARINT):
            dtype = value[0]
        elif number in (4, 5, 6) and kind != _VARINT:
            raw = value
    if dtype not in form or len(raw) != struct.calcsize(form[dtype]):
        return None
    value = struct.unpack(form[dtype], raw)[0]
    return shortest(value) if dtype == _DT_FLOAT else float(value)


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(number, wire type, content) of a message's fields; a varint as 8 little-endian bytes.

    Raises IndexError for a message that is cut off or of no known form.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, kind, (number & (1 << 64) - 1).to_bytes(8, "little")
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(message) + 1)
        if at + size > len(message):
            raise IndexError("a field that ends after its message")
        yield key >> 3, kind, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
