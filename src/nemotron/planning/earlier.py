"""What earlier runs mean for a plan: one to reuse, one to resume, or the reason why it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.runs import Run, runs_of_recipe
from nemotron.artifacts.store import Store
from nemotron.planning.difference import Difference, described, input_sources, recipe_differences
from nemotron.planning.plan import Plan

# The newest runs of the step that are compared: the closest is among the last that a person tried.
_COMPARED = 20
_TOLD = 8
_WORDS = MappingProxyType(
    {
        "queued": "waits to begin",
        "running": "is going on",
        "succeeded": "has ended, and what it left is not recorded yet",
        "failed": "failed",
        "interrupted": "was cut off",
        "prepared": "has not begun",
        "unknown": "was handed to a scheduler that has not told what became of it",
    }
)


def find_earlier(plan: Plan, store: Store, environ: Mapping[str, str]) -> Plan:
    """The plan, told of a finished run of the same recipe, of one to resume, or of why it starts anew.

    A finished run counts while its outputs are what it left, wherever it is. A step without outputs that we
    know of has nothing to reuse: it runs again. Errors: see `os_error`.
    """
    plan = replace(plan, done_by=None, done_at=None, resumes=None, because=())
    digest = plan.recipe_digest
    if digest is None:
        return replace(plan, because=_closest_differences(plan, store))
    unfinished: Run | None = None
    spent: list[str] = []
    for run in runs_of_recipe(store, digest):
        if run.state() != "succeeded" or (plan.outputs and not run.is_settled):
            unfinished = unfinished or run
            continue
        changed = run.changed_outputs()
        if plan.outputs and run.outputs and not changed:
            return _done(plan, run)
        spent.append(_why_spent(run, changed))
    elsewhere = finished_elsewhere(store, digest, environ) if plan.outputs else None
    if elsewhere is not None:
        return _done(plan, Run(elsewhere))
    if unfinished is not None:
        why = f"run {unfinished.id} of the same recipe {_WORDS[unfinished.state()]}"
        return replace(plan, resumes=unfinished.id, because=(why,))
    return replace(plan, because=tuple(spent[:1]) or _closest_differences(plan, store))


def without_earlier(plan: Plan) -> Plan:
    """The plan of a run that starts anew whatever ran before."""
    return replace(plan, done_by=None, done_at=None, resumes=None, because=("--no-cache",))


def finished_elsewhere(store: Store, recipe_digest: str, environ: Mapping[str, str]) -> Path | None:
    """The directory of a finished run of a recipe, outputs intact, that is not below `store.runs_dir`.

    Its record tells of it: another store shares the directory of records, or the run's directory stands on
    another disk.
    """
    for directory in _recorded_elsewhere(store, recipe_digest, environ):
        run = Run(directory)
        if run.recipe_digest == recipe_digest and run.state() == "succeeded" and run.outputs_intact():
            return directory
    return None


def _recorded_elsewhere(store: Store, recipe_digest: str, environ: Mapping[str, str]) -> Iterator[Path]:
    if not store.records_dir.is_dir():
        return
    for text in store_index(store, environ).finished(recipe_digest):
        directory = Path(text)
        if directory.parent != store.runs_dir:
            yield directory


def _done(plan: Plan, run: Run) -> Plan:
    return replace(plan, done_by=run.id, done_at=str(run.directory))


def _why_spent(run: Run, changed: Sequence[str]) -> str:
    """Why a run of the same recipe that succeeded cannot be reused."""
    if not changed:
        return f"run {run.id} of the same recipe left nothing that could be reused"
    paths = [(port, Path(str(run.outputs[port].get("path")))) for port in changed]
    said = ", ".join(f"{port}: {'changed' if path.exists() else 'gone'}" for port, path in paths)
    return f"outputs of run {run.id} are no longer what it left ({said})"


def _closest_differences(plan: Plan, store: Store) -> tuple[str, ...]:
    """What is new against the most similar of the step's last runs, one of the same config name first."""
    recipe = _recipe_of(plan)
    closest: tuple[bool, int] | None = None
    old: dict[str, Any] = {}
    run_id, found = "", tuple[Difference, ...]()
    for directory in store.runs_of_step(plan.recipe.step, _COMPARED):
        earlier = Run(directory).plan
        theirs = earlier.get("recipe")
        if not isinstance(theirs, dict) or theirs.get("step") != plan.recipe.step:
            continue
        differences = recipe_differences(theirs, recipe)
        far = (earlier.get("config_name") != plan.config_name, len(differences))
        if differences and (closest is None or far < closest):
            closest, old, run_id, found = far, earlier, directory.name, differences
    if closest is None:
        return ("no earlier run of this step",)
    lines = described(found, input_sources(old), input_sources({"inputs": [asdict(i) for i in plan.inputs]}))
    more = (f"and {len(lines) - _TOLD} more",) if len(lines) > _TOLD else ()
    return (f"{lines[0]}, unlike run {run_id}", *lines[1:_TOLD], *more)


def _recipe_of(plan: Plan) -> dict[str, Any]:
    """The recipe as a plan's JSON holds it, and with inputs that are not pinned yet: their content is new."""
    recipe: dict[str, Any] = json.loads(json.dumps(asdict(plan.recipe)))
    for each in plan.inputs:
        recipe["inputs"].setdefault(each.port, {"type": each.type or each.types[0], "digest": ""})
    return recipe
