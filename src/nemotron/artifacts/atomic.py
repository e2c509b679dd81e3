"""Files that are either whole or absent, and the one translation of an OSError into advice.

Standard library only: jobs carry this file into containers that have nothing of ours installed.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from nemotron.errors import Conflict, NemotronError, NotFound, UsageError, WorkFailed

from .paths import printable

TEMPORARY_SUFFIX = ".tmp"

_FREE_SPACE = "free space there, or write elsewhere (NEMOTRON_HOME=DIR moves the store)"
_OTHER_PLACE = "mend the permissions, or use another place (NEMOTRON_HOME=DIR moves the store)"

_KNOWN: Mapping[int, tuple[type[NemotronError], str, str | None]] = MappingProxyType(
    {
        errno.ENOSPC: (WorkFailed, "no space left on device", _FREE_SPACE),
        errno.EDQUOT: (WorkFailed, "disk quota exceeded", _FREE_SPACE),
        errno.EROFS: (WorkFailed, "the file system is read-only", _OTHER_PLACE),
        errno.EACCES: (WorkFailed, "permission denied", _OTHER_PLACE),
        errno.EPERM: (WorkFailed, "operation not permitted", _OTHER_PLACE),
        errno.ENOENT: (NotFound, "no such file or directory", None),
        errno.ENOTDIR: (UsageError, "a file stands where a directory should be", "move that file away"),
        errno.EISDIR: (UsageError, "a directory stands where a file should be", "move that directory away"),
        errno.EEXIST: (Conflict, "it exists already", None),
        errno.ELOOP: (UsageError, "symbolic links go round in a circle", None),
        errno.ENAMETOOLONG: (UsageError, "the file name is too long", None),
    }
)

# File systems that cannot sync a directory, or let us write into one that we may not read.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF})
# File systems without hard links: FAT, some FUSE and object-store mounts.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def os_error(exc: OSError, path: str | Path, *, next: str | None = None) -> NemotronError:
    """The error that tells a person what `exc` means for `path`.

    A full disk, a quota, a read-only file system and missing permissions are `WorkFailed` (exit 1), a
    missing path is `NotFound`, a path of the wrong kind is `UsageError`. `next` replaces the usual advice.
    """
    default = (WorkFailed, (exc.strerror or str(exc)).lower(), None)
    kind, what, advice = _KNOWN.get(exc.errno or 0, default)
    return kind(what, where=printable(path), next=next or advice)


def write_text(path: Path, text: str) -> None:
    """Put `text` (UTF-8) at `path`, replacing what is there; after a crash the old or the new file is there.

    A symbolic link at `path` is replaced, not followed. Errors: see `os_error`.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`, for bytes."""
    try:
        with _temporary(path, data) as temporary:
            temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as exc:
        raise os_error(exc, path) from exc


def write_json(path: Path, value: object) -> None:
    """Put `value` at `path` as JSON with sorted keys, see `json_text`; atomic as `write_text`."""
    write_text(path, json_text(value))


def write_new(path: Path, data: bytes) -> bool:
    """Put `data` at `path` unless something is there: True when this call made the file.

    Of several processes that race for one name exactly one gets True, where the file system has hard
    links. Errors: see `os_error`.
    """
    try:
        with _temporary(path, data) as temporary:
            made = _claim(temporary, path)
        _sync_directory(path.parent)
    except OSError as exc:
        raise os_error(exc, path) from exc
    return made


def json_text(value: object) -> str:
    """`value` as JSON text: sorted keys, two-space indent, final newline.

    JSON has no NaN and no infinity, and a diverged metric must not cost the record that reports it: they
    become the strings "NaN", "Infinity" and "-Infinity".
    """
    plain = _finite(value)
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    if text.isascii() or _is_unicode(text):
        return text
    # A path that is not UTF-8 holds lone surrogates; escaped, they survive the way there and back.
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A synced file holding `data` beside `path`; gone at the end unless renamed away."""
    # Cut, so that a name of the longest permitted length still leaves room for what is added.
    temporary = path.parent / f".{path.name[:40]}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def _claim(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_HARD_LINKS:
            raise
        if path.exists():
            return False
        temporary.replace(path)
    return True


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY_SYNC:
            raise
