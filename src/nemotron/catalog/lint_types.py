"""What is wrong with the edges of a type graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nemotron.catalog.step import Step
from nemotron.catalog.types import ArtifactType, TypeGraph
from nemotron.errors import nearest
from nemotron.findings import Finding

TYPE_KEYS = frozenset({"description", "is_a", "convert_to"})


def check_graph(graph: TypeGraph) -> Iterator[Finding]:
    """Unknown keys, edges to unknown names, and circles of `is_a`."""
    for item in graph:
        yield from _unknown_keys(item)
        yield from _unknown_names(item, graph)
    yield from _circles(graph)


def check_conversions(
    graph: TypeGraph, steps: Sequence[Step], broken_ids: Iterable[str]
) -> Iterator[Finding]:
    """Every `convert_to` names a step that takes the one type and leaves the other.

    steps: those an edge may name, the nearest meaning first. A broken one is reported elsewhere.
    """
    by_id = {step.id: step for step in reversed(steps)}
    for item in graph:
        conversions = item.table.table("convert_to")
        for target, step_id in item.convert_to.items():
            if step_id in broken_ids:
                continue
            step = by_id.get(step_id)
            if step is None:
                problem, close = f"names {step_id!r}, which is no step", nearest(step_id, by_id)
            elif not any(graph.is_a(item.name, want) for port in step.consumes for want in port.type):
                problem, close = f"names {step_id}, which does not consume {item.name}", ()
            elif not any(graph.is_a(have, target) for port in step.produces for have in port.type):
                problem, close = f"names {step_id}, which does not produce {target}", ()
            else:
                continue
            yield Finding(
                id="types.conversion",
                severity=graph.severity,
                message=f"type {item.name}: convert_to {target} {problem}",
                where=conversions.where(target),
                valid=", ".join(close) or None,
            )


def _unknown_keys(item: ArtifactType) -> Iterator[Finding]:
    for key in item.table.values:
        if key not in TYPE_KEYS:
            yield Finding(
                id="types.unknown_key",
                severity="error",
                message=f"type {item.name}: {key!r} is not a key of a type",
                where=item.table.where(key),
                valid=", ".join(nearest(key, sorted(TYPE_KEYS)) or sorted(TYPE_KEYS)),
            )


def _unknown_names(item: ArtifactType, graph: TypeGraph) -> Iterator[Finding]:
    for edge, targets in (("is_a", item.is_a), ("convert_to", item.convert_to)):
        for target in targets:
            if target not in graph:
                yield Finding(
                    id="types.unknown_name",
                    severity=graph.severity,
                    message=f"type {item.name}: {edge} names {target!r}, which is no type of this file",
                    where=item.table.where(edge),
                    valid=", ".join(nearest(target, graph.names)) or None,
                )


def _circles(graph: TypeGraph) -> Iterator[Finding]:
    reported: set[str] = set()
    for item in graph:
        if item.name in reported or item.name not in graph.supertypes(item.name):
            continue
        members = [n for n in graph.names if graph.is_a(item.name, n) and graph.is_a(n, item.name)]
        reported.update(members)
        yield Finding(
            id="types.circle",
            severity=graph.severity,
            message=f"is_a runs in a circle, so that each may stand in for the others: {', '.join(members)}",
            where=item.table.where("is_a"),
            valid="a more special type is_a a more general one, never back",
        )
