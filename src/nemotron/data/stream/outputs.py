"""Several files that appear together, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import NemotronError, UsageError

_BUFFER = 1 << 20


class Outputs:
    """Open files by name, written beside their places and put there by `publish`, all complete and synced.

    Without `publish`, or after an error, nothing of them is left and what stood there before is untouched.
    Between two renames a crash can leave the first file new and the second old.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = dict(places)
        self._files: dict[str, IO[bytes]] = {}
        self._temporary: dict[str, Path] = {}
        targets = [path.resolve() for path in self._places.values()]
        if len(set(targets)) < len(targets):
            raise UsageError("two outputs have one place", where=", ".join(map(printable, targets)))

    def __enter__(self) -> Outputs:
        for name, path in self._places.items():
            with _told(path.parent):
                if path.parent.exists() and not path.parent.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                path.parent.mkdir(parents=True, exist_ok=True)
            with _told(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                temporary = path.parent / f".{path.name[:40]}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
                self._files[name] = temporary.open("xb+", buffering=_BUFFER)
                self._temporary[name] = temporary
        return self

    def write(self, name: str, data: bytes) -> None:
        """Add `data` to an output. Errors: see `os_error`."""
        with _told(self._places[name]):
            self._files[name].write(data)

    def file(self, name: str) -> IO[bytes]:
        """The open file of an output, to read back what was written."""
        return self._files[name]

    def publish(self, *, but: Container[str] = ()) -> None:
        """Put every output in its place, those named in `but` excepted: they were of use on the way only."""
        for name, file in self._files.items():
            with _told(self._places[name]):
                file.flush()
                os.fsync(file.fileno())
                file.close()
        for name, temporary in self._temporary.items():
            if name in but:
                continue
            with _told(self._places[name]):
                temporary.replace(self._places[name])

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, temporary in self._temporary.items():
            with suppress(OSError):
                self._files[name].close()
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
