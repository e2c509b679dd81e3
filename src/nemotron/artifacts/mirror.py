"""The records of a store that has a URL: the union of what is there and what is here, day by day.

Below the URL:

    records/YYYY-MM-DD/NAME.json   the records, as in a store directory; written once, never changed
    days/YYYY-MM-DD                written anew after every record that was put into that day

One listing of `days` tells which days somebody has changed since; only those are listed. A day whose mark
was not written, because its client died in between, is marked by that client's next synchronisation. What
was put there without a mark, by whatever means, is found as well: each time a few of the days that were not
listed for a week are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_json, write_new
from nemotron.artifacts.paths import printable
from nemotron.artifacts.remote import file_identity, open_file_system, translated
from nemotron.artifacts.store import Store
from nemotron.errors import Conflict, UsageError
from nemotron.findings import Finding

MEMORY_FILE, LOCK_FILE = "mirror.json", "mirror.lock"

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,240}\.json")
_LIMIT = 64 << 20  # of one record
_BATCH_FILES, _BATCH_BYTES = 64, 16 << 20
_TRUSTED_SECONDS = 7 * 86400
_LISTED_AGAIN = 4
# A directory changed so recently may change again without its time telling.
_SETTLED_NS = 2_000_000_000
_SCHEMA = 1
_POLL_SECONDS = 0.05
_WRITERS = 16
# Where writing a file is one request that other clients see whole or not at all.
_ATOMIC = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory"))


@dataclass(frozen=True)
class Synced:
    """What one synchronisation did.

    pushed, pulled: records that went there and came here. listed: days that were listed there.
    findings: files that are no records and were left alone.
    """

    pushed: int = 0
    pulled: int = 0
    listed: int = 0
    findings: tuple[Finding, ...] = ()


def sync_records(store: Store, *, patience: float = 30.0) -> Synced:
    """Bring the records of the store here and those at its URL together; nothing for a store without a URL.

    Any number of clients may do so at once, and each may die at any moment: records are written once, whole,
    and what was left out comes with the next call. Within one store directory calls take turns; one that
    has to wait longer than `patience` seconds raises Conflict.

    Raises SchedulerError (exit 6) when the network or the server refuses, CheckFailed when the URL's driver
    is missing, and the errors of `atomic.os_error` for the directory here.
    """
    if store.remote is None:
        return Synced()
    with _alone(store.root, patience):
        return _Synchronisation(store.root, store.records_dir, store.remote).run()


@dataclass
class _Day:
    """A day when it was last in step: its mark there, the names here, when that was, the directory's time."""

    mark: str
    names: str
    listed_at: float
    mtime_ns: int = 0


@dataclass
class _Memory:
    """What was seen at a URL. pushing: days that may have records there without a mark that tells of them."""

    remote: str
    days: dict[str, _Day] = field(default_factory=dict)
    pushing: set[str] = field(default_factory=set)
    days_at: float = 0.0

    @classmethod
    def read(cls, file: Path, remote: str) -> _Memory:
        """What was remembered of this URL; nothing when the file is damaged: all of it can be seen again."""
        try:
            data = json.loads(file.read_bytes())
            if data["schema"] != _SCHEMA or data["remote"] != remote:
                return cls(remote)
            days = {
                str(day): _Day(str(d[0]), str(d[1]), float(d[2]), int(d[3]))
                for day, d in data["days"].items()
            }
            return cls(remote, days, {str(day) for day in data["pushing"]}, float(data["days_at"]))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return cls(remote)

    def write(self, file: Path) -> None:
        """Remember it."""
        days = {day: [d.mark, d.names, d.listed_at, d.mtime_ns] for day, d in self.days.items()}
        rest = {"schema": _SCHEMA, "remote": self.remote, "days_at": self.days_at}
        write_json(file, {**rest, "days": days, "pushing": sorted(self.pushing)})


class _Synchronisation:
    """One pass over all days that may have changed."""

    def __init__(self, root: Path, records: Path, remote: str) -> None:
        self._records = records
        self._remote = remote
        self._file = root / MEMORY_FILE
        self._memory = _Memory.read(self._file, remote)
        self._system, self._base = open_file_system(remote)
        self._base = self._base.rstrip("/")
        self._pushed = self._pulled = self._listed = 0
        self._findings: list[Finding] = []

    def run(self) -> Synced:
        """Bring every day in step."""
        before = repr(self._memory)
        again = self._due()
        marks = {name: identity for name, (_, identity) in self._names("days", _DAY).items()}
        days = set(self._local_days()) | set(marks) | self._memory.pushing
        all_days = not _recent(self._memory.days_at)
        if all_days:
            days |= set(self._names("records", _DAY, directories=True))
        try:
            for day in sorted(days):
                mark = marks.get(day, "")
                if day in again or not self._in_step(day, mark):
                    self._sync_day(day, mark)
            if all_days:
                self._memory.days_at = time.time()
        finally:
            if repr(self._memory) != before:
                self._memory.write(self._file)
        return Synced(self._pushed, self._pulled, self._listed, tuple(self._findings))

    def _due(self) -> set[str]:
        """Days to list whatever is known of them."""
        old = sorted((d.listed_at, day) for day, d in self._memory.days.items() if not _recent(d.listed_at))
        return self._memory.pushing | {day for _, day in old[:_LISTED_AGAIN]}

    def _in_step(self, day: str, mark: str) -> bool:
        """Whether neither side has changed since the day was last in step."""
        known = self._memory.days.get(day)
        if known is None or known.mark != mark:
            return False
        mtime_ns = self._mtime_ns(day)
        if mtime_ns == known.mtime_ns:
            return True
        if _digest(self._local(day)) != known.names:
            return False
        if mtime_ns < time.time_ns() - _SETTLED_NS:
            known.mtime_ns = mtime_ns
        return True

    def _sync_day(self, day: str, mark: str) -> None:
        here = self._local(day)
        there = {name: size for name, (size, _) in self._names(f"records/{day}", _NAME).items()}
        self._listed += 1
        self._compare(day, here, there)
        pushed = sorted(set(here) - set(there))
        if pushed or day in self._memory.pushing:
            # Remembered first: whoever dies between the records and the mark writes the mark next time.
            self._memory.pushing.add(day)
            self._memory.write(self._file)
            for batch in _batches(pushed, here):
                self._push(day, batch)
            self._write_mark(day)
            self._memory.pushing.discard(day)
        # Mark and names from before: what changed meanwhile, our own mark too, is looked at next time.
        names = set(here)
        for batch in _batches(sorted(set(there) - names), there):
            names |= self._pull(day, batch)
        self._memory.days[day] = _Day(mark, _digest(names), time.time())

    def _compare(self, day: str, here: Mapping[str, int | None], there: Mapping[str, int | None]) -> None:
        for name in set(here) & set(there):
            if None not in (here[name], there[name]) and here[name] != there[name]:
                what = f"the record here has {here[name]} bytes, the one at {self._remote} {there[name]}"
                self._find("differs", what, self._records / day / name)

    def _push(self, day: str, names: Iterable[str]) -> None:
        data = {}
        for name in names:
            file = self._records / day / name
            try:
                data[f"{self._base}/records/{day}/{name}"] = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise os_error(exc, file) from exc
        with translated(self._remote):
            self._put(data)
        self._pushed += len(data)

    def _write_mark(self, day: str) -> None:
        # Of random length, so that a file system which tells whole seconds and sizes tells two marks apart.
        mark = os.urandom(8 + os.urandom(1)[0]).hex().encode()
        with translated(self._remote):
            self._put({f"{self._base}/days/{day}": mark})

    def _put(self, data: Mapping[str, bytes]) -> None:
        """Write whole files."""
        protocol = self._system.protocol
        if _ATOMIC & {protocol, *(protocol if isinstance(protocol, tuple | list) else ())}:
            if data:
                self._system.pipe(dict(data))
            return
        for path, content in data.items():
            parent, _, name = path.rpartition("/")
            temporary = f"{parent}/.{name[:40]}.{os.urandom(6).hex()}.tmp"
            self._system.makedirs(parent, exist_ok=True)
            self._system.pipe_file(temporary, content)
            self._system.mv(temporary, path)

    def _pull(self, day: str, names: Iterable[str]) -> set[str]:
        """Take records over; those that are here now."""
        taken: dict[str, bytes] = {}
        paths = {f"{self._base}/records/{day}/{name}": name for name in names}
        with translated(self._remote):
            found = self._system.cat(list(paths), on_error="return")
        for path, name in paths.items():
            content = found.get(path)
            if isinstance(content, FileNotFoundError) or content is None:
                continue
            if not isinstance(content, bytes):
                with translated(self._remote):
                    raise content
            if _is_record(content):
                taken[name] = content
            else:
                self._find("damaged", "no record, not taken over", f"{self._remote}/records/{day}/{name}")
        directory = self._records / day
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise os_error(exc, directory) from exc
        # Each write waits for the disk; the disk takes many at once.
        with ThreadPoolExecutor(_WRITERS) as threads:
            made = threads.map(lambda name: write_new(directory / name, taken[name]), taken)
            self._pulled += sum(made)
        return set(taken)

    def _names(
        self, place: str, pattern: re.Pattern[str], *, directories: bool = False
    ) -> dict[str, tuple[int | None, str]]:
        """Size and identity of what lies at a place there, by name; strange names are left out."""
        with translated(self._remote):
            self._system.invalidate_cache()
            try:
                entries = self._system.ls(f"{self._base}/{place}", detail=True)
            except FileNotFoundError:
                return {}
        found = {}
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if not pattern.fullmatch(name) or (entry.get("type") == "directory") is not directories:
                continue
            size = entry.get("size")
            if isinstance(size, int) and size > _LIMIT:
                self._find("damaged", "too large for a record", f"{self._remote}/{place}/{name}")
                continue
            found[name] = (size if isinstance(size, int) else None, file_identity(entry) or "")
        return found

    def _local_days(self) -> list[str]:
        try:
            with os.scandir(self._records) as entries:
                return [e.name for e in entries if _DAY.fullmatch(e.name) and e.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise os_error(exc, self._records) from exc

    def _local(self, day: str) -> dict[str, int | None]:
        """The sizes of the records of a day here, by name."""
        try:
            with os.scandir(self._records / day) as entries:
                files = [
                    (e.name, e.stat().st_size) for e in entries if _NAME.fullmatch(e.name) and e.is_file()
                ]
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise os_error(exc, self._records / day) from exc
        return {name: size for name, size in files if size <= _LIMIT}

    def _mtime_ns(self, day: str) -> int:
        try:
            return (self._records / day).stat().st_mtime_ns
        except OSError:
            return -1

    def _find(self, name: str, message: str, where: str | Path) -> None:
        self._findings.append(Finding(f"mirror.{name}", "warning", message, printable(where)))


def _recent(moment: float) -> bool:
    """Whether what was seen then is trusted; a time in the future is a clock that was set back."""
    return 0 <= time.time() - moment < _TRUSTED_SECONDS


def _is_record(content: bytes) -> bool:
    """Whether it is a JSON object at all; what it says is for `read_records` to judge."""
    try:
        return len(content) <= _LIMIT and isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:32]


def _batches(names: Iterable[str], sizes: Mapping[str, int | None]) -> Iterator[list[str]]:
    """Names in groups small enough to be held in memory at once."""
    batch: list[str] = []
    total = 0
    for name in names:
        size = sizes[name] or 0
        if batch and (len(batch) == _BATCH_FILES or total + size > _BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += size
    if batch:
        yield batch


@contextlib.contextmanager
def _alone(root: Path, patience: float) -> Iterator[None]:
    """One synchronisation of a store directory at a time."""
    file = root / LOCK_FILE
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileExistsError as exc:
        what = "a file stands where the store's directory should be"
        raise UsageError(what, where=printable(root), next="move that file away") from exc
    except OSError as exc:
        raise os_error(exc, file) from exc
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    what = "another command is bringing the records of this store in step"
                    raise Conflict(what, where=printable(file), next="try again") from exc
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)
