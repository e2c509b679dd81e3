"""A plan as a person reads it: everything that would happen, nothing cut off, no secret in it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.config.keys import leaves
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.words import shown_command


def render_plan(plan: Plan, *, verbose: bool = True) -> str:
    """The whole plan as text. `verbose=False` leaves out the resolved config and the notes."""
    lines = [f"{plan.recipe.step} with {plan.config_name} on {plan.recipe.engine}"]
    lines += [f"  {name:<9} {value}" for name, value in _facts(plan)]
    lines += ["", "inputs"]
    lines += [f"  {_input_line(i)}" for i in plan.inputs] or ["  none"]
    lines += ["", "outputs"]
    lines += [
        f"  {o.port}: {o.type} at {o.path}" + (f" ({o.select} checkpoint)" if o.select else "")
        for o in plan.outputs
    ]
    lines += ["", "what runs, in this order", *_order(plan), *_reasons(plan)]
    if verbose:
        lines += ["", "config (in://PORT and out://PORT stand for input and output paths)"]
        lines += [
            f"  {key} = {json.dumps(value, ensure_ascii=False)}" for key, value in leaves(plan.recipe.config)
        ]
        if plan.notes:
            lines += ["", f"without effect on {plan.recipe.engine}"]
            for why in dict.fromkeys(why for _, why in plan.notes):
                lines.append(f"  {why}:")
                lines += textwrap.wrap(
                    ", ".join(key for key, reason in plan.notes if reason == why),
                    width=110,
                    initial_indent="      ",
                    subsequent_indent="      ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
    if plan.late:
        lines += ["", "filled in by the job's machine", *(f"  {late}" for late in plan.late)]
    findings = [f for _, p in plan.builds for f in p.findings] + list(plan.findings)
    if findings or plan.engine_problem:
        lines += ["", "findings"]
        lines += [f"  {line}" for f in findings for line in f.render().splitlines()]
    if plan.engine_problem:
        lines.append(f"  warning: {plan.recipe.engine} cannot run here: {plan.engine_problem}")
    return "\n".join(lines)


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    place = plan.placement
    yield "config", plan.config_file
    yield "engine", f"{plan.recipe.engine} ({plan.recipe.engine_version})"
    if plan.recipe.image or place.image:
        yield "image", f"{place.image or plan.recipe.image}{_source(plan, 'image')}"
    yield "where", place.backend + (f", profile {place.profile}" if place.profile else "")
    if place.backend != "local":
        yield from _elsewhere(plan)
    yield "command", shown_command(place.argv)
    for name, value in sorted(place.environment.items()):
        yield "env", f"{name}={value}"
    when = "submitted" if place.backend != "local" else "run"
    for name in place.secrets:
        yield "env", f"{name} (secret, read when it is {when})"
    for key, value in sorted(place.config.items()):
        yield "sets", f"{key} = {json.dumps(value, ensure_ascii=False)} (the place decides it)"
    for what, why in place.ignored:
        yield "ignored", f"{what}: {why}"
    yield "recipe", plan.recipe_digest or "known once the inputs are there"


def _elsewhere(plan: Plan) -> Iterator[tuple[str, str]]:
    """What only a scheduler is told."""
    place = plan.placement
    yield "nodes", f"{place.nodes}{_source(plan, 'nodes')}"
    yield "GPUs", f"{place.gpus_per_node} a node{_source(plan, 'gpus_per_node')}"
    yield (
        "started",
        {"python": "once", "ray": "with Ray, on all nodes"}.get(place.launch, f"by {place.launch}"),
    )
    for name, value in sorted(place.options.items()):
        yield "option", f"{name} = {json.dumps(value, ensure_ascii=False)}"
    for mount in place.mounts:
        yield "mount", mount
    if place.save_before is not None:
        yield "saves", f"{place.save_before} s before an allocation ends"
    yield "chain", f"at most {place.chain} allocations" if place.chain > 1 else "one allocation"
    if place.run_root:
        yield "run in", place.run_root


def _source(plan: Plan, name: str) -> str:
    source = plan.placement.sources.get(name)
    return f"  ({source})" if source else ""


def _input_line(each: PlannedInput) -> str:
    kind = each.type or " or ".join(each.types)
    facts = ", ".join(
        f"{v:,} {k}" for k, v in each.facts.items() if k in ("rows", "parameters") and isinstance(v, int)
    )
    about = f"{kind}, {facts}" if facts else kind
    if each.state == "unbound":
        return f"{each.port}: UNBOUND ({kind}), config key {each.key}"
    if each.state == "missing":
        return f"{each.port}: MISSING or broken: {each.reference} ({kind})"
    if each.state == "late":
        return f"{each.port}: {each.reference} ({kind}), {_when(each)}"
    if each.converted:
        named, about = str(each.converted["source"]), f"{_conversion(each.converted)} to {about}"
    else:
        named = str(each.reference)
    if each.state == "to_build":
        return f"{each.port}: {named} ({about}), to be built"
    made = f", made by run {each.made_by}" if each.made_by else ""
    return f"{each.port}: {named} ({about}){made}\n      {each.path}\n      {each.digest}"


def _conversion(told: Mapping[str, Any]) -> str:
    size = "its size is known once it is built" if told["bytes"] is None else f"{told['bytes']:,} bytes"
    by = ", ".join(f"{step} on {engine}" for step, engine in zip(told["by"], told["engines"], strict=True))
    return f"{told['from']}, {size}, converted by {by}"


def _when(each: PlannedInput) -> str:
    """Who pins a late input."""
    if each.made_by:
        return f"when run {each.made_by} has ended"
    return "fetched at launch" if "://" in str(each.reference) else "not visible from here, the job looks"


def _reasons(plan: Plan) -> list[str]:
    """Why each of the plans runs; those of one reason together."""
    numbers: dict[tuple[str, ...], list[str]] = {}
    for number, (_, each) in enumerate([*plan.builds, ("", plan)], 1):
        if each.because:
            numbers.setdefault(each.because, []).append(str(number))
    lines = ["", "why"] if numbers else []
    for reasons, which in numbers.items():
        lines.append(f"  {', '.join(which)}. {reasons[0]}")
        lines += [f"     {reason}" for reason in reasons[1:]]
    return lines


def _order(plan: Plan) -> list[str]:
    reused = sorted({str(i.made_by) for i in plan.inputs if i.made_by})
    reused += [
        str(i.made_by) for _, p in plan.builds for i in p.inputs if i.made_by and i.made_by not in reused
    ]
    lines = [f"  reuse   {run}" for run in dict.fromkeys(reused)]
    steps = [*plan.builds, ("", plan)]
    for number, (key, each) in enumerate(steps, 1):
        if each.done_by:
            word, more = "reuse", f" as run {each.done_by}: nothing changed"
        elif each.resumes:
            word, more = "resume", f" run {each.resumes}"
        else:
            word, more = "run", ""
        lines.append(f"  {number}. {word:<6} {key or each.recipe.step}{more}")
    return lines
