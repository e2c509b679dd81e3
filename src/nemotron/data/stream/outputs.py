"""Several files that appear together, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import NemotronError, UsageError

from .held import Held, Span, Target, Write, write_at

_BUFFER = 1 << 20


class Outputs:
    """Open files by name, written beside their places and put there by `publish`, all complete and synced.

    Without `publish`, or after an error, nothing of them is left and what stood there before is untouched.
    Between two renames a crash can leave the first file new and the second old.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = dict(places)
        self._files: dict[str, int] = {}
        self._temporary: dict[str, Path] = {}
        self._ends: dict[str, int] = {}
        self._waiting: dict[str, bytearray] = {}
        targets = [path.resolve() for path in self._places.values()]
        if len(set(targets)) < len(targets):
            raise UsageError("two outputs have one place", where=", ".join(map(printable, targets)))

    def __enter__(self) -> Outputs:
        try:
            for name, path in self._places.items():
                self._open(name, path)
        except BaseException:
            self._remove()
            raise
        return self

    def _open(self, name: str, path: Path) -> None:
        with _told(path.parent):
            if path.parent.exists() and not path.parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            path.parent.mkdir(parents=True, exist_ok=True)
        with _told(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            temporary = path.parent / f".{path.name[:40]}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._files[name] = os.open(temporary, flags, 0o666)
            self._temporary[name] = temporary
            self._ends[name], self._waiting[name] = 0, bytearray()

    def write(self, name: str, data: bytes) -> None:
        """Add `data` to an output. Errors: see `os_error`."""
        self._waiting[name] += data
        if len(self._waiting[name]) >= _BUFFER:
            self._flush(name)

    def take(self, name: str, result: Held, of: str, spans: Sequence[Span] | None = None) -> int:
        """Add bytes that a result of `map_blocks` holds under the name `of`, or spans of them, and return
        where they begin. They are written by the time the blocks are through.
        """
        begin = self.end(name)
        size = result.sizes[of] if spans is None else sum(end - start for start, end in spans)
        target = Target(self._temporary[name], self._places[name])
        result.writes.append(Write(of, target, begin, spans))
        self._ends[name] += size
        return begin

    def end(self, name: str) -> int:
        """How many bytes an output has so far."""
        self._flush(name)
        return self._ends[name]

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of an output that were written before."""
        self._flush(name)
        with _told(self._places[name]):
            return os.pread(self._files[name], size, offset)

    def _flush(self, name: str) -> None:
        waiting = self._waiting[name]
        if waiting:
            with _told(self._places[name]):
                write_at(self._files[name], [memoryview(waiting)], self._ends[name])
            self._ends[name] += len(waiting)
            self._waiting[name] = bytearray()

    def publish(self, *, but: Container[str] = ()) -> None:
        """Put every output in its place, those named in `but` excepted: they were of use on the way only."""
        for name, descriptor in self._files.items():
            if name in but:
                continue
            self._flush(name)
            with _told(self._places[name]):
                os.fsync(descriptor)
        for name, temporary in self._temporary.items():
            if name in but:
                continue
            with _told(self._places[name]):
                temporary.replace(self._places[name])

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        """Close the files, and remove what was not put in its place."""
        for name, temporary in self._temporary.items():
            with suppress(OSError):
                os.close(self._files[name])
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except NemotronError:
        raise
    except OSError as exc:
        raise os_error(exc, path) from exc
