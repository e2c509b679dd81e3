"""What `steps path` says: the steps between two artifact types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemotron.catalog.discover import Catalog, load_catalog
from nemotron.catalog.routes import Hop, find_route
from nemotron.cli import output
from nemotron.errors import CheckFailed, NotFound, nearest


def show(have: str, want: str, *, as_json: bool) -> None:
    """Print the way from `have`, a type or the path of an artifact, to the type `want`.

    Raises NotFound for a type that no catalog has, and where no steps lead from the one to the other.
    """
    catalog = load_catalog()
    start = _type_of(catalog, have)
    goal = _known(catalog, want)
    hops = find_route(catalog, catalog.types, start, (goal,))
    if hops is None:
        raise NotFound(
            f"no steps lead from {start} to {goal}",
            valid=[step.id for step in catalog.producers_of(goal)],
            next=f"nemotron steps list --produces {goal}",
        )
    if as_json:
        output.print_json({"from": start, "to": goal, "route": [_as_dict(hop) for hop in hops]})
    else:
        print("\n".join(_lines(start, goal, hops)))


def _type_of(catalog: Catalog, text: str) -> str:
    if text in catalog.types or not text or not Path(text).exists():
        return _known(catalog, text)
    from nemotron.artifacts.checks.guess import guess_type

    guess = guess_type(Path(text))
    if guess is None:
        raise CheckFailed("its type cannot be told from what it holds", where=text, next="name the type")
    return guess


def _known(catalog: Catalog, name: str) -> str:
    if name not in catalog.types:
        names = catalog.types.names
        what = f"{name or 'nothing'} is no artifact type, and no path of an artifact"
        raise NotFound(what, nearest=nearest(name, names), valid=names)
    return name


def _as_dict(hop: Hop) -> dict[str, object]:
    return {
        "step": hop.step.id,
        "input": hop.takes.name,
        "output": hop.leaves.name,
        "type": hop.makes,
        "kind": "conversion" if hop.converts else "step",
        "also_needs": _others(hop),
    }


def _others(hop: Hop) -> list[str]:
    """Other inputs without which the step does not run."""
    ports = (port for port in hop.step.consumes if port.required and port.name != hop.takes.name)
    return list(dict.fromkeys(port.name for port in ports))


def _lines(start: str, goal: str, hops: Sequence[Hop]) -> list[str]:
    if not hops:
        return [start, f"{start} is {goal} already" if start == goal else f"  may stand in for {goal}"]
    lines = [start]
    for hop in hops:
        how = "conversion, put in by itself" if hop.converts else "step"
        needs = _others(hop)
        more = f"; also needs {', '.join(needs)}" if needs else ""
        lines += [f"  {hop.step.id} -i {hop.takes.name}=...  ({how}{more})", hop.makes]
    return lines
