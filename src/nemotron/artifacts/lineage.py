"""Lineage: what made an artifact, from what, and who used it since, as a graph of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ArtifactNode:
    """One content, wherever and however often it lies about.

    id: its digest; `record:ID` while the digest is pending, `ref:REFERENCE` for what is known by name only.
    type, at (ISO time it was first recorded), bytes: None where nothing was recorded.
    paths: where it was left, the latest first. names: `NAME:vN` and `NAME:ALIAS` that mean it.
    tainted: why it must not be used, None when nothing is known against it itself.
    facts: what the check of its type told (small).
    """

    id: str
    type: str | None = None
    at: str | None = None
    bytes: int | None = None
    paths: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    tainted: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunNode:
    """One run; `elsewhere:ARTIFACT` for the making of an artifact that tells of it itself.

    state: `succeeded`, `failed`, `interrupted`, `running` (no record of an end) or `elsewhere`.
    started, ended: ISO times. metrics: the last value of each metric.
    """

    id: str
    step: str | None = None
    engine: str | None = None
    state: str = "running"
    started: str | None = None
    ended: str | None = None
    user: str | None = None
    host: str | None = None
    directory: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """An artifact went into a run (`input`) or came out of it (`output`) at a port."""

    artifact: str
    run: str
    direction: str
    port: str


@dataclass(frozen=True)
class Lineage:
    """What surrounds one artifact.

    focus: its id. artifacts, runs: by id. edges: in the direction of the data, from the oldest on.
    cut: ids of artifacts at which something was left out. limited: whether that is so because there were too
    many artifacts, not because of the depth that was asked for.
    """

    focus: str
    artifacts: Mapping[str, ArtifactNode]
    runs: Mapping[str, RunNode]
    edges: tuple[Edge, ...]
    cut: tuple[str, ...] = ()
    limited: bool = False

    def made_by(self, artifact: str) -> tuple[Edge, ...]:
        """The edges from the runs that made an artifact."""
        return tuple(e for e in self.edges if e.direction == "output" and e.artifact == artifact)

    def used_by(self, artifact: str) -> tuple[Edge, ...]:
        """The edges to the runs that took an artifact."""
        return tuple(e for e in self.edges if e.direction == "input" and e.artifact == artifact)

    def inputs_of(self, run: str) -> tuple[Edge, ...]:
        """The edges into a run."""
        return tuple(e for e in self.edges if e.direction == "input" and e.run == run)

    def outputs_of(self, run: str) -> tuple[Edge, ...]:
        """The edges out of a run."""
        return tuple(e for e in self.edges if e.direction == "output" and e.run == run)

    def as_dict(self) -> dict[str, Any]:
        """The graph as `--json` prints it."""
        return {
            "focus": self.focus,
            "artifacts": [dict(vars(a)) for a in self.artifacts.values()],
            "runs": [dict(vars(r)) for r in self.runs.values()],
            "edges": [dict(vars(e)) for e in self.edges],
            "cut": list(self.cut),
            "limited": self.limited,
        }
