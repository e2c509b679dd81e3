"""Where the numbers of one tensor lie in the file that `torch.save` wrote of it, without torch or trust."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nemotron.artifacts.checks.distributed import StoredPiece
from nemotron.artifacts.checks.pickles import PERSISTENT_ID, Made, Named, read_pickle
from nemotron.artifacts.checks.report import Problem
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.torch_files import DTYPES
from nemotron.checkpoints.whole import ReadFiles
from nemotron.errors import CheckFailed

_TAIL = 1 << 16
_PICKLE = 1 << 16
_REBUILD, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_STORAGES = {f"torch.{storage}": dtype for dtype, (_, storage, _) in DTYPES.items()}
_ALLOWED = frozenset((_REBUILD, _PARAMETER, "collections.OrderedDict", PERSISTENT_ID, *_STORAGES))
_LARGE = (1 << 32) - 1


class Entry(NamedTuple):
    """A file in a zip. stored: whether as it is, neither packed nor encrypted. start: of its bytes."""

    name: str
    stored: bool
    checksum: int
    size: int
    start: int


class ArchiveError(Exception):
    """The file is not what `torch.save` writes."""


def find_numbers(files: ReadFiles, path: Path, piece: StoredPiece, dtype: str, size: int) -> tuple[int, int]:
    """The byte of the file at which the numbers of a piece begin, and their CRC-32 (0 where none was kept).

    dtype, size: what the metadata says. Raises CheckFailed when the piece is not one contiguous tensor of
    that type and number of bytes.
    """
    try:
        entries = {entry.name.partition("/")[2]: entry for entry in archive_entries(files, path, piece)}
        number, storage, in_order = _tensor(files, path, entries.get("data.pkl"), piece)
        if storage != dtype:
            raise ArchiveError(f"a tensor of {storage}, where the metadata say {dtype}")
        if not in_order:
            raise ArchiveError("a tensor whose numbers are not in order")
        held = entries.get(f"data/{number}")
        if held is None or not held.stored or held.size != size:
            raise ArchiveError(f"not the {size} bytes that the metadata say")
        order = entries.get("byteorder")
        if order is not None and archive_bytes(files, path, piece, order, 16) != b"little":
            raise ArchiveError("numbers in another byte order")
    except (ArchiveError, struct.error) as problem:
        what = f"{piece.key[:100]}: {problem if isinstance(problem, ArchiveError) else 'cut short'}"
        raise CheckFailed(what, where=printable(path), next="copy or save the checkpoint again") from problem
    return piece.offset + held.start, held.checksum


def _in_order(first: Any, shape: Any, strides: Any) -> bool:
    """Whether the numbers of a tensor follow each other from the beginning of its storage."""
    if first != 0 or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return False
    if len(shape) != len(strides) or not all(type(each) is int for each in (*shape, *strides)):
        return False
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _read(files: ReadFiles, path: Path, piece: StoredPiece, at: int, count: int) -> bytes:
    if at < 0 or count < 0 or at + count > piece.length:
        raise ArchiveError("cut short")
    data = bytearray(count)
    files.read(path, piece.offset + at, memoryview(data))
    return bytes(data)


def archive_entries(files: ReadFiles, path: Path, piece: StoredPiece, most: int = _TAIL) -> Iterator[Entry]:
    """The entries that the directory at the end of a zip lists, as torch's own reader finds them.

    most: bytes of that directory. Raises ArchiveError where there is none that can be read.
    """
    if piece.length < 4 or _read(files, path, piece, 0, 4) != b"PK\x03\x04":
        raise ArchiveError("no file of torch.save")  # torch would take it for a bare pickle
    tail_at = max(0, piece.length - most)
    tail = _read(files, path, piece, tail_at, piece.length - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ArchiveError("no file of torch.save")
    length, begin = struct.unpack_from("<II", tail, at + 12)
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        (far,) = struct.unpack_from("<Q", tail, at - 12)
        if not tail_at <= far <= piece.length or tail[far - tail_at : far - tail_at + 4] != b"PK\x06\x06":
            raise ArchiveError("a damaged list of entries")
        length, begin = struct.unpack_from("<QQ", tail, far - tail_at + 40)
    if not tail_at <= begin <= begin + length <= piece.length:
        raise ArchiveError("a list of entries that is not at the end")
    place, end = begin - tail_at, begin - tail_at + length
    while place < end:
        if tail[place : place + 4] != b"PK\x01\x02":
            raise ArchiveError("a damaged list of entries")
        flags, method = struct.unpack_from("<HH", tail, place + 8)
        crc, packed, size, name, extra, comment = struct.unpack_from("<IIIHHH", tail, place + 16)
        (offset,) = struct.unpack_from("<I", tail, place + 42)
        rest = tail[place + 46 : place + 46 + name + extra]
        packed, size, offset = _far(rest[name:], packed, size, offset)
        stored = method == 0 and not flags & 1 and packed == size
        local = _read(files, path, piece, offset, 30)
        if local[:4] != b"PK\x03\x04":
            raise ArchiveError("an entry that is not there")
        start = offset + 30 + sum(struct.unpack_from("<HH", local, 26))
        yield Entry(rest[:name].decode("utf-8", "replace"), stored, crc, size, start)
        place += 46 + name + extra + comment


def _far(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset, with those beyond 4 GiB taken from the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            held = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            size = next(held, 0) if size == _LARGE else size
            packed = next(held, 0) if packed == _LARGE else packed
            offset = next(held, 0) if offset == _LARGE else offset
        at += 4 + length
    return packed, size, offset


def archive_bytes(files: ReadFiles, path: Path, piece: StoredPiece, entry: Entry, limit: int) -> bytes:
    """The bytes of an entry. Raises ArchiveError for one that is packed, or longer than `limit`."""
    if not entry.stored or entry.size > limit:
        raise ArchiveError(f"an entry {entry.name[:40]!r} that torch.save does not write")
    return _read(files, path, piece, entry.start, entry.size)


def _tensor(files: ReadFiles, path: Path, entry: Entry | None, piece: StoredPiece) -> tuple[str, str, bool]:
    """Which storage a tensor has, the type of its numbers, and whether they are in order."""
    if entry is None:
        raise ArchiveError("no file of torch.save")
    root: Any = read_pickle(archive_bytes(files, path, piece, entry, _PICKLE), _ALLOWED)
    if isinstance(root, Problem):
        raise ArchiveError(root.message)
    if isinstance(root, Made) and root.of == _PARAMETER and root.args:
        root = root.args[0]
    if not isinstance(root, Made) or root.of != _REBUILD or len(root.args) < 4:
        raise ArchiveError("something else than one plain tensor")
    storage, first, shape, strides = root.args[:4]
    held = storage.args if isinstance(storage, Made) and storage.of == PERSISTENT_ID else ()
    known = len(held) == 5 and isinstance(held[1], Named) and held[1].path in _STORAGES
    if not known or not isinstance(held[2], str):
        raise ArchiveError("a tensor of a type that is not known here")
    return held[2], _STORAGES[held[1].path], _in_order(first, shape, strides)
