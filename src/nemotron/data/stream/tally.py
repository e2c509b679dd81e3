"""How many rows there were, how many were left out and why, with the first examples of each reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .rows import Rejected

EXAMPLES = 3


class Example(NamedTuple):
    """One row that was left out: its file, its line (from 1), and what is wrong with it."""

    file: str
    line: int
    what: str


@dataclass
class Tally:
    """Counts of one output. Made per block, added up in order: the examples are the first of all.

    kept: rows written. left_out: rows by reason. notes: rows that were changed on the way, by what was done.
    """

    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def leave_out(self, rejected: Rejected, file: str, line: int) -> None:
        """Count a row that is left out."""
        self.left_out[rejected.reason] += 1
        known = self.examples.setdefault(rejected.reason, [])
        if len(known) < EXAMPLES:
            known.append(Example(file, line, rejected.what))

    def add(self, later: Tally) -> None:
        """Add the counts of a later block."""
        self.kept += later.kept
        self.left_out.update(later.left_out)
        self.notes.update(later.notes)
        for reason, examples in later.examples.items():
            known = self.examples.setdefault(reason, [])
            known += examples[: EXAMPLES - len(known)]

    @property
    def rows(self) -> int:
        """All rows that were looked at."""
        return self.kept + self.left_out.total()

    def as_dict(self) -> dict[str, Any]:
        """As a report holds it, the most frequent reason first."""
        return {
            "kept": self.kept,
            "left_out": {
                reason: {"rows": rows, "examples": [e._asdict() for e in self.examples.get(reason, ())]}
                for reason, rows in self.left_out.most_common()
            },
            "notes": dict(self.notes.most_common()),
        }

    def render(self, name: str) -> list[str]:
        """As the terminal shows it, one line a reason and one an example."""
        lines = [f"{name}: {self.kept:,} rows written, {self.left_out.total():,} left out"]
        for reason, rows in self.left_out.most_common():
            lines.append(f"  {rows:>9,}  {reason}")
            lines += [f"             {e.file}:{e.line}: {e.what}" for e in self.examples.get(reason, ())]
        lines += [f"  {rows:>9,}  (kept) {note}" for note, rows in self.notes.most_common()]
        return lines
