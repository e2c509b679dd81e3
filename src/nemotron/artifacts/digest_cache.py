"""The memory of what files hashed to, so that unchanged files are not read again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from .paths import printable

# A change within the granularity of a file system's clock (2 s on the coarsest) leaves the times as they
# were, so a file this young at the moment of reading is not remembered.
_RACY_NS = 2_000_000_000
_WAIT_S = 1.0
_DIGEST_BYTES = 32
# What is kept when a long run over large files is killed: all but the last few seconds of reading.
_FLUSH_S = 5.0
_FLUSH_ENTRIES = 2000

# `state` is text: inodes of network file systems and far-off times do not fit SQLite's signed 64 bits.
_SCHEMA = "CREATE TABLE IF NOT EXISTS file (path BLOB PRIMARY KEY, state TEXT, digest BLOB) WITHOUT ROWID"
_GET = "SELECT digest FROM file WHERE path = ? AND state = ?"
_PUT = "INSERT OR REPLACE INTO file VALUES (?, ?, ?)"


class DigestCache:
    """Digests by absolute path, size, modification and change time and inode, in one SQLite file.

    It only ever saves time: a cache that cannot be opened, read or written (read-only, damaged, locked)
    becomes an empty one that forgets, and `problem` says why. Use it as a context manager, or `close` it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problem: str | None = None
        self._pending: dict[bytes, tuple[bytes, str, bytes]] = {}
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

    def get(self, path: bytes, status: os.stat_result) -> bytes | None:
        """The digest of the file at `path` if it is known and `status` shows it unchanged, else None."""
        if self._database is None:
            return None
        try:
            row = self._database.execute(_GET, (path, _state(status))).fetchone()
        except sqlite3.Error as exc:
            self._give_up(exc)
            return None
        if row and isinstance(row[0], bytes) and len(row[0]) == _DIGEST_BYTES:
            return row[0]
        return None

    def put(self, path: bytes, status: os.stat_result, digest: bytes, *, now_ns: int) -> None:
        """Remember `digest` for the file that was at `path` when `status` was taken, at `now_ns`."""
        young = min(abs(now_ns - status.st_mtime_ns), abs(now_ns - status.st_ctime_ns)) < _RACY_NS
        if young or self._database is None:
            return
        self._pending[path] = (path, _state(status), digest)
        if len(self._pending) >= _FLUSH_ENTRIES or time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what was put, in one transaction."""
        self._flushed = time.monotonic()
        if not self._pending or self._database is None:
            return
        try:
            # IMMEDIATE waits for another writer; a deferred transaction would fail instead of waiting.
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_PUT, self._pending.values())
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            self._give_up(exc)
        self._pending.clear()

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
        self._pending.clear()
        if self._database is not None:
            self._database.close()
            self._database = None


def _state(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _open(file: Path) -> sqlite3.Connection:
    # The default rollback journal, not WAL: home directories of clusters are network file systems, where
    # WAL is unsafe. Writes are one short transaction per digest, so nobody waits long.
    database = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)
    try:
        database.execute(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
