"""A plan that was saved: read back, and compared with what its inputs and its code are now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nemotron.artifacts.digest import digest_path, level_of
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.paths import printable
from nemotron.catalog.discover import Catalog
from nemotron.engines.base import find_engine
from nemotron.errors import CheckFailed, NemotronError, NotFound
from nemotron.findings import Finding
from nemotron.planning.compiled import code_digests, step_facts
from nemotron.planning.place import STUB, patched_code
from nemotron.planning.plan import Plan

CHANGED = "plan.changed"


def load_plan(path: Path) -> Plan:
    """The plan in a file. Raises NotFound, CheckFailed for a file that holds none."""
    again = "steps run ... -d -o FILE writes one"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise NotFound(f"there is no plan {printable(path)}", next=again) from problem
    except (OSError, ValueError) as problem:
        raise CheckFailed("this file holds no plan", where=printable(path), next=again) from problem
    if not isinstance(data, Mapping):
        raise CheckFailed("this file holds no plan", where=printable(path), next=again)
    return Plan.from_dict(data)


def refuse_changed(plan: Plan, catalog: Catalog, environ: Mapping[str, str]) -> None:
    """Raise CheckFailed when an input or the code is no longer what it was when the plan was made."""
    with DigestCache.for_user(environ) as cache:
        plans = [*(each for _, each in plan.builds), plan]
        found = [f for each in plans for f in (*_inputs(each, cache), *_code(each, catalog, environ))]
    if found:
        raise CheckFailed(
            "it is no longer what was planned",
            where=plan.recipe.step,
            next="make the plan anew: steps run ... -d -o FILE",
            findings=tuple(dict.fromkeys(found)),
        )


def _inputs(plan: Plan, cache: DigestCache) -> Iterator[Finding]:
    for each in plan.inputs:
        if (
            each.state != "pinned"
            or each.path is None
            or not str(each.digest).startswith(("blake3", "sampled"))
        ):
            continue
        path = Path(each.path)
        try:
            now = digest_path(path, cache=cache, level=level_of(str(each.digest))).value
        except NemotronError as problem:
            yield Finding(CHANGED, "error", f"input {each.port}: {problem.what}", printable(path))
            continue
        # A model of the hub is known by its commit, which its directory is named by.
        if now != each.digest and not str(each.reference).startswith("hf://"):
            yield Finding(CHANGED, "error", f"input {each.port} has changed since", printable(path))


def _code(plan: Plan, catalog: Catalog, environ: Mapping[str, str]) -> Iterator[Finding]:
    recipe = plan.recipe
    if recipe.engine == STUB:
        return
    step = catalog.get(recipe.step)
    engine = find_engine(recipe.engine)
    if plan.placement.backend == "local" and engine.version() != recipe.engine_version:
        said = f"{recipe.engine} was {recipe.engine_version} and is {engine.version()}"
        yield Finding(CHANGED, "error", said, recipe.step)
    facts = step_facts(step, plan.inputs)
    if plan.placement.backend != "local":
        facts = replace(facts, elsewhere=True)
    now = {**code_digests(step, engine, facts, environ), **patched_code(plan.placement.options)}
    for name in sorted({*now, *recipe.code}):
        if now.get(name) != recipe.code.get(name):
            yield Finding(CHANGED, "error", f"the code of {name} has changed since", recipe.step)
