"""Dotted keys: how `a.b.0.c` finds its place in plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]


def dotted(path: Path) -> str:
    """The path as it is written: `("a", 0)` is `a.0`."""
    return ".".join(map(str, path))


def locate(data: Any, key: str) -> Path | None:
    """The path of an existing value, or None.

    A list item is its index, from the end when negative. A key that itself holds a dot is found
    under its full name when no nested key has it.
    """
    return _locate(data, key.split("."))


def _locate(node: Any, parts: list[str]) -> Path | None:
    if not parts:
        return ()
    if isinstance(node, list):
        index = list_index(node, parts[0])
        rest = None if index is None else _locate(node[index], parts[1:])
        return None if index is None or rest is None else (index, *rest)
    if not isinstance(node, dict):
        return None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name in node:
            rest = _locate(node[name], parts[end:])
            if rest is not None:
                return (name, *rest)
    return None


def list_index(items: list[Any], part: str) -> int | None:
    """The position `part` names in `items`, or None when it is no number or out of range."""
    digits = part.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        return None
    index = int(part)
    index = index + len(items) if index < 0 else index
    return index if 0 <= index < len(items) else None


def value_at(data: Any, path: Path) -> Any:
    """The value at a path that exists."""
    for part in path:
        data = data[part]
    return data


def with_value(data: Any, path: Path, value: Any) -> Any:
    """`data` with `value` at `path`; the original and everything off the path is shared, not changed.

    Missing maps on the way are made; null on the way becomes a map; an index one past the end of a
    list appends.
    """
    if not path:
        return value
    part, rest = path[0], path[1:]
    if isinstance(data, list):
        assert isinstance(part, int)
        items = list(data)
        if part == len(items):
            items.append(None)
        items[part] = with_value(items[part], rest, value)
        return items
    assert data is None or isinstance(data, dict)
    entries = dict(data or {})
    entries[part] = with_value(entries.get(part), rest, value)
    return entries


def leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar and every empty container below `data`, with its dotted key, in order."""
    if isinstance(data, dict) and data:
        for name, inner in data.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(data, list) and data:
        for index, inner in enumerate(data):
            yield from leaves(inner, f"{prefix}.{index}" if prefix else str(index))
    elif prefix:
        yield prefix, data


def all_keys(data: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key below `data`, containers included, in order."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        entries = list(data.items())
    elif isinstance(data, list):
        entries = list(enumerate(data))
    for name, inner in entries:
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key
        yield from all_keys(inner, key)
