"""From one artifact type to another: over `is_a` for nothing, over `convert_to`, or over any steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nemotron.catalog.discover import Catalog
from nemotron.catalog.step import Port, Step
from nemotron.catalog.types import TypeGraph
from nemotron.errors import NemotronError


class Hop(NamedTuple):
    """One step on the way: `takes` gets an artifact of type `have`, `leaves` holds one of type `makes`.

    converts: whether planning puts it in by itself, as an edge of `convert_to`.
    """

    step: Step
    takes: Port
    leaves: Port
    have: str
    makes: str
    converts: bool


Onward = Callable[[str], Iterator[Hop]]


def find_conversion(
    catalog: Catalog, graph: TypeGraph, have: str, wanted: Sequence[str]
) -> tuple[Hop, ...] | None:
    """The fewest conversions from `have` to one of `wanted`; empty where it is one already, None without."""
    return _shortest(graph, have, wanted, lambda name: _conversions(catalog, graph, name))


def find_route(
    catalog: Catalog, graph: TypeGraph, have: str, wanted: Sequence[str]
) -> tuple[Hop, ...] | None:
    """As `find_conversion`, else the fewest steps of any kind, each given what the one before leaves."""
    found = find_conversion(catalog, graph, have, wanted)
    if found is not None:
        return found
    return _shortest(graph, have, wanted, lambda name: _steps(catalog, graph, name))


def _shortest(graph: TypeGraph, have: str, wanted: Sequence[str], onward: Onward) -> tuple[Hop, ...] | None:
    seen = {have}
    ahead: list[tuple[str, tuple[Hop, ...]]] = [(have, ())]
    for name, hops in ahead:  # grows while it is walked
        if any(graph.is_a(name, want) for want in wanted):
            return hops
        for hop in onward(name):
            if hop.makes not in seen:
                seen.add(hop.makes)
                ahead.append((hop.makes, (*hops, hop)))
    return None


def _conversions(catalog: Catalog, graph: TypeGraph, name: str) -> Iterator[Hop]:
    for each in (name, *sorted(graph.supertypes(name))):
        known = graph.get(each)
        for target, step_id in known.convert_to.items() if known else ():
            try:
                step = catalog.get(step_id)
            except NemotronError:
                continue  # `steps check` names it
            hop = _hop(graph, step, name, target)
            if hop is not None:
                yield hop


def _hop(graph: TypeGraph, step: Step, have: str, target: str) -> Hop | None:
    takes = next((p for p in step.consumes if p.config and _accepts(graph, have, p)), None)
    leaves = next((p for p in step.produces if graph.is_a(p.type[0], target)), None)
    if takes is None or leaves is None:
        return None
    return Hop(step, takes, leaves, have, leaves.type[0], converts=True)


def _steps(catalog: Catalog, graph: TypeGraph, name: str) -> Iterator[Hop]:
    for step in catalog.steps:
        accepting = [port for port in step.consumes if _accepts(graph, name, port)]
        if accepting:
            takes = next((port for port in accepting if port.required), accepting[0])
            for leaves in step.produces:
                yield Hop(step, takes, leaves, name, leaves.type[0], converts=False)


def _accepts(graph: TypeGraph, have: str, port: Port) -> bool:
    return any(graph.is_a(have, want) for want in port.type)
