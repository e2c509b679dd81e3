"""The files that NeMo-Gym leaves beside a rollout file, named after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.data.stream.blocks import blocks_of
from nemotron.data.stream.jsontext import codec
from nemotron.data.stream.rows import Rejected, parse_row
from nemotron.data.stream.sources import Source, find_sources

_FAILURES = "_failures.jsonl"


@dataclass
class Sidecar:
    """The rollouts that failed: rows by class; terminal: those that were not tried again."""

    file: str
    classes: Counter[str] = field(default_factory=Counter)
    terminal: int = 0
    unreadable: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As `report.json` holds it."""
        return {
            "file": self.file,
            "classes": dict(self.classes.most_common()),
            "terminal": self.terminal,
            "unreadable": self.unreadable,
        }

    def render(self) -> str:
        """As the terminal shows it."""
        classes = ", ".join(f"{rows:,} {name}" for name, rows in self.classes.most_common(5)) or "none"
        return f"failed rollouts beside them: {classes} ({self.file})"


def sidecars_of(sources: Iterable[Source]) -> tuple[Sidecar, ...]:
    """The failures noted beside plain and packed rollout files; an input that is such a file is none."""
    listed = tuple(sources)
    inputs = {source.path.resolve() for source in listed}
    found = []
    for source in listed:
        stem = source.path.name.partition(".jsonl")[0]
        beside = source.path.with_name(stem + _FAILURES)
        if source.kind != "pipe" and beside.is_file() and beside.resolve() not in inputs:
            found.append(_read(beside.as_posix()))
    return tuple(found)


def _read(path: str) -> Sidecar:
    sidecar = Sidecar(printable(path))
    loads = codec()[0]
    for block in blocks_of(find_sources(path)):
        for text in block.lines():
            row = parse_row(text, loads)
            if isinstance(row, Rejected):
                sidecar.unreadable += 1
                continue
            sidecar.classes[str(row.get("_ng_failure_class"))[:80]] += 1
            sidecar.terminal += row.get("_ng_failure_terminal") is True
    return sidecar
