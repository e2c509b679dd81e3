"""A composed config: plain data, and for every value where it came from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from nemotron.config.keys import Path, all_keys, dotted, leaves, list_index, locate, value_at, with_value
from nemotron.errors import UsageError, nearest

if TYPE_CHECKING:
    from nemotron.config.interpolation import Resolved

OriginKind = Literal["file", "override", "input", "engine"]


@dataclass(frozen=True)
class Origin:
    """One source that gave a key its value.

    kind: `file`, `override` (the command line), `input` (`-i PORT=REF`) or `engine`.
    path, line: of a file.
    text: what was written there: the value in a file, `key=value` or `PORT=REF` on the command line.
    layer: grows with every later source; of two keys the one with the larger layer was set later.
    """

    kind: OriginKind
    path: str | None = None
    line: int | None = None
    text: str = ""
    layer: int = 0

    @property
    def place(self) -> str:
        """The source as a message names it: `tiny.yaml:4`, `command line`, `-i policy`."""
        if self.kind == "file":
            return f"{self.path}:{self.line}" if self.line else str(self.path)
        if self.kind == "override":
            return "command line"
        if self.kind == "input":
            return f"-i {self.text.partition('=')[0]}"
        return "engine"


@dataclass(frozen=True)
class Config:
    """Plain dicts and lists, interpolations still text, with the history of every leaf.

    data: read-only; `set` and `without` return a new Config.
    history: dotted key of each scalar or empty container -> every source that set it, winner last.
    hidden: sections taken out by `without`; `${run.x}` can still refer to them.
    layers: how many sources there are so far.
    """

    data: dict[str, Any] = field(default_factory=dict)
    history: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)
    layers: int = 0

    def get(self, key: str) -> Any:
        """The value at a dotted key, a copy where it is a container. Raises KeyError."""
        path = locate(self.data, key)
        if path is None:
            raise KeyError(key)
        value = value_at(self.data, path)
        return copy.deepcopy(value) if isinstance(value, dict | list) else value

    def has(self, key: str) -> bool:
        """Whether the key exists; true for sections and lists as well, and for keys that are null."""
        return locate(self.data, key) is not None

    def keys(self) -> Iterator[str]:
        """The dotted keys of all scalars and empty containers; list items are `a.b.0`."""
        return (key for key, _ in leaves(self.data))

    def nearest(self, key: str) -> tuple[str, ...]:
        """The existing keys, sections included, most like `key`."""
        return nearest(key, all_keys(self.data))

    def origins(self, key: str) -> tuple[Origin, ...]:
        """Every source that set the key, the winner last.

        For a section or a list: every source that set anything in it that is still there, oldest
        first. Raises KeyError.
        """
        path = locate(self.data, key)
        if path is None:
            raise KeyError(key)
        name = dotted(path)
        if name in self.history:
            return self.history[name]
        inside = {
            o for leaf, _ in leaves(value_at(self.data, path), name) for o in self.history.get(leaf, ())
        }
        return tuple(sorted(inside, key=lambda o: o.layer))

    def place(self, key: str) -> str:
        """Where the winning value of a key was set, as a message names it; "" when unknown."""
        try:
            found = self.origins(key)
        except KeyError:
            return ""
        return found[-1].place if found else ""

    def set(self, key: str, value: Any, origin: Origin) -> Config:
        """A config in which `key` holds `value`; the key and the sections above it are made if missing.

        The layer of `origin` is set here. A list takes an index it has, or its length to append.

        Raises
        ------
        UsageError: the key is malformed, leads through a scalar, or its index is out of range.
        """
        path = self.path_for(key)
        name = dotted(path)
        data = with_value(self.data, path, copy.deepcopy(value))
        layer = self.layers + 1
        source = replace(origin, layer=layer)
        below = name + "."
        old = self.history
        kept = {
            k: v
            for k, v in old.items()
            if k != name and not k.startswith(below) and not name.startswith(k + ".")
        }
        fresh = {leaf: (*old.get(leaf, ()), source) for leaf, _ in leaves(value, name)}
        return replace(self, data=data, history=kept | fresh, layers=layer)

    def without(self, *sections: str) -> Config:
        """A config without these top-level sections; a section it does not have is no error.

        They are no longer part of the data, but `${run.env.nodes}` elsewhere still finds them.
        """
        data = {name: value for name, value in self.data.items() if name not in sections}
        dropped = {name: value for name, value in self.data.items() if name in sections}
        return replace(self, data=data, hidden={**self.hidden, **dropped})

    def resolve(self, environ: Mapping[str, str], *, keep: tuple[str, ...] = ()) -> Resolved:
        """The config with every interpolation replaced by its value.

        keep: resolvers that only the job's machine can answer, such as `art`; their expressions
        stay as they are and are listed in `late`. Secrets always stay.

        Raises
        ------
        UsageError: one error for everything that cannot be resolved, each with its file and line.
        """
        from nemotron.config.interpolation import resolve_config

        return resolve_config(self, environ, keep)

    def path_for(self, key: str) -> Path:
        """The path a key names, whether it exists already or would be new.

        Raises UsageError as `set` does.
        """
        found = locate(self.data, key)
        if found is not None:
            return found
        parts = split_key(key)
        node: Any = self.data
        path: list[str | int] = []
        for position, part in enumerate(parts):
            step = self._step(node, part, path, key)
            path.append(step)
            if isinstance(node, list) and step == len(node):
                node = None
            else:
                node = node.get(step) if isinstance(node, dict) else node[step]
            if node is None:
                return (*path, *_new_parts(parts[position + 1 :], key))
        return tuple(path)

    def _step(self, node: Any, part: str, path: list[str | int], key: str) -> str | int:
        at = dotted(tuple(path))
        if isinstance(node, dict):
            return part
        if isinstance(node, list):
            index = len(node) if part == str(len(node)) else list_index(node, part)
            if index is None:
                raise UsageError(
                    f"{key}: {at} is a list of {len(node)}, {part!r} is not one of its positions",
                    where=self.place(at),
                    valid=list_positions(len(node)),
                )
            return index
        is_reference = isinstance(node, str) and "${" in node
        raise UsageError(
            f"{key} leads nowhere: {at} is {describe(node)}, which has no keys",
            where=self.place(at),
            next=f"set all of {at}, or the key it refers to" if is_reference else None,
        )


def split_key(key: str) -> list[str]:
    """The parts of a dotted key. Raises UsageError for an empty part, a space or a bracket."""
    parts = key.split(".")
    if "" in parts:
        raise UsageError(f"{key!r} is not a key: a part of it is empty", next="write section.key=value")
    if any(c.isspace() or not c.isprintable() for c in key):
        raise UsageError(
            f"{key!r} is not a key: it holds a space", next="quote the whole argument after the `=` only"
        )
    if "[" in key or "]" in key:
        plain = key.replace("[", ".").replace("]", "")
        raise UsageError(f"{key!r} is not a key: list items are written with dots", next=f"write {plain}")
    return parts


def _new_parts(parts: list[str], key: str) -> list[str]:
    for part in parts:
        if part.removeprefix("-").isdigit():
            raise UsageError(
                f"{key}: there is no list that could have an item {part}",
                next=f"set the whole list: +{key.rpartition('.' + part)[0]}=[...]",
            )
    return parts


def list_positions(length: int) -> tuple[str, ...]:
    """The indices a list of this length takes, in words."""
    if not length:
        return ("0 (appends: the list is empty)",)
    return (f"0 to {length - 1}", f"-{length} to -1", f"{length} (appends)")


def describe(value: Any) -> str:
    """What kind of value this is, for a message: `a list`, `the number 8`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int | float):
        return f"the number {value}"
    return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}..."
