"""What follows `--`: overrides for the framework's own parser, checked before they cost an allocation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nemotron.engines.nemo_rl.override_grammar import Malformed, Override, parse_override
from nemotron.engines.nemo_rl.placing import DIRECTORIES, MUST_SAVE_BY
from nemotron.errors import nearest
from nemotron.findings import Finding

_RANKING = ("checkpointing.metric_name", "checkpointing.higher_is_better")
_ABSENT = object()
_WHERE = "after --"


def check_overrides(
    config: Mapping[str, Any], arguments: Sequence[str], planned: Sequence[str]
) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """The config as the script would have it, and what is wrong with the arguments.

    planned: dotted keys that the plan sets; an argument must not move them behind its back.
    """
    data, found = copy.deepcopy(dict(config)), []
    for text in arguments:
        problems = list(_problems(data, text, planned))
        found += problems
        if not problems:
            _apply(data, parse_override(text))
    return data, tuple(found)


def planned_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that the plan goes by: inputs, where outputs and logs go, when to save, which is the best."""
    inputs = [key for key in _keys(config, "") if str(_value_at(config, key)).startswith("in://")]
    return (*inputs, *DIRECTORIES, MUST_SAVE_BY, *_RANKING)


def _value_at(data: Any, key: str) -> Any:
    """The value at a dotted key, lists by index."""
    node = data
    for part in key.split("."):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return _ABSENT
    return node


def _problems(data: Mapping[str, Any], text: str, planned: Sequence[str]) -> Iterator[Finding]:
    if text.startswith("-"):
        yield _finding(
            f"NeMo-RL's script has no option {text!r}: it takes overrides",
            "KEY=VALUE, +KEY=VALUE, ++KEY=VALUE, ~KEY",
        )
        return
    try:
        override = parse_override(text)
    except Malformed as problem:
        yield _finding(
            f"NeMo-RL's script would not read {text!r}: {problem}",
            "KEY=VALUE, or 'KEY=\"VALUE\"' with quotes",
        )
        return
    taken = [key for key in planned if _touches(override.key, key)]
    if taken:
        yield Finding(
            "nemo_rl.override_of_plan",
            "error",
            f"{text!r} would change {taken[0]}, which the plan goes by: the record would not be true",
            where=_WHERE,
            valid=f"{taken[0]}=VALUE before `--`, or -i for an input",
            fix=f"move it before `--`: {taken[0]}=...",
        )
        return
    yield from _misplaced(data, override, text)


def _misplaced(data: Mapping[str, Any], override: Override, text: str) -> Iterator[Finding]:
    """An override whose key is not there, or is and should not be."""
    now = _value_at(data, override.key)
    outside = _outside_list(data, override.key)
    if outside is not None:
        yield _finding(f"{outside} is no item of that list ({text!r}): it would be refused")
    elif override.mode == "delete":
        if now is _ABSENT or now is None:
            yield _unknown(data, override.key, text, "there is nothing to delete")
        elif override.has_value and override.value != now:
            yield _finding(f"{text!r} deletes {override.key} only if it is {override.value!r}; it is {now!r}")
    elif override.mode == "add":
        plain = not isinstance(override.value, dict | list)
        if now is not _ABSENT and now is not None and plain:
            yield _finding(f"{override.key} is there: {text!r} would be refused", fix=text.removeprefix("+"))
    elif override.mode == "set":
        for key in _written(override.key, override.value, now):
            if _value_at(data, key) is _ABSENT:
                yield _unknown(data, key, text, "it would be refused", fix=f"+{text}")


def _outside_list(data: Any, key: str) -> str | None:
    """The beginning of the key that names an item which its list does not have."""
    node, walked = data, []
    for part in key.split("."):
        walked.append(part)
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return ".".join(walked)
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return None


def _written(key: str, value: Any, now: Any) -> Iterator[str]:
    """The keys that a value writes: a table is merged into a table, and replaces anything else."""
    if isinstance(value, Mapping) and isinstance(now, Mapping):
        for name, inner in value.items():
            yield from _written(f"{key}.{name}", inner, now.get(name))
    else:
        yield key


def _unknown(data: Mapping[str, Any], key: str, text: str, what: str, *, fix: str | None = None) -> Finding:
    close = nearest(key, list(_keys(data, "")))
    return _finding(
        f"{key} is not a key of this config ({text!r}): {what}", ", ".join(close) or None, fix=fix
    )


def _keys(node: Any, prefix: str) -> Iterator[str]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}"
        yield from _keys(value, f"{prefix}{name}.")


def _touches(key: str, planned: str) -> bool:
    return key == planned or planned.startswith(f"{key}.") or key.startswith(f"{planned}.")


def _apply(data: dict[str, Any], override: Override) -> None:
    *parents, last = override.key.split(".")
    node: Any = data
    for part in parents:
        if isinstance(node, list):
            node = node[int(part)]
            continue
        if not isinstance(node.get(part), dict | list):
            node[part] = {}
        node = node[part]
    place: Any = int(last) if isinstance(node, list) else last
    if override.mode == "delete":
        del node[place]
    elif isinstance(override.value, dict) and isinstance(node, dict) and isinstance(node.get(last), dict):
        _merge(node[last], override.value)
    else:
        node[place] = override.value


def _merge(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], inner)
        else:
            into[name] = inner


def _finding(message: str, valid: str | None = None, *, fix: str | None = None) -> Finding:
    return Finding("nemo_rl.override", "error", message, where=_WHERE, valid=valid, fix=fix)
