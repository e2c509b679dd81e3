"""The artifacts of one store: the verbs of `nemotron artifacts`, for notebooks and services too."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.artifacts.digest import AUTO
from nemotron.artifacts.find import Found, find_artifact
from nemotron.artifacts.index.graph import LIMIT, lineage_of
from nemotron.artifacts.index.queries import Index, Location, Tainted
from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.lineage import ArtifactNode, Edge, Lineage
from nemotron.artifacts.references import parse_reference
from nemotron.artifacts.store import Store, find_store
from nemotron.errors import UsageError

if TYPE_CHECKING:
    from nemotron.artifacts.adopt import Added
    from nemotron.artifacts.verify import Verified

DEPTH = 6
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shown:
    """All that is known of one artifact. made_by, used_by: edges from and to runs."""

    node: ArtifactNode
    locations: tuple[Location, ...]
    made_by: tuple[Edge, ...]
    used_by: tuple[Edge, ...]
    tainted_above: Tainted | None


class Artifacts:
    """The artifacts that a store's records tell of.

    store: the one of the environment and working directory when not given. A `ref` is anything that
    `find_artifact` understands. progress: called with records read and to be read. warn: called with what
    stops nothing. Errors: NotFound, UsageError of `find_artifact`; see `os_error`.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.cwd = cwd or Path.cwd()
        self.store = store or find_store(self.environ, self.cwd)
        self._progress = progress
        self._warn = warn
        self._index: Index | None = None

    @property
    def index(self) -> Index:
        """The store's index, read up to what is recorded when it is first asked for."""
        if self._index is None:
            self._index = store_index(self.store, self.environ, self._progress)
            problems = self._index.problems()
            if self._index.stale and self._warn:
                self._warn(self._index.stale)
            if problems and self._warn:
                self._warn(f"{len(problems)} records cannot be read, the first is {problems[0]}")
        return self._index

    def find(self, ref: str, *, as_recorded: bool = False) -> Found:
        """What `ref` means; a path what is there now, or what was recorded there last."""
        return find_artifact(self.index, ref, cwd=self.cwd, environ=self.environ, as_recorded=as_recorded)

    def recent(self, *, type_: str | None = None, limit: int = 20) -> dict[str, ArtifactNode]:
        """The artifacts recorded last, the newest first."""
        return self.index.artifacts(self.index.recent(type_, limit))

    def makers(self, idents: Iterable[str]) -> dict[str, str]:
        """The run that made each of some artifacts, where one did."""
        return {e.artifact: e.run for e in self.index.makers(idents)}

    def show(self, ref: str) -> tuple[Shown, ...]:
        """What is known of the artifacts that `ref` means."""
        found = []
        for ident in self.find(ref, as_recorded=True).idents:
            found.append(
                Shown(
                    self.index.artifacts([ident])[ident],
                    self.index.locations(ident),
                    tuple(self.index.makers([ident])),
                    tuple(self.index.takers([ident])),
                    self.index.tainted_above([ident]).get(ident),
                )
            )
        return tuple(found)

    def lineage(
        self, ref: str, *, up: int = DEPTH, down: int = DEPTH, limit: int = LIMIT
    ) -> tuple[Lineage, ...]:
        """The graphs around the artifacts that `ref` means: `up` runs back and `down` runs on.

        Each ends where it has more than `limit` artifacts.
        """
        idents = self.find(ref, as_recorded=True).idents
        return tuple(lineage_of(self.index, ident, up=up, down=down, limit=limit) for ident in idents)

    def add(
        self,
        path: Path,
        *,
        type_: str | None = None,
        name: str | None = None,
        level: str = AUTO,
        waived: Collection[str] = (),
        progress: Progress | None = None,
    ) -> tuple[Added, int | None]:
        """Take in what was made before or elsewhere; returns it and its version of `name`.

        Errors: those of `adopt.add_artifact` and `naming.name_artifact`.
        """
        from nemotron.artifacts.adopt import add_artifact
        from nemotron.artifacts.naming import check_name

        if name is not None:
            check_name(name)
        place = parse_reference(f"./{path}" if "://" in str(path) else str(path), cwd=self.cwd).path
        added = add_artifact(
            self.store,
            self.index,
            place,
            self.environ,
            type_=type_,
            level=level,
            waived=waived,
            progress=progress,
        )
        self._index = None
        return added, self.name(added.digest, name, waived=waived) if name else None

    def name(self, ref: str, name: str, *, waived: Collection[str] = ()) -> int:
        """Make an artifact the next version of a name; returns the number.

        Raises CheckFailed for an artifact that is tainted, or made from one that is, unless waived.
        """
        from nemotron.artifacts.naming import TAINTED, name_artifact, refuse_tainted, spoken_of

        ident = self.find(ref).one()
        refuse_tainted(self.index, ident, ref, waived=TAINTED in waived)
        while True:
            with spoken_of(self.store, name):
                self._index = None
                number = name_artifact(self.store, self.index, ident, name)
            self._index = None
            # At a URL two clients may take one number; the earlier record has it, the other tries the next.
            if any(v.version == number and v.subject == ident for v in self.index.versions(name)):
                return number

    def alias(
        self, ref: str, name: str, alias: str, *, reason: str | None = None, waived: Collection[str] = ()
    ) -> int:
        """Promote an artifact: `alias` of `name` means it from now on; returns its version.

        Raises CheckFailed for an artifact that is tainted, or made from one that is, unless waived.
        """
        from nemotron.artifacts.naming import TAINTED, refuse_tainted, set_alias

        ident = self.find(ref).one()
        set_aside = refuse_tainted(self.index, ident, ref, waived=TAINTED in waived)
        number = self.name(ident, name, waived=waived)
        set_alias(self.store, self.index, name, alias, number, reason=reason, waived=set_aside)
        self._index = None
        return number

    def remove_alias(self, name: str, alias: str, *, reason: str | None = None) -> None:
        """Take an alias away; the versions stay."""
        from nemotron.artifacts.naming import set_alias

        set_alias(self.store, self.index, name, alias, None, reason=reason)
        self._index = None

    def taint(self, ref: str, reason: str) -> Lineage:
        """Say that an artifact must not be used; returns what descends from it."""
        from nemotron.artifacts.naming import taint_artifact

        ident = self.find(ref).one()
        taint_artifact(self.store, self.index, ident, reason)
        self._index = None
        return lineage_of(self.index, ident, up=0, down=1_000, limit=100_000)

    def lift_taint(self, ref: str, reason: str | None = None) -> str:
        """Take a taint back; returns the artifact."""
        from nemotron.artifacts.naming import lift_taint

        ident = self.find(ref).one()
        lift_taint(self.store, self.index, ident, reason)
        self._index = None
        return ident

    def verify(self, refs: Collection[str], progress: Progress | None = None) -> list[Verified]:
        """Read artifacts again and compare; without refs every artifact of the store."""
        from nemotron.artifacts.verify import verify_artifact

        if refs:
            idents = [ident for ref in refs for ident in self.find(ref, as_recorded=True).idents]
        else:
            idents = list(self.index.recent(None, -1))
        return [
            each for ident in dict.fromkeys(idents) for each in verify_artifact(self.index, ident, progress)
        ]


def split_label(text: str) -> tuple[str, str | None]:
    """`NAME:ALIAS` as its parts; the alias is None without a colon. `art://` before it is taken off."""
    name, colon, alias = text.removeprefix("art://").partition(":")
    if colon and not alias:
        raise UsageError("nothing after the colon", where=text, valid=("NAME", "NAME:ALIAS"))
    return name, alias or None
