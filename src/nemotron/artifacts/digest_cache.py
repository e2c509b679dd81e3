"""The memory of what files hashed to, so that unchanged files are not read again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .paths import printable
from .walk import WalkedFile

# A change within the granularity of a file system's clock (2 s on the coarsest) leaves the times as they
# were, so a file this young at the moment of reading is not remembered.
_RACY_NS = 2_000_000_000
_WAIT_S = 1.0
_DIGEST_BYTES = 32
# What is kept when a long run over large files is killed: all but the last few seconds of reading.
_FLUSH_S = 5.0
_FLUSH_ENTRIES = 2000

# A table for each level, full and sampled, so that no query can take one for the other.
_TABLES = ("file", "sample")
# `state` is text: inodes of network file systems and far-off times do not fit SQLite's signed 64 bits.
_SCHEMA = "CREATE TABLE IF NOT EXISTS {} (path BLOB PRIMARY KEY, state TEXT, digest BLOB) WITHOUT ROWID"
_GET = "SELECT path, state, digest FROM {} WHERE path = ?"
# All of a tree at once: a query for each of 20,000 files costs three times as much.
_GET_BELOW = "SELECT path, state, digest FROM {} WHERE path > ? AND path < ?"
_PUT = "INSERT OR REPLACE INTO {} VALUES (?, ?, ?)"


class DigestCache:
    """Digests by absolute path, size, modification and change time and inode, in one SQLite file.

    It only ever saves time: a cache that cannot be opened, read or written (read-only, damaged, locked)
    becomes an empty one that forgets, and `problem` says why. Use it as a context manager, or `close` it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problem: str | None = None
        self._pending: dict[str, list[tuple[bytes, str, bytes]]] = {table: [] for table in _TABLES}
        self._flushed = time.monotonic()
        self._database: sqlite3.Connection | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = _open(file)
        except (OSError, sqlite3.Error) as exc:
            self._give_up(exc)

    @classmethod
    def for_user(cls, environ: Mapping[str, str]) -> Self:
        """The user's cache: `$XDG_CACHE_HOME`, else `~/.cache`, then `nemotron/digests.sqlite`."""
        named = environ.get("XDG_CACHE_HOME", "")
        # A relative one is ignored, says the XDG specification. Without a home, `problem` says so.
        base = Path(named) if named.startswith("/") else Path(environ.get("HOME") or os.devnull) / ".cache"
        return cls(base / "nemotron" / "digests.sqlite")

    def known(self, files: Sequence[WalkedFile], *, sampled: bool) -> list[bytes | None]:
        """For each file of one walk its digest if that is known and `stat` shows no change, else None."""
        rows = self._rows(files, _TABLES[sampled])
        return [_digest_if(rows.get(file.path), file.stat) for file in files]

    def _rows(self, files: Sequence[WalkedFile], table: str) -> dict[bytes, tuple[object, object]]:
        if self._database is None or not files:
            return {}
        top = files[0].path.removesuffix(files[0].relpath)
        single = not files[0].relpath
        # The byte after "/" is "0".
        query, words = (_GET, (top,)) if single else (_GET_BELOW, (top, top[:-1] + b"0"))
        try:
            found = self._database.execute(query.format(table), words)
            return {path: (state, digest) for path, state, digest in found}
        except sqlite3.Error as exc:
            self._give_up(exc)
            return {}

    def put(self, file: WalkedFile, digest: bytes, *, now_ns: int, sampled: bool) -> None:
        """Remember the digest of `file`, which was read from the time `now_ns` on."""
        status = file.stat
        young = min(abs(now_ns - status.st_mtime_ns), abs(now_ns - status.st_ctime_ns)) < _RACY_NS
        if young or self._database is None:
            return
        pending = self._pending[_TABLES[sampled]]
        pending.append((file.path, _state(status), digest))
        if len(pending) >= _FLUSH_ENTRIES or time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what was put, in one transaction."""
        self._flushed = time.monotonic()
        if self._database is None or not any(self._pending.values()):
            return
        try:
            # IMMEDIATE waits for another writer; a deferred transaction would fail instead of waiting.
            self._database.execute("BEGIN IMMEDIATE")
            for table, rows in self._pending.items():
                self._database.executemany(_PUT.format(table), rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            self._give_up(exc)
        self._forget()

    def close(self) -> None:
        """Flush and let go of the file."""
        self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _give_up(self, exc: Exception) -> None:
        self.problem = f"no digest cache: {exc} ({printable(self.file)})"
        self._forget()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _forget(self) -> None:
        for rows in self._pending.values():
            rows.clear()


def _digest_if(row: tuple[object, object] | None, status: os.stat_result) -> bytes | None:
    if row is None or row[0] != _state(status):
        return None
    digest = row[1]
    return digest if isinstance(digest, bytes) and len(digest) == _DIGEST_BYTES else None


def _state(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _open(file: Path) -> sqlite3.Connection:
    # The default rollback journal, not WAL: home directories of clusters are network file systems, where
    # WAL is unsafe. Writes are one short transaction per digest, so nobody waits long.
    database = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)
    try:
        for table in _TABLES:
            database.execute(_SCHEMA.format(table))
    except sqlite3.Error:
        database.close()
        raise
    return database
