"""What an input is, found by its first bytes and not by its name."""

from __future__ import annotations

import glob
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError

_HEAD = 16
# How long a pipe may take until somebody writes into it.
_PIPE_SECONDS = 30.0


@dataclass(frozen=True)
class Source:
    """One input. kind: `plain`, `gzip`, `zstd`, `parquet` or `pipe`; size: its bytes, 0 for a pipe.

    name: how reports call it. stamp: device, inode, size and time of a file, to notice that it changed.
    """

    path: Path
    name: str
    kind: str
    size: int
    stamp: tuple[int, int, int, int]


def find_sources(inputs: str | Sequence[str]) -> tuple[Source, ...]:
    """The inputs that paths and patterns (`runs/*.jsonl.gz`) name, a pattern's files in the order of names.

    Nothing is read but the first bytes. Errors: `NotFound`, `UsageError` for a directory or a file named
    twice, `CheckFailed` for what is no text, others of `os_error`.
    """
    paths = [path for text in ([inputs] if isinstance(inputs, str) else inputs) for path in _expanded(text)]
    if not paths:
        raise UsageError("no input is named", next="name a file of rows, several, or a pattern")
    sources = tuple(_source(path) for path in paths)
    seen: dict[tuple[int, int], Source] = {}
    for source in sources:
        other = seen.setdefault(source.stamp[:2], source)
        if other is not source:
            raise UsageError(f"the same file is named twice, as {other.name} too", where=source.name)
    return sources


def _expanded(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if not glob.has_magic(text) or path.exists():
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may be absolute
    if not found:
        raise NotFound("no file fits the pattern", where=text)
    return [Path(name) for name in found]


def _source(path: Path) -> Source:
    name = printable(path)
    try:
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            fix = f"name its files: {name}/*.jsonl"
            raise UsageError("a directory, not a file of rows", where=name, next=fix)
        if stat.S_ISFIFO(mode):
            return Source(path, name, "pipe", 0, (status.st_dev, status.st_ino, 0, 0))
        if not stat.S_ISREG(mode):
            raise UsageError("a socket or device, not a file or a pipe", where=name)
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as exc:
        raise os_error(exc, path) from exc
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return Source(path, name, _kind(head, name), status.st_size, stamp)


def _kind(head: bytes, name: str) -> str:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        fix = f"iconv -f UTF-16 -t UTF-8 {name} > FILE"
        raise CheckFailed("UTF-16 text, not UTF-8", where=name, next=fix)
    for magic, what in ((b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"PK\x03\x04", "zip")):
        if head.startswith(magic):
            fix = "unpack it, or use gzip or zstd"
            raise CheckFailed(f"{what} data, which is not read here", where=name, next=fix)
    if b"\0" in head:
        raise CheckFailed("binary data, not lines of JSON", where=name)
    return "plain"


@contextmanager
def open_stream(source: Source) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a `plain`, `gzip`, `zstd` or `pipe` source, to be read with `read(n)`.

    Data that end too early or are damaged are `CheckFailed`, at whatever read meets them.
    """
    import zlib

    try:
        with _opened(source) as file:
            yield file
    except EOFError as exc:
        raise damaged(source, "the data end too early") from exc
    except zlib.error as exc:
        raise damaged(source, str(exc)) from exc
    except OSError as exc:
        if exc.errno is None:  # what gzip raises for a broken header or checksum
            raise damaged(source, str(exc)) from exc
        raise os_error(exc, source.path) from exc


def damaged(source: Source, how: str) -> NemotronError:
    """The error for packed data that cannot be unpacked."""
    tests = {"gzip": "gzip -t", "zstd": "zstd -t"}
    next_ = (
        f"{tests[source.kind]} {source.name}; fetch or write the file again" if source.kind in tests else None
    )
    return CheckFailed(f"damaged {source.kind} data: {how}", where=source.name, next=next_)


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    if source.kind == "gzip":
        import gzip

        with gzip.open(source.path, "rb") as unpacked:
            yield unpacked  # type: ignore[misc]
    elif source.kind == "zstd":
        from .zstd import ZstdFile

        with source.path.open("rb") as packed:
            yield BufferedReader(ZstdFile(packed), 1 << 20)
    elif source.kind == "pipe":
        with _pipe(source) as pipe:
            yield pipe
    else:
        with source.path.open("rb", buffering=0) as plain:
            yield plain


@contextmanager
def _pipe(source: Source) -> Iterator[IO[bytes]]:
    descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with BufferedReader(FileIO(descriptor, "rb"), 1 << 20) as file:
        if not select.select([file], [], [], _PIPE_SECONDS)[0]:
            what = f"nobody wrote into the pipe for {_PIPE_SECONDS:.0f} seconds"
            raise UsageError(what, where=source.name)
        os.set_blocking(descriptor, True)
        yield file
