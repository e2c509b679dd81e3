"""Questions to the index: which artifact is meant, what is known of it, what surrounds it."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from nemotron.artifacts.index.schema import ELSEWHERE, PENDING_IDENT, path_of, path_value, plain_text
from nemotron.artifacts.lineage import ArtifactNode, Edge, RunNode
from nemotron.artifacts.run_state import ended_state

LATEST = "latest"
# SQLite takes 32766 values in one statement; far fewer are as fast.
_CHUNK = 500


_LOCATIONS = """
SELECT ident, record, path, location.type, at, bytes, fingerprint, run_id, port, facts
FROM artifact JOIN location ON artifact.id = artifact LEFT JOIN run ON run.id = run
WHERE ident IN (MARKS) ORDER BY at DESC, record
"""
_TYPES = "SELECT ident, type FROM artifact WHERE ident IN (MARKS)"
_SUBJECTS = "SELECT DISTINCT subject FROM event WHERE subject IN (MARKS)"
_RUNS = """
SELECT run_id, step, engine, started, ended, exit_code, reason, user, host, directory, metrics
FROM run WHERE run_id IN (MARKS)
"""


_MAKERS = """
SELECT ident, run_id, port FROM artifact JOIN location ON artifact.id = artifact JOIN run ON run.id = run
WHERE ident IN (MARKS)
"""
_PATHS = """
SELECT ident, path FROM artifact JOIN location ON artifact.id = artifact
WHERE ident IN (MARKS) AND path IS NOT NULL
"""
_VERSIONS = """
SELECT name, version, subject, at FROM event
WHERE name = ? AND event = 'version' AND version IS NOT NULL ORDER BY version, at, id
"""
_LABELS = """
SELECT DISTINCT name, version FROM event
WHERE subject IN (MARKS) AND event = 'version' AND name IS NOT NULL AND version IS NOT NULL
ORDER BY name, version
"""
_FIRST_CLAIM = """
SELECT subject FROM event WHERE name = ? AND event = 'version' AND version = ? ORDER BY at, id LIMIT 1
"""
_LAST_TAINT = """
SELECT event, reason FROM event WHERE subject IN (MARKS) AND event IN ('taint', 'untaint')
ORDER BY at DESC, id DESC LIMIT 1
"""
_TAKERS = """
SELECT ident, run_id, port FROM artifact JOIN input ON artifact.id = artifact JOIN run ON run.id = run
WHERE ident IN (MARKS)
"""
_INPUTS = """
SELECT ident, run_id, port FROM run JOIN input ON run.id = run JOIN artifact ON artifact.id = artifact
WHERE run_id IN (MARKS)
"""
_LEFT = """
SELECT ident, run_id, port FROM run JOIN location ON run.id = run JOIN artifact ON artifact.id = artifact
WHERE run_id IN (MARKS)
"""


class Version(NamedTuple):
    """One version of a named artifact."""

    name: str
    version: int
    subject: str
    at: str


class Location(NamedTuple):
    """One place where an artifact was left, as its record says."""

    record: str
    path: str
    type: str
    at: str
    bytes: int | None
    fingerprint: str | None
    run: str | None
    port: str | None
    facts: Mapping[str, Any]


class Tainted(NamedTuple):
    """Something an artifact descends from, or the artifact itself, must not be used."""

    subject: str
    reason: str


class Index:
    """Reads one open index. Artifacts are told by `ident`, see `schema`.

    stale: why records of others may be missing, None when they are not.
    """

    def __init__(self, database: sqlite3.Connection, stale: str | None = None) -> None:
        self.database = database
        self.stale = stale

    def _ask(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Any text may be asked for: what the columns cannot hold is written there in another way."""
        given = [plain_text(value) if isinstance(value, str) else value for value in values]
        return self.database.execute(query, given)

    # Which artifact is meant

    def ident_of_record(self, record: str) -> str | None:
        """The artifact of a record's id."""
        row = self._ask(
            "SELECT ident FROM location JOIN artifact ON id = artifact WHERE record = ?", (record,)
        ).fetchone()
        return row[0] if row else None

    def idents_by_prefix(self, prefix: str, limit: int = 12) -> tuple[str, ...]:
        """Artifacts whose ident begins with `prefix`."""
        rows = self._ask(
            "SELECT ident FROM artifact WHERE ident >= ? AND ident < ? ORDER BY ident LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return tuple(row[0] for row in rows)

    def has(self, ident: str) -> bool:
        """Whether anything is known of an artifact."""
        return self._ask("SELECT 1 FROM artifact WHERE ident = ?", (ident,)).fetchone() is not None

    def idents_at(self, path: str) -> tuple[str, ...]:
        """What was left at a path, the latest first."""
        rows = self._ask(
            "SELECT ident FROM location JOIN artifact ON id = artifact WHERE path = ? "
            "ORDER BY at DESC, record",
            (path_value(path),),
        )
        return tuple(dict.fromkeys(row[0] for row in rows))

    def run_ids(self, prefix: str, limit: int = 12) -> tuple[str, ...]:
        """Runs whose id begins with `prefix`."""
        rows = self._ask(
            "SELECT run_id FROM run WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return tuple(row[0] for row in rows)

    def outputs_of(self, run_id: str) -> dict[str, str]:
        """What a run left, by port; a checkpoint that is not the output is at `PORT/step_N`."""
        rows = self._ask(
            "SELECT port, ident FROM location JOIN artifact ON artifact.id = artifact "
            "JOIN run ON run.id = run WHERE run_id = ? ORDER BY port, at, record",
            (run_id,),
        )
        return {port or "output": ident for port, ident in rows}

    # Names

    def names(self) -> tuple[str, ...]:
        """All names that were given."""
        rows = self._ask("SELECT DISTINCT name FROM event WHERE name IS NOT NULL ORDER BY name")
        return tuple(row[0] for row in rows)

    def versions(self, name: str) -> tuple[Version, ...]:
        """The versions of a name, the first one first. Of two that claim one number the earlier counts."""
        rows = self._ask(_VERSIONS, (name,))
        found: dict[int, Version] = {}
        for row in rows:
            found.setdefault(row[1], Version(row[0], row[1], self._now(row[2]), row[3]))
        return tuple(found.values())

    def aliases(self, name: str) -> dict[str, str]:
        """The artifact that each alias of a name means now."""
        rows = self._ask(
            "SELECT alias, version, subject FROM event WHERE name = ? AND event = 'alias' "
            "AND alias IS NOT NULL ORDER BY at, id",
            (name,),
        )
        last = {alias: (version, subject) for alias, version, subject in rows}
        return {a: self._now(subject) for a, (version, subject) in last.items() if version is not None}

    def labels(self, ident: str) -> tuple[str, ...]:
        """Every `NAME:vN` and `NAME:ALIAS` that means an artifact now."""
        found = []
        subjects = self._subjects(ident)
        rows = self._ask(_LABELS.replace("MARKS", _marks(subjects)), subjects)
        for name, numbers in itertools.groupby(rows.fetchall(), key=lambda row: row[0]):
            for _, number in numbers:
                first = self._ask(_FIRST_CLAIM, (name, number)).fetchone()
                if first[0] in subjects:
                    found.append(f"{name}:v{number}")
            found += [f"{name}:{alias}" for alias, meant in self.aliases(name).items() if meant == ident]
        return tuple(found)

    def _now(self, subject: str) -> str:
        """The artifact that an event speaks of: what was pending then may be known by its digest since."""
        if subject.startswith(PENDING_IDENT):
            return self.ident_of_record(subject.removeprefix(PENDING_IDENT)) or subject
        return subject

    def _subjects(self, ident: str) -> list[str]:
        """What an event may have called an artifact."""
        query = "SELECT record FROM location JOIN artifact ON id = artifact WHERE ident = ?"
        return [ident, *(PENDING_IDENT + row[0] for row in self._ask(query, (ident,)))]

    def last_said(self, subject: str, name: str | None) -> str | None:
        """When an artifact or a name was last spoken of; ISO time."""
        row = self._ask(
            "SELECT max(at) FROM event WHERE subject = ? OR (name = ? AND name IS NOT NULL)", (subject, name)
        ).fetchone()
        return row[0] if row else None

    # Taint

    def taint(self, ident: str) -> str | None:
        """Why an artifact itself must not be used, None when nothing was said or it was taken back."""
        subjects = self._subjects(ident)
        row = self._ask(_LAST_TAINT.replace("MARKS", _marks(subjects)), subjects).fetchone()
        return (row[1] or "no reason given") if row and row[0] == "taint" else None

    def tainted_above(self, idents: Iterable[str]) -> dict[str, Tainted]:
        """For each of some artifacts that is tainted, itself or through what it was made from: by what."""
        rows = self._ask("SELECT DISTINCT subject FROM event WHERE event = 'taint'").fetchall()
        named = {self._now(subject) for (subject,) in rows}
        tainted = {ident: reason for ident in named if (reason := self.taint(ident))}
        found: dict[str, Tainted] = {}
        if not tainted:
            return found
        for ident in idents:
            for above in self._ancestors(ident):
                if above in tainted:
                    found[ident] = Tainted(above, tainted[above])
                    break
        return found

    def _ancestors(self, ident: str) -> Iterator[str]:
        """An artifact and all it was made from, the nearest first."""
        seen = {ident}
        layer = [ident]
        while layer:
            yield from layer
            runs = {edge.run for edge in self.makers(layer)}
            layer = list(dict.fromkeys(e.artifact for e in self.inputs_of(runs) if e.artifact not in seen))
            seen |= set(layer)

    def problems(self) -> tuple[str, ...]:
        """Record files that could not be read, and why."""
        rows = self._ask("SELECT file, message FROM problem ORDER BY file")
        return tuple(f"{file}: {message}" for file, message in rows)

    # What is known

    def locations(self, ident: str) -> tuple[Location, ...]:
        """Where an artifact was left, the latest first."""
        rows = self._ask(_LOCATIONS.replace("MARKS", "?"), (ident,))
        return tuple(_location(row) for row in rows)

    def recent(self, type_: str | None, limit: int) -> tuple[str, ...]:
        """The artifacts recorded last, of one type or of all."""
        where = "WHERE location.type = ?" if type_ else ""
        rows = self._ask(
            f"SELECT ident FROM location JOIN artifact ON id = artifact {where} "
            "GROUP BY artifact ORDER BY max(at) DESC, ident LIMIT ?",
            (type_, limit) if type_ else (limit,),
        )
        return tuple(row[0] for row in rows)

    def finished(self, recipe: str) -> tuple[str, ...]:
        """Directories of runs of a recipe that ended well, the latest first."""
        rows = self._ask(
            "SELECT directory FROM run WHERE recipe = ? AND exit_code = 0 AND directory IS NOT NULL "
            "ORDER BY ended DESC, run_id",
            (recipe,),
        )
        return tuple(row[0] for row in rows)

    def artifacts(self, idents: Collection[str]) -> dict[str, ArtifactNode]:
        """What is known of some artifacts, in their order."""
        places: dict[str, list[Location]] = {}
        types: dict[str, str | None] = {}
        for chunk in _chunks(list(idents)):
            types |= dict(self._ask(_TYPES.replace("MARKS", _marks(chunk)), chunk))
            for row in self._ask(_LOCATIONS.replace("MARKS", _marks(chunk)), chunk):
                places.setdefault(row[0], []).append(_location(row))
        # Most artifacts nobody ever spoke of: one question for all of them.
        called = {PENDING_IDENT + p.record: ident for ident, found in places.items() for p in found}
        called |= {ident: ident for ident in idents}
        spoken_of: set[str] = set()
        for chunk in _chunks(list(called)):
            rows = self._ask(_SUBJECTS.replace("MARKS", _marks(chunk)), chunk)
            spoken_of |= {called[row[0]] for row in rows}
        return {
            ident: self._node(ident, types.get(ident), places.get(ident, []), ident in spoken_of)
            for ident in idents
        }

    def _node(
        self, ident: str, type_: str | None, places: Sequence[Location], spoken_of: bool
    ) -> ArtifactNode:
        paths = [p.path for p in places]
        if not paths and ident.startswith("ref:"):
            paths = [ident.removeprefix("ref:")]
        return ArtifactNode(
            id=ident,
            type=places[0].type if places else type_,
            at=min((p.at for p in places), default=None),
            bytes=next((p.bytes for p in places if p.bytes is not None), None),
            paths=tuple(dict.fromkeys(paths)),
            names=self.labels(ident) if spoken_of else (),
            tainted=self.taint(ident) if spoken_of else None,
            facts=places[0].facts if places else {},
        )

    def runs(self, run_ids: Collection[str]) -> dict[str, RunNode]:
        """What is known of some runs."""
        found = {}
        for chunk in _chunks(sorted(run_ids)):
            for row in self._ask(_RUNS.replace("MARKS", _marks(chunk)), chunk):
                found[row[0]] = RunNode(
                    id=row[0],
                    step=row[1],
                    engine=row[2],
                    state=_state(row[0], row[4], row[5], row[6]),
                    started=row[3],
                    ended=row[4],
                    user=row[7],
                    host=row[8],
                    directory=row[9],
                    metrics=_object(row[10]),
                )
        return found

    # Edges

    def makers(self, idents: Iterable[str], limit: int = -1) -> list[Edge]:
        """From the runs that made artifacts."""
        return self._edges(_MAKERS, list(idents), "output", limit)

    def takers(self, idents: Iterable[str], limit: int = -1) -> list[Edge]:
        """To the runs that took artifacts, also under the path that one lies at."""
        named = list(idents)
        found = self._edges(_TAKERS, named, "input", limit)
        at_paths: dict[str, str] = {}
        for chunk in _chunks(named):
            rows = self._ask(_PATHS.replace("MARKS", _marks(chunk)), chunk)
            at_paths |= {plain_text(f"ref:{path_of(path)}"): ident for ident, path in rows}
        for edge in self._edges(_TAKERS, list(at_paths), "input", limit):
            found.append(replace(edge, artifact=at_paths[edge.artifact]))
        return found

    def inputs_of(self, run_ids: Collection[str], limit: int = -1) -> list[Edge]:
        """Into runs. What is known by its path only is what lies there, where that is on record."""
        found = self._edges(_INPUTS, sorted(run_ids), "input", limit)
        return [self._at_path(e) if e.artifact.startswith("ref:/") else e for e in found]

    def left_by(self, run_ids: Collection[str], limit: int = -1) -> list[Edge]:
        """Out of runs."""
        return self._edges(_LEFT, sorted(run_ids), "output", limit)

    def _at_path(self, edge: Edge) -> Edge:
        idents = self.idents_at(edge.artifact.removeprefix("ref:"))
        return replace(edge, artifact=idents[0]) if idents else edge

    def _edges(self, query: str, values: Sequence[str], direction: str, limit: int) -> list[Edge]:
        found: dict[Edge, None] = {}
        for chunk in _chunks(values):
            left = limit - len(found) if limit >= 0 else -1
            if left == 0:
                break
            marked = query.replace("MARKS", _marks(chunk)) + " LIMIT ?"
            for ident, run_id, port in self._ask(marked, (*chunk, left)):
                found[Edge(ident, run_id, direction, port or "")] = None
        return list(found)


def _location(row: Sequence[Any]) -> Location:
    return Location._make((row[1], path_of(row[2]), *row[3:9], _object(row[9])))


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _object(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def _state(run_id: str, ended: str | None, exit_code: int | None, reason: str | None) -> str:
    if run_id.startswith(ELSEWHERE):
        return "elsewhere"
    if ended is None:
        return "running"
    return ended_state(exit_code, reason)
