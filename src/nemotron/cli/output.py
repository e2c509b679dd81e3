"""How results are printed: JSON, tables and the text of a step. Data goes to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemotron.catalog.step import Port, Step


def print_json(value: Any) -> None:
    """`value` as JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns. On a terminal the last column is cut to its width; elsewhere nothing is cut."""
    if not rows:
        print("none")
        return
    widths = [max(len(str(r[i])) for r in (head, *rows)) for i in range(len(head))]
    limit = None
    if sys.stdout.isatty():
        import shutil

        limit = shutil.get_terminal_size().columns
    for row in (head, *rows):
        line = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if limit is None or len(line) <= limit else line[: limit - 3] + "...")


def as_text(value: Any) -> str:
    """A value as it would be typed after `=`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def types_of(ports: Iterable[Port]) -> str:
    """The types of some ports, each once; alternatives joined by `|`."""
    return ", ".join(dict.fromkeys("|".join(p.type) for p in ports)) or "-"


def listed_step(step: Step) -> dict[str, Any]:
    """A step as `steps list --json` prints it."""
    return {
        "id": step.id,
        "name": step.name,
        "category": step.category,
        "description": step.description,
        "tags": list(step.tags),
        "root": step.root,
        "engines": list(step.engines),
        "consumes": [{"name": p.name, "type": list(p.type), "required": p.required} for p in step.consumes],
        "produces": [{"name": p.name, "type": list(p.type)} for p in step.produces],
    }


def step_text(step: Step) -> str:
    """All that is known of a step, for reading."""
    lines = [f"{step.id}: {step.name}", "", step.description.strip(), ""]
    lines += [f"root     {step.root} ({step.directory})", f"engines  {', '.join(step.engines) or 'none'}"]
    shape = step.run
    lines.append(f"runs     {shape.launch}, {shape.nodes} node(s), {shape.gpus_per_node} GPU(s) each")
    if shape.image:
        lines.append(f"image    {shape.image}")
    if step.tags:
        lines.append(f"tags     {', '.join(step.tags)}")
    lines += _section("takes", [_port_line(p) for p in step.consumes])
    lines += _section("makes", [_port_line(p) for p in step.produces])
    lines += _section("configs", [f"{name}  {path}" for name, path in step.configs.items()])
    parameters = []
    for each in step.parameters:
        default = "" if each.default is None else f" = {as_text(each.default)}"
        alias = f" (another name of {each.alias_of})" if each.alias_of else ""
        choices = f" [{', '.join(as_text(c) for c in each.choices)}]" if each.choices else ""
        parameters.append(f"{each.name}{default}{choices}{alias}\n      {each.description}")
    lines += _section("parameters", parameters)
    lines += _section("strategies", [f"when {s.when}\n      then {s.then}" for s in step.strategies])
    lines += _section("known errors", [f"{e.name}\n      {e.recovery}" for e in step.errors])
    lines += _section("models", [f"{m.name}: {m.description}" for m in step.models])
    lines += _section("reference", [f"{key}: {as_text(value)}" for key, value in step.reference.items()])
    lines += _section("warnings", [w.render() for w in step.warnings])
    lines += ["", f"try: nemotron steps run {step.id} -d"]
    return "\n".join(lines)


def _port_line(port: Port) -> str:
    kind = " or ".join(port.type)
    notes = [] if port.required else ["optional"]
    notes += [f"config key {port.config}"] if port.config else []
    notes += [f"on {', '.join(port.engines)}"] if port.engines else []
    notes += [f"the {port.select} checkpoint"] if port.select else []
    return (
        f"{port.name}: {kind}" + (f" ({', '.join(notes)})" if notes else "") + f"\n      {port.description}"
    )


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {e}" for e in entries)] if entries else []
