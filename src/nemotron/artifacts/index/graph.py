"""The graph around one artifact, read from the index layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemotron.artifacts.index.queries import Index
from nemotron.artifacts.lineage import Edge, Lineage, RunNode

LIMIT = 300


def lineage_of(index: Index, ident: str, *, up: int, down: int, limit: int = LIMIT) -> Lineage:
    """The graph around an artifact: `up` runs back, `down` runs on, at most about `limit` artifacts.

    A breadth-first walk: every artifact is reached by its shortest way, and circles end it.
    """
    edges: dict[Edge, None] = {}
    artifacts: dict[str, None] = {ident: None}
    cut: dict[str, None] = {}
    limited = False
    for upwards, depth in ((True, up), (False, down)):
        layer, seen = [ident], {ident}
        for _ in range(depth):
            room = limit - len(artifacts)
            near, far = _step(index, layer, upwards, max(room, 1))
            edges |= dict.fromkeys([*near, *far])
            if len(near) + len(far) > room:
                limited = True
                cut |= dict.fromkeys(layer)
            layer = list(dict.fromkeys(e.artifact for e in far if e.artifact not in seen))
            seen |= set(layer)
            artifacts |= dict.fromkeys(layer)
            if not layer or limited:
                break
        if layer and depth:
            beyond = index.makers(layer) if upwards else index.takers(layer, limit)
            cut |= dict.fromkeys(e.artifact for e in beyond if e not in edges)
    artifacts |= dict.fromkeys(e.artifact for e in edges)
    runs = index.runs({e.run for e in edges})
    return Lineage(
        focus=ident,
        artifacts=index.artifacts(artifacts),
        runs=runs,
        edges=tuple(sorted(edges, key=lambda e: _when(runs, e))),
        cut=tuple(cut),
        limited=limited,
    )


def _step(index: Index, layer: Sequence[str], upwards: bool, room: int) -> tuple[list[Edge], list[Edge]]:
    """The edges between a layer and its runs, and those on the far side, about `room` of each at most."""
    near = index.makers(layer, room + 1) if upwards else index.takers(layer, room + 1)
    runs = {e.run for e in near}
    return near, index.inputs_of(runs, room + 1) if upwards else index.left_by(runs, room + 1)


def _when(runs: Mapping[str, RunNode], edge: Edge) -> tuple[str, str, str, str, str]:
    run = runs[edge.run]
    return (run.started or run.ended or "", edge.run, edge.direction, edge.port, edge.artifact)
