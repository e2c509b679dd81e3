"""Opens the index of a store: where its file is, how it is made, and that it is made anew when it must be."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from nemotron.artifacts.index.schema import INDEXES, TABLES, VERSION

# Writers wait for each other this long; each transaction takes well under a second.
_WAIT_S = 30.0
# A rebuild touches pages at random; SQLite's own 2 MiB makes it a third slower.
_CACHE_KIB = 64 << 10
# SQLite's write-ahead log needs memory that all its readers share, which these do not give.
_NETWORK = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb",
    "ceph",
    "afs",
    "9p",
    "fuse",
    "pvfs",
    "orangefs",
    "wekafs",
)


def open_index(store_root: Path, environ: Mapping[str, str]) -> sqlite3.Connection:
    """A connection to the index of the store at `store_root`, made empty when there is none.

    A file that is damaged is replaced. Where no file can be kept the index lives in
    memory, for this process alone.
    """
    directory = index_directory(environ)
    if directory is not None:
        with contextlib.suppress(sqlite3.Error, OSError):
            return _opened(_file(directory, store_root))
    return index_in_memory()


def index_in_memory() -> sqlite3.Connection:
    """An empty index for this process alone."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(TABLES + INDEXES)
    return database


def is_damaged(problem: sqlite3.Error) -> bool:
    """Whether an error tells of a file that is no index any more; a full disk or a lock does not."""
    return getattr(problem, "sqlite_errorcode", None) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _file(directory: Path, store_root: Path) -> Path:
    """One file for each store and version: an older nemotron goes on beside a newer one."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(store_root))).hexdigest()[:24]
    return directory / f"{name}-v{VERSION}.sqlite"


def forget_index(store_root: Path, environ: Mapping[str, str]) -> None:
    """Remove the index file of a store; the next `open_index` begins with an empty one."""
    directory = index_directory(environ)
    if directory is not None:
        _remove(_file(directory, store_root))


def index_directory(environ: Mapping[str, str]) -> Path | None:
    """Where index files are kept: the user's cache, or a local directory of theirs where that is remote.

    None when neither can be had.
    """
    named = environ.get("XDG_CACHE_HOME", "")
    home = environ.get("HOME", "")
    base = Path(named) if named.startswith("/") else Path(home) / ".cache" if home.startswith("/") else None
    if base is not None and not on_network(base):
        found = _private(base / "nemotron" / "index", parents=True)
        if found is not None:
            return found
    return _private(Path("/var/tmp") / f"nemotron-{os.getuid()}", parents=False)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: all of it or nothing.

    IMMEDIATE waits for another writer; a deferred one that read first fails at once instead.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def on_network(path: Path, mounts: str = "/proc/self/mounts") -> bool:
    """Whether a path lies on a file system of another machine, as far as the system tells."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = (
            words[1].encode("latin-1", "replace").decode("unicode_escape") if "\\" in words[1] else words[1]
        )
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind.startswith(_NETWORK)


def _private(directory: Path, *, parents: bool) -> Path | None:
    """The directory, made for this user alone; None when it cannot be, or is somebody else's."""
    try:
        directory.mkdir(mode=0o700, parents=parents, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or not os.access(directory, os.W_OK):
        return None
    return directory


def _opened(file: Path) -> sqlite3.Connection:
    for _ in range(2):
        if not file.exists():
            _create(file)
        database = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)
        try:
            if database.execute("PRAGMA user_version").fetchone()[0] == VERSION:
                # Enough for a file that can be rebuilt; FULL costs 3 ms a transaction.
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                return database
        except sqlite3.DatabaseError as problem:
            if not is_damaged(problem):
                database.close()
                raise
        database.close()
        _remove(file)
    raise sqlite3.DatabaseError(f"no index can be made at {file}")


def _create(file: Path) -> None:
    """Make the file in one step: the journal mode is set where nobody else looks yet."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        database = sqlite3.connect(temporary, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(f"BEGIN; {TABLES} {INDEXES} PRAGMA user_version = {VERSION}; COMMIT;")
        finally:
            database.close()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        _remove(temporary)


def _remove(file: Path) -> None:
    # The log first: one that outlives its file would be taken for that of the next.
    for name in (file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm"), file):
        name.unlink(missing_ok=True)
