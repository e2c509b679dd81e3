"""The files of an artifact, in the one order that every digest and fingerprint of it uses.

Standard library only: jobs carry this file into containers that have nothing of ours installed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from nemotron.errors import CheckFailed, NotFound

from .atomic import TEMPORARY_SUFFIX, os_error
from .paths import printable

_TEMPORARY = TEMPORARY_SUFFIX.encode()


class WalkedFile(NamedTuple):
    """One regular file below a root.

    relpath: path below the root as raw bytes with `/` between the parts; empty when the root is the file.
    path: where to open it. stat: of the content, links followed.
    """

    relpath: bytes
    path: bytes
    stat: os.stat_result


class _Directory(NamedTuple):
    path: bytes
    prefix: bytes
    above: frozenset[tuple[int, int]]


def walk_files(root: Path) -> list[WalkedFile]:
    """All regular files of the artifact at `root`, sorted by `relpath` (bytewise).

    A symbolic link whose target lies inside the tree counts as what it points at. Left out: directories as
    such, empty or not, and files named `*.tmp`, which are writes that never ended.

    Errors: `NotFound` (nothing at `root`, or it went away meanwhile), `CheckFailed` (a link that leaves the
    tree, points at nothing or goes round in a circle; a pipe, socket or device), see also `os_error`.
    """
    top = os.path.realpath(os.fsencode(root))
    try:
        status = os.stat(top)  # noqa: PTH116 - names are bytes here, pathlib has none
    except FileNotFoundError as exc:
        raise NotFound("no such file or directory", where=printable(root)) from exc
    except OSError as exc:
        raise os_error(exc, root) from exc
    if not stat.S_ISDIR(status.st_mode):
        _refuse_special(top, status)
        return [WalkedFile(b"", top, status)]
    found: list[WalkedFile] = []
    pending = [_Directory(top, b"", frozenset({(status.st_dev, status.st_ino)}))]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory.path) as entries:
                for entry in entries:
                    _take(entry, directory, top, found, pending)
        except FileNotFoundError as exc:
            raise _vanished(directory.path) from exc
        except OSError as exc:
            raise os_error(exc, printable(directory.path)) from exc
    found.sort(key=lambda file: file.relpath)
    return found


def _take(
    entry: os.DirEntry[bytes],
    directory: _Directory,
    top: bytes,
    found: list[WalkedFile],
    pending: list[_Directory],
) -> None:
    status = _target(entry, top) if entry.is_symlink() else _status(entry)
    relpath = directory.prefix + entry.name
    if stat.S_ISDIR(status.st_mode):
        key = (status.st_dev, status.st_ino)
        if key in directory.above:
            what = "a symbolic link points at a directory that holds it"
            raise CheckFailed(what, where=printable(entry.path), next="remove the link")
        pending.append(_Directory(entry.path, relpath + b"/", directory.above | {key}))
    elif not entry.name.endswith(_TEMPORARY):
        _refuse_special(entry.path, status)
        found.append(WalkedFile(relpath, entry.path, status))


def _status(entry: os.DirEntry[bytes]) -> os.stat_result:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError as exc:
        raise _vanished(entry.path) from exc


def _target(entry: os.DirEntry[bytes], top: bytes) -> os.stat_result:
    where = printable(entry.path)
    real = os.path.realpath(entry.path)
    if not real.startswith(top.rstrip(b"/") + b"/") and real != top:
        what = f"a symbolic link leaves the artifact, it points at {printable(real)}"
        raise CheckFailed(what, where=where, next="put a copy of the target in place of the link")
    try:
        return entry.stat()
    except FileNotFoundError as exc:
        what = "a symbolic link points at nothing"
        raise CheckFailed(what, where=where, next="remove the link, or restore its target") from exc


def _refuse_special(path: bytes, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a pipe, socket or device cannot be part of an artifact"
        raise CheckFailed(what, where=printable(path))


def _vanished(path: bytes) -> NotFound:
    return NotFound("it went away while it was being read", where=printable(path), next="try again")
