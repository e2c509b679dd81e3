"""Brings the index up to the records: only days that changed are listed, only new files are read."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nemotron.artifacts.index.database import transaction
from nemotron.artifacts.index.schema import INDEXES, TABLES, Writer
from nemotron.artifacts.records import Record, read_record
from nemotron.findings import Finding

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# A directory that changed this recently may change again without its time changing.
_RACY_NS = 2_000_000_000
_BATCH = 20_000

Progress = Callable[[int, int], None]


def sync_index(database: sqlite3.Connection, records_dir: Path, progress: Progress | None = None) -> None:
    """Read what is new below `records_dir`.

    progress: called with records read and to be read. Files that cannot be read become rows of `problem`.
    Several processes may do this at once, and be killed at any moment.
    """
    days = _days(records_dir)
    known = dict(database.execute("SELECT name, state FROM day"))
    if not known.keys() <= days.keys():
        _empty(database)  # records never go away; where a day did, this is another store
        known = {}
    changed = [name for name, state in days.items() if known.get(name) != state or not state]
    news: list[tuple[str, str]] = []
    for day in changed:
        names = _names(records_dir / day)
        seen = {row[0] for row in database.execute("SELECT name FROM file WHERE day = ?", (day,))}
        if not seen <= names:
            _empty(database)
            return sync_index(database, records_dir, progress)
        news += [(day, name) for name in sorted(names - seen)]
    again: set[str] = set()
    with _no_collection(), _in_bulk(database, len(news) if not known else 0):
        for start in range(0, len(news), _BATCH):
            batch = news[start : start + _BATCH]
            again |= _absorb(database, records_dir, batch)
            if progress is not None:
                progress(start + len(batch), len(news))
    _complete(database)
    states = {day: "" if day in again else days[day] for day in changed}
    if any(known.get(day) != state for day, state in states.items()):
        with transaction(database):
            database.executemany("INSERT OR REPLACE INTO day VALUES (?, ?)", list(states.items()))
    return None


def _complete(database: sqlite3.Connection) -> None:
    """Make the indexes that a reading in bulk which was cut off has left out."""
    wanted = [words for words in INDEXES.split(";") if words.strip()]
    there = "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if database.execute(there).fetchone()[0] < len(wanted):
        with transaction(database):
            for words in wanted:
                database.execute(words.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS"))


@contextlib.contextmanager
def _in_bulk(database: sqlite3.Connection, count: int) -> Iterator[None]:
    """The first reading of many records: the indexes are made after it, in a quarter of the time."""
    if count < _BATCH:
        yield
        return
    with transaction(database):
        for words in INDEXES.split(";"):
            if words.strip():
                database.execute(f"DROP INDEX IF EXISTS {words.split()[2]}")
    yield


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for circles of garbage, of which records have none: it takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _absorb(database: sqlite3.Connection, records_dir: Path, batch: list[tuple[str, str]]) -> set[str]:
    """Read record files and write their rows in one transaction; reading holds up no other writer.

    Returns the days with files that may be readable the next time.
    """
    again: set[str] = set()
    records: list[Record] = []
    read: list[tuple[str, str]] = []
    problems: list[tuple[str, str]] = []
    root = str(records_dir)
    for day, name in batch:
        found = read_record(f"{root}/{day}/{name}")
        if isinstance(found, Finding):
            problems.append((f"{day}/{name}", found.message))
            if found.id == "record.unreadable":
                again.add(day)
                continue
        else:
            records.append(found)
        read.append((day, name))
    with transaction(database):
        Writer(database).put(records)
        database.executemany("DELETE FROM problem WHERE file = ?", [(f"{day}/{name}",) for day, name in read])
        database.executemany("INSERT OR IGNORE INTO file VALUES (?, ?)", read)
        database.executemany("INSERT OR REPLACE INTO problem VALUES (?, ?)", problems)
    return again


def _days(records_dir: Path) -> dict[str, str]:
    """The state of each day's directory; empty for one that may still change without showing it."""
    found = {}
    now = time.time_ns()
    try:
        with os.scandir(records_dir) as entries:
            for entry in entries:
                if _DAY.fullmatch(entry.name):
                    changed = entry.stat().st_mtime_ns
                    found[entry.name] = "" if abs(now - changed) < _RACY_NS else str(changed)
    except FileNotFoundError:
        return {}
    except OSError as problem:
        from nemotron.artifacts.atomic import os_error

        raise os_error(problem, records_dir) from problem
    return found


def _names(day: Path) -> set[str]:
    try:
        with os.scandir(day) as entries:
            return {e.name for e in entries if e.name.endswith(".json") and not e.name.startswith(".")}
    except OSError as problem:
        from nemotron.artifacts.atomic import os_error

        raise os_error(problem, day) from problem


def _empty(database: sqlite3.Connection) -> None:
    tables = [words.split(" ")[2] for words in TABLES.splitlines() if words.startswith("CREATE TABLE")]
    with transaction(database):
        for table in tables:
            database.execute(f"DELETE FROM {table}")
