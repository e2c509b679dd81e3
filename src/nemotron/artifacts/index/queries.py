"""Questions to the index: which artifact is meant, what is known of it, what surrounds it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from nemotron.artifacts.index.schema import ELSEWHERE
from nemotron.artifacts.lineage import ArtifactNode, Edge, RunNode

LATEST = "latest"
# SQLite takes 32766 values in one statement; far fewer are as fast.
_CHUNK = 500


_LOCATIONS = """
SELECT ident, record, path, location.type, at, bytes, fingerprint, run_id, port, facts
FROM artifact JOIN location ON artifact.id = artifact LEFT JOIN run ON run.id = run
WHERE ident IN ({marks}) ORDER BY at DESC, record
"""
_TYPES = "SELECT ident, type FROM artifact WHERE ident IN ({marks})"
_SUBJECTS = "SELECT DISTINCT subject FROM event WHERE subject IN ({marks})"
_RUNS = """
SELECT run_id, step, engine, started, ended, exit_code, reason, user, host, directory, metrics
FROM run WHERE run_id IN ({marks})
"""


_MAKERS = """
SELECT {column}, run_id, port FROM location JOIN artifact ON artifact.id = artifact JOIN run ON run.id = run
WHERE {column} IN (MARKS)
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

    # Which artifact is meant

    def ident_of_record(self, record: str) -> str | None:
        """The artifact of a record's id."""
        row = self.database.execute(
            "SELECT ident FROM location JOIN artifact ON id = artifact WHERE record = ?", (record,)
        ).fetchone()
        return row[0] if row else None

    def idents_by_prefix(self, prefix: str, limit: int = 12) -> tuple[str, ...]:
        """Artifacts whose ident begins with `prefix`."""
        rows = self.database.execute(
            "SELECT ident FROM artifact WHERE ident >= ? AND ident < ? ORDER BY ident LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return tuple(row[0] for row in rows)

    def has(self, ident: str) -> bool:
        """Whether anything is known of an artifact."""
        return (
            self.database.execute("SELECT 1 FROM artifact WHERE ident = ?", (ident,)).fetchone() is not None
        )

    def idents_at(self, path: str) -> tuple[str, ...]:
        """What was left at a path, the latest first."""
        rows = self.database.execute(
            "SELECT ident FROM location JOIN artifact ON id = artifact WHERE path = ? "
            "ORDER BY at DESC, record",
            (path,),
        )
        return tuple(dict.fromkeys(row[0] for row in rows))

    def run_ids(self, prefix: str, limit: int = 12) -> tuple[str, ...]:
        """Runs whose id begins with `prefix`."""
        rows = self.database.execute(
            "SELECT run_id FROM run WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return tuple(row[0] for row in rows)

    def outputs_of(self, run_id: str) -> dict[str, str]:
        """What a run left, by port; a checkpoint that is not the output is at `PORT/step_N`."""
        rows = self.database.execute(
            "SELECT port, ident FROM location JOIN artifact ON artifact.id = artifact "
            "JOIN run ON run.id = run WHERE run_id = ? ORDER BY port, at, record",
            (run_id,),
        )
        return {port or "output": ident for port, ident in rows}

    # Names

    def names(self) -> tuple[str, ...]:
        """All names that were given."""
        rows = self.database.execute("SELECT DISTINCT name FROM event WHERE name IS NOT NULL ORDER BY name")
        return tuple(row[0] for row in rows)

    def versions(self, name: str) -> tuple[Version, ...]:
        """The versions of a name, the first one first. Of two that claim one number the earlier counts."""
        rows = self.database.execute(
            "SELECT name, version, subject, at FROM event WHERE name = ? AND event = 'version' "
            "ORDER BY version, at, id",
            (name,),
        )
        found: dict[int, Version] = {}
        for row in rows:
            found.setdefault(row[1], Version(*row))
        return tuple(found.values())

    def aliases(self, name: str) -> dict[str, int]:
        """What each alias of a name means now."""
        rows = self.database.execute(
            "SELECT alias, version FROM event WHERE name = ? AND event = 'alias' ORDER BY at, id", (name,)
        )
        return {alias: version for alias, version in dict(rows).items() if version is not None}

    def labels(self, ident: str) -> tuple[str, ...]:
        """Every `NAME:vN` and `NAME:ALIAS` that means an artifact now."""
        rows = self.database.execute(
            "SELECT DISTINCT name FROM event WHERE subject = ? AND event = 'version' ORDER BY name", (ident,)
        )
        found = []
        for (name,) in rows.fetchall():
            versions = {v.version for v in self.versions(name) if v.subject == ident}
            found += [f"{name}:v{number}" for number in sorted(versions)]
            found += [f"{name}:{alias}" for alias, number in self.aliases(name).items() if number in versions]
        return tuple(found)

    # Taint

    def taint(self, ident: str) -> str | None:
        """Why an artifact itself must not be used, None when nothing was said or it was taken back."""
        row = self.database.execute(
            "SELECT event, reason FROM event WHERE subject = ? AND event IN ('taint', 'untaint') "
            "ORDER BY at DESC, id DESC LIMIT 1",
            (ident,),
        ).fetchone()
        return (row[1] or "no reason given") if row and row[0] == "taint" else None

    def tainted_above(self, idents: Iterable[str]) -> dict[str, Tainted]:
        """For each of some artifacts that is tainted, itself or through what it was made from: by what."""
        rows = self.database.execute("SELECT DISTINCT subject FROM event WHERE event = 'taint'").fetchall()
        tainted = {subject: reason for (subject,) in rows if (reason := self.taint(subject))}
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

    # What is known

    def locations(self, ident: str) -> tuple[Location, ...]:
        """Where an artifact was left, the latest first."""
        rows = self.database.execute(_LOCATIONS.format(marks="?"), (ident,))
        return tuple(Location._make((*row[1:9], _object(row[9]))) for row in rows)

    def recent(self, type_: str | None, limit: int) -> tuple[str, ...]:
        """The artifacts recorded last, of one type or of all."""
        where = "WHERE location.type = ?" if type_ else ""
        rows = self.database.execute(
            f"SELECT ident FROM location JOIN artifact ON id = artifact {where} "
            "GROUP BY artifact ORDER BY max(at) DESC, ident LIMIT ?",
            (type_, limit) if type_ else (limit,),
        )
        return tuple(row[0] for row in rows)

    def finished(self, recipe: str) -> tuple[str, ...]:
        """Directories of runs of a recipe that ended well, the latest first."""
        rows = self.database.execute(
            "SELECT directory FROM run WHERE recipe = ? AND exit_code = 0 AND directory IS NOT NULL "
            "ORDER BY ended DESC, run_id",
            (recipe,),
        )
        return tuple(row[0] for row in rows)

    def artifacts(self, idents: Collection[str]) -> dict[str, ArtifactNode]:
        """What is known of some artifacts, in their order."""
        places: dict[str, list[Location]] = {}
        types: dict[str, str | None] = {}
        spoken_of: set[str] = set()
        for chunk in _chunks(list(idents)):
            marks = _marks(chunk)
            types |= dict(
                self.database.execute(f"SELECT ident, type FROM artifact WHERE ident IN ({marks})", chunk)
            )
            for row in self.database.execute(_LOCATIONS.format(marks=marks), chunk):
                places.setdefault(row[0], []).append(Location._make((*row[1:9], _object(row[9]))))
            rows = self.database.execute(
                f"SELECT DISTINCT subject FROM event WHERE subject IN ({marks})", chunk
            )
            spoken_of |= {row[0] for row in rows}
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
            for row in self.database.execute(_RUNS.format(marks=_marks(chunk)), chunk):
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

    def makers(self, idents: Iterable[str]) -> list[Edge]:
        """From the runs that made artifacts; what is known by its path only was made where it lies."""
        named = list(idents)
        found = self._edges(_MAKERS.format(column="ident"), named, "output")
        paths = [i.removeprefix("ref:") for i in named if i.startswith("ref:/")]
        for edge in self._edges(_MAKERS.format(column="path"), paths, "output"):
            found.append(replace(edge, artifact=f"ref:{edge.artifact}"))
        return found

    def takers(self, idents: Iterable[str]) -> list[Edge]:
        """To the runs that took artifacts."""
        return self._edges(_TAKERS, list(idents), "input")

    def inputs_of(self, run_ids: Collection[str]) -> list[Edge]:
        """Into runs."""
        return self._edges(_INPUTS, sorted(run_ids), "input")

    def left_by(self, run_ids: Collection[str]) -> list[Edge]:
        """Out of runs."""
        return self._edges(_LEFT, sorted(run_ids), "output")

    def _edges(self, query: str, values: Sequence[str], direction: str) -> list[Edge]:
        found: dict[Edge, None] = {}
        for chunk in _chunks(values):
            marked = query.replace("MARKS", _marks(chunk))
            for ident, run_id, port in self.database.execute(marked, chunk):
                found[Edge(ident, run_id, direction, port or "")] = None
        return list(found)


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
    if exit_code == 0:
        return "succeeded"
    return "interrupted" if reason == "interrupted" else "failed"
