"""Whether what was recorded is still there, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nemotron.artifacts.digest import digest_path, level_of
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.index.queries import Index, Location
from nemotron.artifacts.index.schema import PENDING_IDENT
from nemotron.artifacts.records import stat_fingerprint
from nemotron.errors import NemotronError

# Read in half a minute from a good file system.
_LARGE = 8 << 30

State = Literal["intact", "changed", "missing", "unreadable", "unknown"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Verified:
    """One place of an artifact. state: `unknown` without a digest to compare. digest: what is there now."""

    ident: str
    path: str
    state: State
    digest: str | None = None
    problem: str | None = None


def verify_artifact(index: Index, ident: str, progress: Progress | None = None) -> list[Verified]:
    """Read every place of an artifact again, whatever the digest cache believes.

    A sampled digest is compared with a sampled one. Problems are states, nothing is raised.
    """
    return [_verified(ident, place, progress) for place in _places(index, ident)]


def place_state(place: Location) -> State:
    """The state of a place by sizes and times alone, no content read."""
    path = Path(place.path)
    if not path.exists():
        return "missing"
    if place.fingerprint is None:
        return "unknown"
    try:
        return "intact" if stat_fingerprint(path) == place.fingerprint else "changed"
    except NemotronError:
        return "unreadable"


def holds(place: Location, ident: str, environ: Mapping[str, str]) -> bool:
    """Whether a place still holds an artifact: by its content, by sizes and times alone where it is large."""
    path = Path(place.path)
    if ident.startswith(PENDING_IDENT) or (place.bytes or 0) >= _LARGE:
        return place_state(place) == "intact"
    try:
        with DigestCache.for_user(environ) as cache:
            return path.exists() and digest_path(path, cache=cache, level=level_of(ident)).value == ident
    except NemotronError:
        return False


def _places(index: Index, ident: str) -> list[Location]:
    found: dict[str, Location] = {}
    for place in index.locations(ident):
        found.setdefault(place.path, place)
    return list(found.values())


def _verified(ident: str, place: Location, progress: Progress | None) -> Verified:
    path = Path(place.path)
    if not path.exists():
        return Verified(ident, place.path, "missing")
    if ident.startswith(PENDING_IDENT):
        state = place_state(place)
        return Verified(ident, place.path, "unknown" if state == "intact" else state)
    try:
        digest = digest_path(path, level=level_of(ident), progress=progress).value
    except NemotronError as problem:
        return Verified(ident, place.path, "unreadable", problem=problem.what)
    return Verified(ident, place.path, "intact" if digest == ident else "changed", digest)
