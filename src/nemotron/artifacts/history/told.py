"""What one reader found out; several of them make a history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemotron.artifacts.history.model import Parent


@dataclass
class Told:
    """What one kind of file tells of an artifact; see `History` for the fields."""

    tool: str
    step_of_training: int | None = None
    parents: list[Parent] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    at: str | None = None

    def add(self, parent: Parent | None) -> None:
        """Take in a parent, if it is one that is not known yet."""
        if parent is not None and not any(
            (p.role, p.reference) == (parent.role, parent.reference) for p in self.parents
        ):
            self.parents.append(parent)
