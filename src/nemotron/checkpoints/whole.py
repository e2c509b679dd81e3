"""Directories that are either whole or absent, and files in them that stream to the disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, Conflict, WorkFailed

_SPARE = 64 << 20
_ELSEWHERE = "free space there, or convert to another disk"


@contextlib.contextmanager
def whole_directory(target: Path, needed: int) -> Iterator[Path]:
    """A new directory beside `target` that takes its name at the end; gone after an error.

    What killed processes left of earlier tries is removed first. needed: bytes that will be written.
    Raises Conflict when `target` is there and not empty, WorkFailed when the disk has not `needed` bytes.
    """
    try:
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            where = printable(target)
            raise Conflict("the target exists already", where=where, next="remove it, or name another target")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(target)
        free = shutil.disk_usage(target.parent).free
        if free < needed + _SPARE:
            what = f"no space left on device: {_size(needed)} are needed, {_size(free)} are free"
            raise WorkFailed(what, where=printable(target.parent), next=_ELSEWHERE)
        temporary, lock = _claimed(target)
    except OSError as problem:
        raise os_error(problem, target, next=_ELSEWHERE) from problem
    try:
        yield temporary
        for directory, _, _ in os.walk(temporary):
            sync_directory(Path(directory))
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as problem:
        raise os_error(problem, problem.filename or target, next=_ELSEWHERE) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _claimed(target: Path) -> tuple[Path, int]:
    """A new temporary directory and the descriptor by whose lock others know that it is in use."""
    while True:
        path = target.parent / f".{target.name[:40]}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
        path.mkdir()
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        _lock(handle)
        if path.exists():  # else somebody took it for a left-over before it was locked
            return path, handle
        os.close(handle)


def _remove_left_overs(target: Path) -> None:
    for path in target.parent.glob(f".{_escaped(target.name[:40])}.*{TEMPORARY_SUFFIX}"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # a file of that name, or gone by now
        if _lock(handle):
            shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _lock(handle: int) -> bool:
    """Whether this process holds the lock now; False too where directories cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_directory(path: Path) -> None:
    """Make what was done to the names in a directory survive a power cut, where it can be made so."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """A small file, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with SyncedFile(path) as file:
        file.write(data)


class SyncedFile:
    """A new file, on the disk when its context ends. at: bytes written in a row so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.at = 0

    def __enter__(self) -> SyncedFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(sync=kind is None)

    def close(self, *, sync: bool = True) -> None:
        """End it; without `sync` only to let go of it."""
        try:
            if sync:
                os.fsync(self._handle)
        finally:
            os.close(self._handle)

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        self.write_at(self.at, data)
        self.at += len(data)

    def write_at(self, place: int, data: bytes | memoryview) -> None:
        """Write somewhere; what is between is filled later."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._handle, view, place)
            except OSError as problem:
                raise OSError(problem.errno, problem.strerror, str(self._path)) from problem
            view, place = view[done:], place + done


class ReadFiles:
    """Files open for reading, by path; closed together."""

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}

    def __enter__(self) -> ReadFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def read(self, path: Path, place: int, into: memoryview) -> None:
        """Fill `into` from a place of a file. Raises CheckFailed when it ends before."""
        handle = self._handles.get(path)
        if handle is None:
            handle = self._handles[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        while into:
            done = os.preadv(handle, [into], place)
            if not done:
                what = f"cut short: nothing at byte {place}"
                raise CheckFailed(what, where=printable(path), next="copy or save the file again")
            into, place = into[done:], place + done


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
