"""How two runs differ, what decides most about a result first: what was asked for, then where it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nemotron.artifacts.records import PENDING
from nemotron.artifacts.runs import Run, digest_tail
from nemotron.planning.difference import Difference, described, recipe_differences

# Parts of a placement that are not told one by one: they follow from the recipe, or from the rest.
_FOLLOWS = ("argv", "sources", "ignored", "environment", "secrets", "options", "config", "root", "run_root")


def compare(old: Run, new: Run) -> tuple[Difference, ...]:
    """The differences of two runs: of their recipes as `recipe_differences` orders them, then of what they
    left, of resources and of the environment.

    Inputs are compared as their jobs found them: `old` and `new` of such a difference hold type, digest,
    reference and path. Environment holds no secret: those are not in a plan.
    """
    recipes = [_recipe(run) for run in (old, new)]
    found = list(recipe_differences(*recipes))
    found += _differences("outputs", *(_left(run) for run in (old, new)))
    places = [_object(run.plan.get("placement")) for run in (old, new)]
    found += _differences("resources", *(_resources(place) for place in places))
    found += _differences("environment", *(_object(place.get("environment")) for place in places))
    return tuple(found)


def compared_lines(differences: tuple[Difference, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The differences for reading: a title, and its lines, for each part that differs."""
    kinds = list(dict.fromkeys(each.kind for each in differences))
    sections = []
    for kind in kinds:
        own = [each for each in differences if each.kind == kind]
        if kind in ("inputs", "outputs"):
            lines = tuple(_input_line(each) for each in own)
        elif kind in ("resources", "environment"):
            lines = described([replace(each, kind="config") for each in own], {}, {})  # names as they are
        else:
            lines = described(own, {}, {})
        sections.append((kind.replace("_", " "), lines))
    return tuple(sections)


def _recipe(run: Run) -> dict[str, Any]:
    """The recipe, its inputs as the job found them."""
    recipe = dict(_object(run.plan.get("recipe")))
    bound = _object(run.record.get("inputs")) or _object(run.place.get("inputs"))
    recipe["inputs"] = {port: _bound(_object(given)) for port, given in bound.items()}
    return recipe


def _left(run: Run) -> dict[str, Any]:
    """What a run left, by port: type and content; where it lies is its own."""
    return {
        port: {"type": each.get("type"), "digest": each.get("digest"), "reference": None, "path": None}
        for port, each in run.outputs.items()
    }


def _bound(given: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: given.get(name) for name in ("type", "digest", "reference", "path")}
    if told["reference"]:
        told["path"] = None  # where the same reference led is the place's business
    if told["digest"] in (None, PENDING):
        told["digest"] = given.get("fingerprint")
    return told


def _resources(place: Mapping[str, Any]) -> dict[str, Any]:
    """What a placement asks of its scheduler, options beside the rest."""
    return {
        **{name: value for name, value in place.items() if name not in _FOLLOWS},
        **{f"options.{name}": value for name, value in _object(place.get("options")).items()},
        **{f"config.{name}": value for name, value in _object(place.get("config")).items()},
    }


def _differences(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            yield Difference(kind, (name,), "removed", old=old[name])
        elif name not in old:
            yield Difference(kind, (name,), "added", new=new[name])
        elif old[name] != new[name]:
            yield Difference(kind, (name,), "changed", old[name], new[name])


def _input_line(each: Difference) -> str:
    if not each.path:
        return "inputs: not recorded"
    if each.change != "changed":
        added = each.change == "added"
        return f"{each.key}: only in the {'second' if added else 'first'}, {_source(each.new or each.old)}"
    same = each.old.get("digest") == each.new.get("digest") and each.old.get("digest") is not None
    if same and each.old.get("type") == each.new.get("type"):
        return f"{each.key}: same content, {_source(each.old)} -> {_source(each.new)}"
    told = [f"{digest_tail(str(v.get('digest') or '')) or '?'} ({_source(v)})" for v in (each.old, each.new)]
    return f"{each.key}: other content, {' -> '.join(told)}"


def _source(given: Mapping[str, Any]) -> str:
    return str(given.get("reference") or given.get("path") or given.get("type"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
