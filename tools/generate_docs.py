"""Writes the parts of docs/ that the code knows best: commands, exit codes, types, keys.

    python tools/generate_docs.py            write them
    python tools/generate_docs.py --check    exit 1 and name the files that are out of date

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; the rest is written by
hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from nemotron import errors
from nemotron.catalog.discover import load_catalog
from nemotron.cli import app
from nemotron.engines.embedded.keys import TABLE
from nemotron.profiles.keys import EXECUTORS, KEYS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, in the order of `--help`."""
    root: Any = typer.main.get_command(app.build_app(""))
    for noun, group in root.commands.items():
        if not hasattr(group, "commands"):
            yield f"nemotron {noun}", group
            continue
        for verb, command in group.commands.items():
            yield f"nemotron {noun} {verb}", command


def command_sections() -> str:
    """A section for each command: what it does, an example, its arguments and options."""
    sections = []
    for name, command in commands():
        context = command.context_class(command, info_name=name)
        text, _, example = inspect.cleandoc(command.help).rpartition("\n\nExample: ")
        shown = [p.get_help_record(context) for p in command.params]
        rows = [(f"`{record[0]}`", record[1]) for record in shown if record is not None]
        sections.append(
            f"### {name}\n\n{text}\n\n    {example}\n\n" + table(("argument or option", "what it does"), rows)
        )
    return "\n\n".join(sections)


def exit_codes() -> str:
    """The exit codes, from the errors that carry them."""
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    mine = [kind for kind in kinds if issubclass(kind, errors.NemotronError) and kind.kind != "failed"]
    meanings = {0: "Done.", errors.WorkFailed.exit_code: inspect.getdoc(errors.WorkFailed)}
    meanings |= {kind.exit_code: inspect.getdoc(kind) for kind in mine}
    meanings[errors.EXIT_INTERRUPTED] = "Interrupted."
    meanings[app.EXIT_PIPE_CLOSED] = "Whoever read the output has gone (`| head`)."
    return table(("code", "meaning"), [(str(code), text or "") for code, text in sorted(meanings.items())])


def artifact_types() -> str:
    """Every type of our own catalog."""
    rows = [
        (f"`{item.name}`", item.description, ", ".join(f"`{name}`" for name in item.is_a))
        for item in load_catalog({}).types
    ]
    return table(("type", "what it is", "may stand in for"), rows)


def embedded_keys() -> str:
    """What the embedded engine makes of every key; neighbours with the same fate share a row."""
    rows: list[tuple[list[str], str, str]] = []
    for rule in TABLE:
        fate = (rule.effect.replace("_", " "), rule.note)
        if not rows or rows[-1][1:] != fate:
            rows.append(([], *fate))
        rows[-1][0].append(rule.pattern)
    return table(("keys", "effect", "note"), [(_together(keys), effect, note) for keys, effect, note in rows])


def executors() -> str:
    """Where steps can run."""
    rows = [
        (f"`{each.name}`", each.meaning, "yes" if each.launchable else "profiles are read and checked only")
        for each in EXECUTORS
    ]
    return table(("executor", "what it is", "launched on"), rows)


def profile_keys() -> str:
    """Every key of a profile, those of one executor together."""
    sections: dict[tuple[str, ...], list[tuple[str, str, str, str]]] = {}
    for key in KEYS:
        notes = "Required. " if key.required and not key.instead else ""
        notes = f"Required, or `{key.instead[0]}`. " if key.instead else notes
        unread = f" Not read: {key.unread}." if key.unread else ""
        row = (f"`{key.name}`", key.kind.name, f"{notes}{key.meaning}{unread}", f"`{key.example}`")
        sections.setdefault(key.executors, []).append(row)
    head = ("key", "value", "meaning", "example")
    return "\n\n".join(
        f"### {', '.join(names) or 'Every executor'}\n\n{table(head, rows)}"
        for names, rows in sections.items()
    )


def _together(keys: Sequence[str]) -> str:
    """`a.{b, c}` for keys of one section, a line for each section."""
    sections: dict[str, list[str]] = {}
    for key in keys:
        section, _, last = key.rpartition(".")
        sections.setdefault(section, []).append(last)
    shown = [
        f"{section}.{names[0]}" if len(names) == 1 else f"{section}.{{{', '.join(names)}}}"
        for section, names in sections.items()
    ]
    return "<br>".join(f"`{text}`" for text in shown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


GENERATED: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("cli.md", "commands", command_sections),
    ("cli.md", "exit codes", exit_codes),
    ("artifacts.md", "types", artifact_types),
    ("embedded.md", "keys", embedded_keys),
    ("profiles.md", "executors", executors),
    ("profiles.md", "profile keys", profile_keys),
)


def updated(text: str, name: str, content: str) -> str:
    """`text` with the generated part of this name replaced. Raises ValueError where it has none."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"no part between {begin} and {end}")
    return text[: found.start()] + f"{begin}\n\n{content}\n\n{end}" + text[found.end() :]


def main() -> int:
    """Write what is out of date, or name it."""
    stale = []
    for file in dict.fromkeys(file for file, _, _ in GENERATED):
        path = DOCS / file
        text = new = path.read_text(encoding="utf-8")
        for owner, name, content in GENERATED:
            if owner == file:
                new = updated(new, name, content())
        if new != text:
            stale.append(file)
            if "--check" not in sys.argv[1:]:
                path.write_text(new, encoding="utf-8")
    for file in stale:
        print(f"docs/{file}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
