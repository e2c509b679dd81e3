"""What makes two recipes two: the differing keys, what decides most about a result first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from nemotron.artifacts.paths import printable
from nemotron.artifacts.runs import digest_tail

Change = Literal["changed", "added", "removed"]
Path = tuple[str | int, ...]

# The parts of a recipe in the order in which they matter, and how far below each one differences are told.
_DEPTHS: Mapping[str, int] = MappingProxyType(
    {
        **{"step": 0, "engine": 0, "engine_version": 0, "inputs": 1, "config": 99},
        **{"outputs": 1, "code": 1, "image": 0, "arguments": 0},
    }
)
# Sections that say where and how often things are kept and shown: what is trained comes before.
_LATE_SECTIONS = ("checkpointing", "cluster", "logger")
_STATES = MappingProxyType({"to_build": "to be built:", "late": "to be fetched:", "missing": "missing:"})
_WIDTH, _BEFORE = 48, 16


@dataclass(frozen=True)
class Difference:
    """One thing in which two recipes differ.

    kind: the part of the recipe (`config`, `inputs`, ...). path: where in that part, empty for all of it.
    old, new: JSON values; None where `change` says that one recipe has none.
    """

    kind: str
    path: Path
    change: Change
    old: Any = None
    new: Any = None

    @property
    def key(self) -> str:
        """The path as it is typed: `grpo.kl` for a config key, the port of an input, a file of the code."""
        return ".".join(map(str, self.path))


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """How `new` differs from `old`, both recipes as a plan's JSON holds them; empty exactly for equal ones.

    1, 1.0 and "1" are three values, as they are to the recipe's digest. Ordered by what matters: step,
    engine and its version, inputs, config, outputs, code, image, arguments, then what a newer recipe adds.
    """
    found: list[Difference] = []
    for kind in (*_DEPTHS, *sorted({*old, *new} - set(_DEPTHS))):
        here = list(_member(kind, (), kind, old, new, _DEPTHS.get(kind, 0)))
        found += sorted(here, key=_is_late)  # stable: within each half the keys stay in their order
    return tuple(found)


def described(
    differences: Sequence[Difference], old_inputs: Mapping[str, str], new_inputs: Mapping[str, str]
) -> tuple[str, ...]:
    """A line for each difference (`grpo.kl: 0.1 -> 0.4`); files of code share one.

    old_inputs, new_inputs: where the content of each port came from, see `input_sources`.
    """
    lines = []
    files = [each.key for each in differences if each.kind == "code" and each.path]
    for each in differences:
        if each.kind == "inputs" and each.path:
            lines.append(_input_line(each, old_inputs.get(each.key), new_inputs.get(each.key)))
        elif each.kind == "config" and each.path:
            lines.append(f"{each.key}: {_values(each)}")
        elif each.kind != "code" or not each.path:
            name = f"{each.kind} {each.key}".rstrip().replace("_", " ")
            lines.append(f"{name}: {_values(each)}")
        elif each.key == files[0]:
            lines.append(f"code changed: {', '.join(files)}")
    return tuple(map(printable, lines))


def input_sources(plan: Mapping[str, Any]) -> dict[str, str]:
    """Where each input of a plan (as JSON) came from: the run that made it, else its path or what is due."""
    found = {}
    inputs = plan.get("inputs")
    for each in filter(_is_mapping, inputs if isinstance(inputs, list) else ()):
        state = each.get("state")
        if each.get("made_by"):
            source = f"run {each['made_by']}"
        elif state == "pinned":
            source = str(each.get("path"))
        else:
            source = f"{_STATES.get(str(state), state)} {each.get('reference') or ''}".rstrip()
        found[str(each.get("port"))] = source
    return found


def _member(
    kind: str, path: Path, name: str | int, old: Mapping[Any, Any], new: Mapping[Any, Any], depth: int
) -> Iterator[Difference]:
    """The differences in what two mappings have under one name."""
    if name not in old or name not in new:
        if name in old:
            yield Difference(kind, path, "removed", old=old[name])
        elif name in new:
            yield Difference(kind, path, "added", new=new[name])
    else:
        yield from _inside(kind, path, old[name], new[name], depth)


def _inside(kind: str, path: Path, old: Any, new: Any, depth: int) -> Iterator[Difference]:
    if depth and isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _member(kind, (*path, name), name, old, new, depth - 1)
    elif depth and isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _inside(kind, (*path, index), before, after, depth - 1)
    elif not _same(old, new):
        yield Difference(kind, path, "changed", old, new)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _same(old: Any, new: Any) -> bool:
    if type(old) is type(new) and isinstance(old, str | int | None):
        return bool(old == new)
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _is_late(each: Difference) -> bool:
    return each.kind == "config" and bool(each.path) and each.path[0] in _LATE_SECTIONS


def _input_line(each: Difference, old_source: str | None, new_source: str | None) -> str:
    sides = [(v if _is_mapping(v) else {}, s) for v, s in ((each.old, old_source), (each.new, new_source))]
    types = {str(value["type"]) for value, _ in sides if "type" in value}
    said = []
    for value, source in sides:
        words = [str(value["type"])] if len(types) > 1 and "type" in value else []
        if value.get("digest"):
            words += [digest_tail(str(value["digest"])), f"({source})" if source else ""]
        else:
            words.append(source or "nothing")
        said.append(" ".join(filter(None, words)))
    return f"input {each.key}: {' -> '.join(said)}"


def _values(each: Difference) -> str:
    """`old -> new`, long values cut to the part in which they differ."""
    before, after = (json.dumps(value, ensure_ascii=False) for value in (each.old, each.new))
    if each.change == "added":
        return f"not set -> {_cut(after, 0)}"
    if each.change == "removed":
        return f"{_cut(before, 0)} -> not set"
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    start = max(0, same - _BEFORE) if max(len(before), len(after)) > _WIDTH else 0
    return f"{_cut(before, start)} -> {_cut(after, start)}"


def _cut(text: str, start: int) -> str:
    end = start + _WIDTH
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
