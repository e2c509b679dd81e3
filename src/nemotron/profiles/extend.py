"""`extends`: a chain of profiles, and what they make together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.errors import NotFound, UsageError, nearest
from nemotron.profiles.files import RESERVED, Entry

MAX_CHAIN = 32

Path = tuple[str, ...]


def chain_of(name: str, entries: Mapping[str, tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """A profile and what it extends, itself first.

    Raises
    ------
    NotFound: there is no such profile, or none of the name that one of them extends.
    UsageError: a name stands in several files, the chain is a circle or very long, `extends` is no name.
    """
    chain: list[Entry] = [_the_only(name, entries, None)]
    while "extends" in chain[-1].table:
        at = chain[-1]
        parent = at.table["extends"]
        where = _where(at, "extends")
        if not isinstance(parent, str) or not parent or "${" in parent:
            raise UsageError("extends must be the name of one profile", where=where)
        names = [entry.name for entry in chain]
        if parent in names:
            raise UsageError(
                f"profiles extend each other in a circle: {_arrows([*names, parent])}", where=where
            )
        if len(chain) == MAX_CHAIN:
            raise UsageError(
                f"more than {MAX_CHAIN} profiles extend each other: {_arrows(names)}", where=where
            )
        chain.append(_the_only(parent, entries, chain))
    return tuple(chain)


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of both, merged deep; of anything else, lists included, the child's."""
    result = dict(parent)
    for key, value in child.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both and below is not None else value
    return result


def merged_chain(chain: tuple[Entry, ...]) -> dict[str, Any]:
    """What a profile and all it extends make together, without `extends`."""
    result: dict[str, Any] = {}
    for entry in reversed(chain):
        result = merged(result, entry.table)
    result.pop("extends", None)
    return result


def leaf_paths(table: Mapping[str, Any], before: Path = ()) -> Iterator[Path]:
    """The path of everything in a table that is no table itself, and of empty tables."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from leaf_paths(value, (*before, key))
        else:
            yield (*before, key)


def giver(path: Path, chain: tuple[Entry, ...]) -> Entry:
    """The profile of the chain that a value of the merged table comes from."""
    return next(entry for entry in chain if _has(entry.table, path))


def _has(table: Mapping[str, Any], path: Path) -> bool:
    node: Any = table
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _the_only(name: str, entries: Mapping[str, tuple[Entry, ...]], chain: list[Entry] | None) -> Entry:
    """The profile of a name; `chain`: those that led to it."""
    where = _where(chain[-1], "extends") if chain else None
    found = entries.get(name, ())
    if len(found) > 1:
        places = " and ".join(_where(entry) for entry in found)
        what = f"there are {len(found)} profiles {printable(name)}: {places}"
        raise UsageError(what, where=where, next="rename or remove all but one")
    if found:
        return found[0]
    led = f" ({_arrows([*(entry.name for entry in chain), name])})" if chain else ""
    if name in RESERVED:
        what = f"[{name}] holds settings and is no profile{led}"
        raise UsageError(what, where=where, valid=tuple(entries))
    what = f"no profile {printable(name)}{led}"
    raise NotFound(
        what, where=where, nearest=nearest(name, entries), valid=tuple(entries), next="nemotron profiles list"
    )


def _where(entry: Entry, *path: str) -> str:
    line = entry.line(*path)
    return printable(entry.source.path) + (f":{line}" if line else "")


def _arrows(names: list[str]) -> str:
    return " -> ".join(map(printable, names))
