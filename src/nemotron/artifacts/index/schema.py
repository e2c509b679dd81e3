"""The tables of the index, and the rows that each record becomes.

Every row is written so that neither the order in which records come nor their coming twice changes what the
index holds: an index that grew with the records equals one that is rebuilt from them.

    artifact   one content: its digest, `record:ID` while that is pending, `ref:REFERENCE` if only named
    location   one artifact record: where that content was left, and by which run
    run        one run, or (`elsewhere:RECORD`) the making of an artifact that tells of it itself
    input      what a run took
    event      what was said of artifacts: versions, aliases, taint, digests computed later
    day, file  what was read already
    problem    record files that could not be read
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemotron.artifacts.records import (
    PENDING,
    PHASES,
    ArtifactRecord,
    AttemptRecord,
    EventRecord,
    Record,
)

VERSION = 2
# Made once: `json.dumps` with options makes an encoder for every call.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
# SQLite takes 32766 values in one statement; far fewer are as fast.
_CHUNK = 500
ELSEWHERE, PENDING_IDENT = "elsewhere:", "record:"

TABLES = """
CREATE TABLE artifact (id INTEGER PRIMARY KEY, ident TEXT NOT NULL UNIQUE, type TEXT);
CREATE TABLE location (
    record TEXT PRIMARY KEY, artifact INTEGER NOT NULL, path TEXT, type TEXT, at TEXT, bytes INTEGER,
    run INTEGER, port TEXT, fingerprint TEXT, facts TEXT
) WITHOUT ROWID;
CREATE TABLE run (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, rank INTEGER NOT NULL DEFAULT -1, step TEXT,
    engine TEXT, recipe TEXT, directory TEXT, started TEXT, ended TEXT, exit_code INTEGER, reason TEXT,
    user TEXT, host TEXT, metrics TEXT
);
CREATE TABLE input (
    run INTEGER, port TEXT, artifact INTEGER NOT NULL, PRIMARY KEY (run, port, artifact)
) WITHOUT ROWID;
CREATE TABLE event (
    id TEXT PRIMARY KEY, event TEXT, at TEXT, subject TEXT, name TEXT, version INTEGER, alias TEXT,
    digest TEXT, reason TEXT
) WITHOUT ROWID;
CREATE TABLE day (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file (day TEXT, name TEXT, PRIMARY KEY (day, name)) WITHOUT ROWID;
CREATE TABLE problem (file TEXT PRIMARY KEY, message TEXT) WITHOUT ROWID;"""
INDEXES = """
CREATE INDEX location_of_artifact ON location (artifact);
CREATE INDEX location_of_run ON location (run) WHERE run IS NOT NULL;
CREATE INDEX location_at_path ON location (path);
CREATE INDEX run_of_recipe ON run (recipe) WHERE recipe IS NOT NULL;
CREATE INDEX input_artifact ON input (artifact, run);
CREATE INDEX event_of_subject ON event (subject);
CREATE INDEX event_of_name ON event (name, event, version) WHERE name IS NOT NULL;
CREATE INDEX event_of_taint ON event (event) WHERE event = 'taint';
"""

_PUT_RUN = """
INSERT INTO run
    (run_id, rank, step, engine, recipe, directory, started, ended, exit_code, reason, user, host, metrics)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET
    started = min(coalesce(started, excluded.started), coalesce(excluded.started, started)),
    step = CASE WHEN excluded.rank > rank THEN excluded.step ELSE step END,
    engine = CASE WHEN excluded.rank > rank THEN excluded.engine ELSE engine END,
    recipe = CASE WHEN excluded.rank > rank THEN excluded.recipe ELSE recipe END,
    directory = CASE WHEN excluded.rank > rank THEN excluded.directory ELSE directory END,
    ended = CASE WHEN excluded.rank > rank THEN excluded.ended ELSE ended END,
    exit_code = CASE WHEN excluded.rank > rank THEN excluded.exit_code ELSE exit_code END,
    reason = CASE WHEN excluded.rank > rank THEN excluded.reason ELSE reason END,
    user = CASE WHEN excluded.rank > rank THEN excluded.user ELSE user END,
    host = CASE WHEN excluded.rank > rank THEN excluded.host ELSE host END,
    metrics = CASE WHEN excluded.rank > rank THEN excluded.metrics ELSE metrics END,
    rank = max(rank, excluded.rank)
"""
_PUT_RUN_ID = "INSERT OR IGNORE INTO run (run_id) VALUES (?)"
_PUT_ARTIFACT = """
INSERT INTO artifact (ident, type) VALUES (?, ?)
ON CONFLICT (ident) DO UPDATE SET type = min(coalesce(type, excluded.type), coalesce(excluded.type, type))
"""
_DROP_UNUSED = """
DELETE FROM artifact WHERE ident = ?
AND NOT EXISTS (SELECT 1 FROM location WHERE artifact = artifact.id)
AND NOT EXISTS (SELECT 1 FROM input WHERE artifact = artifact.id)
"""
# Inputs that a run only named at first, and of which it says elsewhere what they were.
_KNOWN_BY_NOW = """
SELECT run, port, artifact, ident FROM input CROSS JOIN artifact ON id = artifact
WHERE run IN (MARKS) AND ident >= 'ref:' AND ident < 'ref;' AND EXISTS (
    SELECT 1 FROM input AS known JOIN artifact AS other ON other.id = known.artifact
    WHERE known.run = input.run AND known.port = input.port
    AND NOT (other.ident >= 'ref:' AND other.ident < 'ref;')
)
"""
_DROP_INPUT = "DELETE FROM input WHERE run = ? AND port = ? AND artifact = ?"
_MOVE_LOCATION = "UPDATE location SET artifact = (SELECT id FROM artifact WHERE ident = ?) WHERE record = ?"
_PUT_LOCATION = """
INSERT OR IGNORE INTO location
    (artifact, run, path, type, at, bytes, port, fingerprint, facts, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_PUT_INPUT = "INSERT OR IGNORE INTO input VALUES (?, ?, ?)"
_PUT_EVENT = "INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def ident_of(record: ArtifactRecord) -> str:
    """What an artifact is known by: its digest, or its record while that is pending."""
    return plain_text(f"{PENDING_IDENT}{record.id}" if record.digest == PENDING else record.digest)


class Writer:
    """Turns records into rows, within a transaction of the caller's.

    Rows are gathered under their names, and numbered at the end: the numbers of many names are looked up at
    once.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._types: dict[str, str | None] = {}  # of artifacts, by ident
        self._run_ids: dict[str, None] = {}
        self._runs: list[tuple[object, ...]] = []
        self._inputs: list[tuple[str, str, str]] = []
        self._locations: list[tuple[str, str | None, tuple[object, ...]]] = []

    def put(self, records: Sequence[Record]) -> None:
        """Write the rows of records."""
        events = []
        pending = []
        for record in records:
            if isinstance(record, AttemptRecord):
                self._attempt(record)
            elif isinstance(record, EventRecord):
                events.append(record)
            elif record.digest != PENDING or not self._is_there(record.id):
                self._artifact_record(record)
                if record.digest == PENDING:
                    pending.append(record.id)
        self._flush()
        self._database.executemany(_PUT_EVENT, [_event_row(e) for e in events])
        for record_id in dict.fromkeys([*pending, *(e.subject for e in events if e.event == "digest")]):
            self._digest_came(record_id)

    def _attempt(self, record: AttemptRecord) -> None:
        ended = record.phase in ("ended", "settled")
        run_id, at = plain_text(record.run_id), plain_text(record.at)
        self._runs.append(
            (
                run_id,
                record.attempt * len(PHASES) + PHASES.index(record.phase),
                _text(record.step),
                _text(record.engine),
                _text(record.recipe_digest),
                _text(record.directory),
                # Neither an end nor a place in a queue tells anything of the beginning.
                at if record.phase == "started" else None,
                at if ended else None,
                record.exit_code,
                _text(record.reason),
                _text(record.user),
                _text(record.host),
                _json(record.metrics),
            )
        )
        for port, given in (record.inputs or {}).items():
            ident = _input_ident(given) if isinstance(given, Mapping) else None
            if ident is not None:
                self._saw(ident, _text(given.get("type")))
                self._inputs.append((run_id, plain_text(port), ident))

    def _artifact_record(self, record: ArtifactRecord) -> None:
        ident = ident_of(record)
        made_by = record.made_by or {}
        run_id = _text(made_by.get("run_id"))
        if run_id is not None:
            self._run_ids[run_id] = None
        elif record.history:
            run_id = self._made_elsewhere(record, record.history)
        self._saw(ident, plain_text(record.type))
        row = (
            path_value(record.path),
            plain_text(record.type),
            plain_text(record.at),
            record.bytes,
            _text(made_by.get("port")),
            _text(record.fingerprint),
            _json(record.facts),
            plain_text(record.id),
        )
        self._locations.append((ident, run_id, row))

    def _made_elsewhere(self, record: ArtifactRecord, history: Mapping[str, Any]) -> str | None:
        """A run of its own for the making that an artifact tells of."""
        parents = history.get("parents")
        if not isinstance(parents, list) or not parents:
            return None
        run_id = plain_text(ELSEWHERE + record.id)
        tool = _text(history.get("tool")) or "elsewhere"
        unknown = (None,) * 5
        self._runs.append((run_id, 0, tool, None, None, None, _text(history.get("at")), None, *unknown))
        for parent in parents:
            if isinstance(parent, Mapping):
                ident = _text(parent.get("digest")) or f"ref:{_text(parent.get('reference')) or '?'}"
                self._saw(ident, None)
                self._inputs.append((run_id, _text(parent.get("role")) or "parent", ident))
        return run_id

    def _saw(self, ident: str, type_: str | None) -> None:
        known = self._types.get(ident)
        if known is None or (type_ is not None and type_ < known):
            self._types[ident] = type_

    def _flush(self) -> None:
        """Write what was gathered."""
        self._database.executemany(_PUT_ARTIFACT, self._types.items())
        self._database.executemany(_PUT_RUN, self._runs)
        self._database.executemany(_PUT_RUN_ID, [(run_id,) for run_id in self._run_ids])
        artifacts = self._numbers("SELECT ident, id FROM artifact WHERE ident IN (MARKS)", list(self._types))
        names = dict.fromkeys([*self._run_ids, *(str(row[0]) for row in self._runs)])
        runs = self._numbers("SELECT run_id, id FROM run WHERE run_id IN (MARKS)", list(names))
        self._database.executemany(
            _PUT_INPUT, [(runs[run], port, artifacts[ident]) for run, port, ident in self._inputs]
        )
        self._drop_named({runs[run] for run, _, _ in self._inputs if not run.startswith(ELSEWHERE)})
        self._database.executemany(
            _PUT_LOCATION,
            [(artifacts[ident], runs.get(run or ""), *row) for ident, run, row in self._locations],
        )
        for gathered in (self._types, self._run_ids, self._runs, self._inputs, self._locations):
            gathered.clear()

    def _drop_named(self, runs: Collection[int]) -> None:
        """Leave one edge of an input that was only named at first and is known by now."""
        numbers = list(runs)
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            query = _KNOWN_BY_NOW.replace("MARKS", ", ".join("?" * len(chunk)))
            found = self._database.execute(query, chunk).fetchall()
            self._database.executemany(_DROP_INPUT, [row[:3] for row in found])
            self._database.executemany(_DROP_UNUSED, [row[3:] for row in found])

    def _numbers(self, query: str, names: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            found |= dict(self._database.execute(query.replace("MARKS", ", ".join("?" * len(chunk))), chunk))
        return found

    def _is_there(self, record_id: str) -> bool:
        found = self._database.execute("SELECT 1 FROM location WHERE record = ?", (record_id,))
        return found.fetchone() is not None

    def _digest_of(self, record_id: str) -> str | None:
        """The digest that was computed for a pending record; the earliest counts, in any order of reading."""
        row = self._database.execute(
            "SELECT digest FROM event WHERE subject = ? AND event = 'digest' AND digest IS NOT NULL "
            "ORDER BY at, id LIMIT 1",
            (record_id,),
        ).fetchone()
        return row[0] if row else None

    def _digest_came(self, record_id: str) -> None:
        row = self._database.execute(
            "SELECT location.type, ident FROM location JOIN artifact ON id = artifact WHERE record = ?",
            (record_id,),
        ).fetchone()
        digest = self._digest_of(record_id)
        if row is None or digest is None:
            return
        self._database.execute(_PUT_ARTIFACT, (digest, row[0]))
        self._database.execute(_MOVE_LOCATION, (digest, record_id))
        if row[1] != digest:
            self._database.execute(_DROP_UNUSED, (row[1],))


def _event_row(record: EventRecord) -> tuple[object, ...]:
    return (
        plain_text(record.id),
        record.event,
        plain_text(record.at),
        _text(record.subject),
        _text(record.name),
        record.version,
        _text(record.alias),
        _text(record.digest),
        _text(record.reason),
    )


def _input_ident(given: Mapping[str, Any]) -> str | None:
    digest = _text(given.get("digest"))
    if digest and digest != PENDING:
        return digest
    name = _text(given.get("reference") or given.get("path"))
    return f"ref:{name}" if name else None


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else _ENCODE(value)


def _text(value: object) -> str | None:
    return plain_text(value) if isinstance(value, str) else None


def plain_text(text: str) -> str:
    """Text that SQLite takes: half of a character, as names of odd files hold, becomes an escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def path_value(path: str) -> str | bytes:
    """A path as its column holds it: text, or bytes where it is none."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
    return path


def path_of(value: str | bytes) -> str:
    """The path that `path_value` made."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
