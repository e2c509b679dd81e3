"""How results are printed: JSON, tables and the text of a step. Data goes to stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    rows = [[plain(str(cell)) for cell in row] for row in rows]
    widths = [max(len(str(r[i])) for r in (head, *rows)) for i in range(len(head))]
    limit = None
    if sys.stdout.isatty():
        import shutil

        limit = shutil.get_terminal_size().columns
    for row in (head, *rows):
        line = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if limit is None or len(line) <= limit else line[: limit - 3] + "...")


def plain(text: str) -> str:
    """Text of a record or a path, safe to print on a terminal."""
    from nemotron.artifacts.paths import printable

    return printable(text)


def short(ident: str) -> str:
    """An artifact's id as lists show it: enough of the digest to find it again."""
    algorithm, colon, rest = ident.partition(":")
    return f"{rest[:12]}" if algorithm in ("blake3", "sampled") and colon else plain(ident)


def size(count: int | None) -> str:
    """A number of bytes, in the unit that leaves one to four digits."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def fact(value: Any) -> str:
    """A fact of a check on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(str(k))} {fact(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(fact(v) for v in value) or "-"
    return plain(value) if isinstance(value, str) else json.dumps(value)


def terminal() -> tuple[int, bool]:
    """Columns of the terminal that stdout is, and whether it takes colours; 0 and no where it is none."""
    if not sys.stdout.isatty():
        return 0, False
    import shutil

    dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return shutil.get_terminal_size().columns, not dumb


def warn(text: str) -> None:
    """Something a person should know that stops nothing, on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def counter(what: str) -> Callable[[int, int], None]:
    """A progress callback that tells on stderr how many of how many, once it takes longer than a moment."""
    return _progress(lambda done, total: f"{done} of {total} {what}")


def byte_progress(what: str) -> Callable[[int, int], None]:
    """A progress callback for bytes: as `counter`."""
    return _progress(lambda done, total: f"{what}: {size(done)} of {size(total)}")


def _progress(tell: Callable[[int, int], str]) -> Callable[[int, int], None]:
    terminal_ = sys.stderr.isatty()
    begun = last = time.monotonic()
    told = False

    def progress(done: int, total: int) -> None:
        nonlocal last, told
        now = time.monotonic()
        ended = done >= total
        if (
            total == 0
            or now - begun < 1
            or not ((ended and told) or now - last >= (0.2 if terminal_ else 5.0))
        ):
            return
        last, told = now, True
        text = tell(done, total)
        print(
            f"\r\033[K{text}" if terminal_ else text,
            end="" if terminal_ and not ended else "\n",
            file=sys.stderr,
        )

    return progress


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
