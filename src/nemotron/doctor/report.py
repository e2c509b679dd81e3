"""What a look at a machine found, as it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# missing: not there, which is fine unless a profile needs it. broken: there, and of no use.
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Item:
    """One thing that was looked at. said: version, address or what is wrong. next: what to type."""

    name: str
    state: State
    said: str
    next: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"name": self.name, "state": self.state, "said": self.said, "next": self.next}


@dataclass(frozen=True)
class Group:
    """Things that belong together, such as all that an executor needs.

    title: what they are for. profiles: those in reach that ask for it.
    """

    title: str
    items: tuple[Item, ...]
    profiles: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The worst of them."""
        states = [item.state for item in self.items]
        return "broken" if "broken" in states else "missing" if "missing" in states else "ok"

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        items = [item.as_dict() for item in self.items]
        return {"name": self.title, "state": self.state, "profiles": list(self.profiles), "items": items}


@dataclass(frozen=True)
class Report:
    """All that was looked at. here: this machine; profiles: one item for each in reach.

    imported: whether packages were imported; else their versions are all that was read.
    """

    here: tuple[Item, ...]
    engines: tuple[Group, ...]
    executors: tuple[Group, ...]
    profiles: tuple[Item, ...]
    imported: bool = False

    @property
    def broken(self) -> tuple[str, ...]:
        """Profiles in reach that cannot be used as things are."""
        return tuple(each.name for each in self.profiles if each.state != "ok")

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "here": [each.as_dict() for each in self.here],
            "engines": [each.as_dict() for each in self.engines],
            "executors": [each.as_dict() for each in self.executors],
            "profiles": [each.as_dict() for each in self.profiles],
            "broken": list(self.broken),
            "imported": self.imported,
        }
