"""`nemotron doctor`: what is installed, reachable and missing here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemotron.cli import output

if TYPE_CHECKING:
    from nemotron.doctor.report import Item, Report


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Import the optional packages too, for Python's own error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say what is installed, reachable and missing; exit 4 when a profile in reach cannot be used.

    Example: nemotron doctor --deep
    """
    from nemotron.doctor.examine import examine
    from nemotron.errors import CheckFailed

    report = examine(os.environ, Path.cwd(), deep=deep)
    if as_json:
        output.print_json(report.as_dict())
    else:
        print(_text(report))
        if not deep:
            print("no package was imported: --deep shows what Python says of each", file=sys.stderr)
        for name in report.broken:
            print(f"profile {output.plain(name)} cannot be used as things are", file=sys.stderr)
    return CheckFailed.exit_code if report.broken else 0


def _text(report: Report) -> str:
    lines = ["this machine", *_rows(report.here)]
    for title, groups in (("engines", report.engines), ("executors", report.executors)):
        lines += ["", title]
        for group in groups:
            asked = f"   profiles: {', '.join(map(output.plain, group.profiles))}" if group.profiles else ""
            lines += [f"  {group.title}: {group.state}{asked}", *("  " + row for row in _rows(group.items))]
    lines += ["", "profiles", *(_rows(report.profiles) or ["  none in reach"])]
    return "\n".join(lines)


def _rows(items: tuple[Item, ...]) -> list[str]:
    width = max((len(output.plain(item.name)) for item in items), default=0)
    rows = []
    for item in items:
        mark = "" if item.state == "ok" else f"{item.state}: "
        rows.append(f"  {output.plain(item.name).ljust(width)}  {mark}{output.plain(item.said)}")
        if item.next:
            rows.append(f"  {' ' * width}  next: {output.plain(item.next)}")
    return rows
