"""Writes TensorBoard event files as torch's SummaryWriter does, for what stands in for a framework."""

from __future__ import annotations

import struct
from pathlib import Path

from nemotron.job.following.tensorboard_events import checksum


class EventWriter:
    """Appends scalars to an event file in `directory`; each record is on the disk when a call returns."""

    def __init__(self, directory: Path, clock: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"events.out.tfevents.{clock:.0f}.host.1.0"
        self._append(_double(1, clock) + _bytes(3, b"brain.Event:2"))

    def scalar(self, tag: str, value: float, step: int, clock: float) -> None:
        """One scalar, as `add_scalar` writes it."""
        entry = _bytes(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value)
        self._append(_double(1, clock) + _varint_field(2, step) + _bytes(5, _bytes(1, entry)))

    def blob(self, size: int, step: int, clock: float) -> None:
        """Something large that is no scalar."""
        entry = _bytes(1, b"train/plot") + _bytes(4, bytes(size))
        self._append(_double(1, clock) + _varint_field(2, step) + _bytes(5, _bytes(1, entry)))

    def _append(self, message: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(record(message))


def record(message: bytes) -> bytes:
    """A message in its frame."""
    length = struct.pack("<Q", len(message))
    sums = [struct.pack("<I", checksum(part)) for part in (length, message)]
    return length + sums[0] + message + sums[1]


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _double(number: int, value: float) -> bytes:
    return _key(number, 1) + struct.pack("<d", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _varint_field(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
