"""An input as blocks of whole lines, each small enough to be held and large enough to be worth a journey."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from io import FileIO
from typing import NamedTuple

from nemotron.artifacts.atomic import os_error
from nemotron.errors import Conflict

from .sources import Source, open_stream

BLOCK_BYTES = 1 << 20
# As much as the checks of artifacts read of a line.
MAX_LINE_BYTES = 16 << 20
_FEW_LINES = 1000

_BOM = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Some whole lines of one source.

    first_line: the number of its first line, from 1. begin, end: where it stands in a plain file, which
    whoever works on it reads himself; data: its bytes, where the source is none that can be read twice.
    too_long: the length of its only line, which is over the limit and was not kept; else 0.
    """

    source: Source
    first_line: int
    begin: int
    end: int
    data: bytes | None = None
    too_long: int = 0

    @property
    def size(self) -> int:
        """How many bytes its lines have."""
        return self.end - self.begin if self.data is None else len(self.data)

    def lines(self, data: bytes | None = None) -> Iterator[bytes]:
        """Its lines, without line ends. One at a time: each is read while the processor still holds it.

        data: what `read` gave, where that was asked before.
        """
        data = self.read() if data is None else data
        begin = len(_BOM) if self.first_line == 1 and data.startswith(_BOM) else 0
        while begin < len(data):
            end = data.find(b"\n", begin)
            end = len(data) if end < 0 else end
            yield data[begin:end]
            begin = end + 1

    def read(self) -> bytes:
        """Its bytes; none of a line that is too long."""
        if self.too_long:
            return b""
        return self._read() if self.data is None else self.data

    def _read(self) -> bytes:
        try:
            descriptor = os.open(self.source.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                now = os.fstat(descriptor)
                data = os.pread(descriptor, self.end - self.begin, self.begin)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise os_error(exc, self.source.path) from exc
        if (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) != self.source.stamp:
            raise _changed(self.source)
        return data


def _changed(source: Source) -> Conflict:
    what = "the file was changed while it was read"
    return Conflict(what, where=source.name, next="wait until it is complete and run again")


def blocks_of(
    sources: Iterable[Source], *, block_bytes: int = BLOCK_BYTES, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Block]:
    """The blocks of all sources, in order. A line longer than `max_line_bytes` is a block without lines.

    Errors: those of `open_stream`; `Conflict` when a file changes meanwhile.
    """
    block_bytes = min(block_bytes, max_line_bytes)  # so that only a line that fills a block can be too long
    for source in sources:
        if source.kind == "plain":
            yield from _ranges(source, block_bytes, max_line_bytes)
        elif source.kind == "parquet":
            from .parquet import parquet_lines

            yield from _filled(source, parquet_lines(source, block_bytes), block_bytes, max_line_bytes)
        else:
            yield from _filled(source, _pieces(source, block_bytes), block_bytes, max_line_bytes)


def _ranges(source: Source, block_bytes: int, limit: int) -> Iterator[Block]:
    """Blocks of a plain file by their place. Looking for line ends here costs a tenth of a worker's time
    and tells every worker the numbers of its lines."""
    buffer = bytearray(block_bytes)
    line, begin = 1, 0
    with source.path.open("rb", buffering=0) as file:
        while begin < source.size:
            file.seek(begin)
            count = min(file.readinto(buffer) or 0, source.size - begin)
            if not count:
                raise _changed(source)
            cut = buffer.rfind(b"\n", 0, count) + 1
            if begin + count == source.size:
                end, lines = source.size, _count(buffer, count) + 1
            elif cut:
                end, lines = begin + cut, _count(buffer, cut)
            else:
                end, lines = _line_end(file, begin + count, buffer, source.size), 1
            too_long = end - begin if lines == 1 and end - begin > limit else 0
            yield Block(source, line, begin, end, None, too_long)
            line += lines
            begin = end


def _count(buffer: bytearray, size: int) -> int:
    """How many lines end in the first `size` bytes. To find each takes a tenth of the time of counting
    them, as long as they are few."""
    lines, end = 0, buffer.find(b"\n", 0, size)
    while end >= 0:
        lines += 1
        if lines == _FEW_LINES:
            return lines + buffer.count(b"\n", end + 1, size)
        end = buffer.find(b"\n", end + 1, size)
    return lines


def _line_end(file: FileIO, place: int, buffer: bytearray, size: int) -> int:
    """Where the line ends that goes on at `place`, its line end included."""
    while count := file.readinto(buffer) or 0:
        found = buffer.find(b"\n", 0, count)
        if found >= 0:
            return min(place + found + 1, size)
        place += count
    return min(place, size)


def _pieces(source: Source, block_bytes: int) -> Iterator[bytes]:
    with open_stream(source) as stream:
        while piece := stream.read(block_bytes):
            yield piece


def _filled(source: Source, pieces: Iterable[bytes], block_bytes: int, limit: int) -> Iterator[Block]:
    """Blocks that carry their bytes, from pieces of at most `block_bytes`."""
    line, tail, length = 1, list[bytes](), 0
    for piece in pieces:
        first = piece.find(b"\n") + 1
        if length + (first or len(piece)) > limit:
            tail.clear()
        if not first:
            length += len(piece)
            if length <= limit:
                tail.append(piece)
            continue
        if length + first > limit:
            yield Block(source, line, 0, 0, b"", length + first)
            line, piece = line + 1, piece[first:]
        cut = piece.rfind(b"\n") + 1
        if cut or tail:
            data = b"".join((*tail, piece[:cut]))
            yield Block(source, line, 0, 0, data)
            line += data.count(b"\n")
        tail, length = [piece[cut:]], len(piece) - cut
    if length > limit:
        yield Block(source, line, 0, 0, b"", length)
    elif length:
        yield Block(source, line, 0, 0, b"".join(tail))
