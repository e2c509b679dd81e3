"""`steps check`: what is wrong with a catalog that still loads."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.catalog.discover import Catalog
from nemotron.catalog.lint_configs import check_configs
from nemotron.catalog.lint_manifest import check_manifest
from nemotron.catalog.lint_types import check_conversions, check_graph
from nemotron.catalog.step import BrokenStep, Step
from nemotron.errors import CheckFailed
from nemotron.findings import Finding


def check_catalog(catalog: Catalog, step_id: str | None = None) -> tuple[Finding, ...]:
    """Everything wrong with the catalog, or with the one step of this id (`ROOT:ID` too).

    Broken manifests are findings as well. Raises NotFound if there is no such step.
    """
    if step_id is None:
        return tuple(_check_all(catalog))
    try:
        step = catalog.get(step_id)
    except CheckFailed:
        root, _, bare = step_id.rpartition(":")
        return tuple(
            _broken(broken) for broken in catalog.broken if broken.id == bare and root in ("", broken.root)
        )
    return tuple(_check_step(catalog, step))


def _check_all(catalog: Catalog) -> Iterator[Finding]:
    for broken in catalog.broken:
        yield _broken(broken)
    yield from _check_types(catalog)
    for step in (*catalog.steps, *catalog.shadowed):
        yield from _check_step(catalog, step)
    for step in catalog.shadowed:
        yield Finding(
            id="catalog.shadowed",
            severity="note",
            message=f"step {step.id} of root {step.root} is shadowed by an earlier root",
            where=str(step.path),
            valid=f"{step.root}:{step.id} reaches it",
        )


def _check_types(catalog: Catalog) -> Iterator[Finding]:
    checked: list[int] = []
    for root in catalog.roots:
        graph = catalog.graphs[root.name]
        if id(graph) in checked:  # a root without types of its own has ours
            continue
        checked.append(id(graph))
        yield from check_graph(graph)
        everywhere = (*catalog.steps, *catalog.shadowed)
        own = [step for step in everywhere if step.root == root.name]
        broken_ids = {broken.id for broken in catalog.broken}
        yield from check_conversions(graph, [*own, *catalog.steps], broken_ids)


def _check_step(catalog: Catalog, step: Step) -> Iterator[Finding]:
    has_types = all(broken.id != f"{step.root}:types.toml" for broken in catalog.broken)
    yield from check_manifest(step, catalog.types_of(step) if has_types else None)
    yield from check_configs(step)
    yield from step.warnings


def _broken(broken: BrokenStep) -> Finding:
    return Finding(
        id="catalog.broken", severity="error", message=f"{broken.id}: {broken.problem}", where=broken.where
    )
