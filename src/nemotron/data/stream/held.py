"""What a block became, and those bytes of it that stay with the process that made them.

Bytes that went through the caller were copied six times, which took a third of the time. So the caller
decides where they go, and whoever holds them writes them there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nemotron.artifacts.atomic import os_error

Span = tuple[int, int]
# As many pieces as every system takes at once.
_AT_ONCE = 512
# So many bytes are written at once. For more, file systems take large pages, which are seldom at hand: on a
# virtual machine a megabyte at once took five times as long.
_HELPING = 64 << 10


class Target(NamedTuple):
    """A file that is there, and the path that errors call it by."""

    path: Path
    shown: Path


class Write(NamedTuple):
    """Bytes to write: those of `held[name]`, or the spans of them, one after the other from `offset`."""

    name: str
    target: Target
    offset: int
    spans: Sequence[Span] | None = None


@dataclass
class Held:
    """What a block became.

    held: bytes by name. They are here while the work is done, and gone from what `map_blocks` gives: to
    have them written, add to `writes` before the next block is asked for. sizes: how many bytes there are.
    """

    held: dict[str, bytes] = field(default_factory=dict, kw_only=True)
    sizes: dict[str, int] = field(default_factory=dict, kw_only=True)
    writes: list[Write] = field(default_factory=list, kw_only=True)


def extend(spans: list[Span], begin: int, end: int) -> None:
    """Add a span, to the last one where it goes on from there."""
    if spans and spans[-1][1] == begin:
        spans[-1] = spans[-1][0], end
    else:
        spans.append((begin, end))


class Files:
    """Writes what is held. Of use in one process."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def write(self, held: Mapping[str, bytes], writes: Iterable[Write]) -> None:
        """Do the writes. Errors: see `os_error`."""
        for name, target, offset, spans in writes:
            data = memoryview(held[name])
            pieces = [data] if spans is None else [data[begin:end] for begin, end in spans]
            try:
                descriptor = self._open.get(target.path)
                if descriptor is None:
                    descriptor = self._open[target.path] = os.open(target.path, os.O_WRONLY | os.O_CLOEXEC)
                write_at(descriptor, pieces, offset)
            except OSError as exc:
                raise os_error(exc, target.shown) from exc

    def close(self) -> None:
        """Close what was opened."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def write_at(descriptor: int, pieces: Sequence[memoryview], offset: int) -> None:
    """Write all of the pieces, one after the other; the system may take a part of them at a time."""
    for rest in _helpings(pieces):
        while rest:
            count = os.pwritev(descriptor, rest, offset)
            offset += count
            while rest and count >= len(rest[0]):
                count -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][count:]


def _helpings(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """Pieces, cut where they are large, as many at a time as are written at once."""
    helping, size = list[memoryview](), 0
    for piece in pieces:
        for begin in range(0, len(piece), _HELPING):
            part = piece[begin : begin + _HELPING]
            if size + len(part) > _HELPING or len(helping) == _AT_ONCE:
                yield helping
                helping, size = [], 0
            helping.append(part)
            size += len(part)
    yield helping
