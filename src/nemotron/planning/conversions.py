"""Conversions that a plan puts between what there is and what an input takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nemotron.artifacts.references import Reference
from nemotron.catalog.discover import Catalog
from nemotron.catalog.routes import Hop, find_conversion
from nemotron.catalog.step import Port
from nemotron.catalog.types import TypeGraph
from nemotron.findings import Finding
from nemotron.planning.plan import PlannedInput


class Conversion(NamedTuple):
    """How what a reference means becomes what a port takes.

    source: the reference, with the output that is meant. have: its type.
    """

    source: Reference
    have: str
    hops: tuple[Hop, ...]

    def steps(self) -> list[tuple[Reference, Hop, str]]:
        """Each conversion as a step reference, with the text of the reference that is its input."""
        found = []
        text = str(self.source)
        for hop in self.hops:
            override = f"{hop.takes.config}={text}"
            reference = Reference("step", hop.step.id, port=hop.leaves.name, overrides=(override,))
            found.append((reference, hop, text))
            text = str(reference)
        return found

    def told(self, given: PlannedInput, engines: Sequence[str]) -> dict[str, Any]:
        """What a plan says of it: type, reference and bytes of what is converted, steps and engines.

        given: the input of the first. Bytes are those of weights where it is known how many they are.
        """
        path, bytes_ = given.path, given.facts.get("weight_bytes")
        if bytes_ is None and path is not None and Path(path).exists():
            bytes_ = bytes_at(Path(path))
        return {
            "from": self.have,
            "source": str(self.source),
            "by": [hop.step.id for hop in self.hops],
            "engines": list(engines),
            "bytes": bytes_,
        }


def conversion_of(
    catalog: Catalog,
    graph: TypeGraph,
    port: Port,
    reference: Reference,
    outputs: Mapping[str | None, Sequence[str]],
) -> Conversion | None:
    """The conversion of what a reference offers, none of which fits the port; None where none leads there.

    outputs: the types by the name of the output, None for a reference that means one thing. Of several that
    can be converted the one of the port's name is taken; where there is none of it, none is.
    """
    ways = {
        name: (types[0], hops)
        for name, types in outputs.items()
        if types and (hops := find_conversion(catalog, graph, types[0], port.type))
    }
    name = port.name if port.name in ways else next(iter(ways), None)
    if not ways or (len(ways) > 1 and name != port.name):
        return None
    have, hops = ways[name]
    return Conversion(replace(reference, port=name or reference.port), have, hops)


def offered_type(each: PlannedInput, reference: Reference) -> str | None:
    """What an input that was named by its place seems to be; None where it fits its port, or is unknown.

    A model of a hub is a Hugging Face model.
    """
    if reference.kind == "hf":
        return None if "checkpoint_hf" in each.types else "checkpoint_hf"
    if each.state != "missing" or each.path is None:
        return None
    from nemotron.artifacts.checks.guess import guess_type

    return guess_type(Path(each.path))


def wrong_type(each: PlannedInput, offered: str, graph: TypeGraph) -> tuple[Finding, ...]:
    """That an input seems to be of a type that its port does not take; none where the port takes it."""
    # What a model of a hub is shows when it is here; of a file the first row is too little to go by.
    if each.state != "missing" or any(graph.is_a(offered, want) for want in each.types):
        return ()
    if not Path(str(each.path)).is_dir():
        return ()
    what = f"input {each.port}: this seems to be {offered}, it takes {' or '.join(each.types)}"
    return (Finding("input.type", "error", what, each.path),)


def bytes_at(path: Path) -> int:
    """The size of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    places = (Path(here, name) for here, _, names in os.walk(path) for name in names)
    return sum(place.stat().st_size for place in places if place.is_file())
