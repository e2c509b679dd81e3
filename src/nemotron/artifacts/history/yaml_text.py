"""YAML of unknown origin as plain data: no tag is acted on, nothing recurses, aliases stay within bounds.

Laxer than the loader of our own configs: somebody else's file is taken as it is, and what it holds beyond
plain data is noted, not refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 60
# With aliases expanded. The largest training config seen has 2,000 values.
MAX_VALUES = 50_000

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]{1,30}\.[0-9]{0,30}|\.[0-9]{1,30}|[0-9]{1,30}(?=[eE]))(?:[eE][-+]?[0-9]{1,4})?"
)
_PLAIN_TAGS = frozenset(
    ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")))
)


class BadYaml(Exception):
    """Why a text is not taken; the message is one clause."""


@dataclass
class YamlText:
    """The value of one YAML document.

    tags: how many values carried a tag of their own, which was ignored. repeated: keys that a map held
    twice; the last one counts.
    """

    value: Any = None
    tags: int = 0
    repeated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Built:
    """A value with what it amounts to once its aliases are written out."""

    value: Any
    size: int
    height: int


def read_yaml(text: str) -> YamlText:
    """The first document of `text`. Raises BadYaml."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Reader()
    try:
        events = yaml.parse(text, Loader=loader)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                reader.found.value = reader.build(next(events), events, 0).value
                break
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadYaml(f"not YAML: {getattr(problem, 'problem', None) or 'unreadable'}{line}") from problem
    return reader.found


class _Reader:
    """Builds the value from the parser's events; an alias shares the value of its anchor."""

    def __init__(self) -> None:
        self.found = YamlText()
        self._anchors: dict[str, _Built] = {}
        self._values = 0

    def build(self, event: Any, events: Iterator[Any], depth: int) -> _Built:
        """The value that begins with `event`."""
        kind = type(event).__name__
        if depth > MAX_DEPTH:
            raise BadYaml(f"nested deeper than {MAX_DEPTH} levels")
        if kind == "AliasEvent":
            if event.anchor not in self._anchors:
                raise BadYaml(f"alias *{event.anchor[:40]} has no anchor before it")
            return self._anchors[event.anchor]
        self._values += 1
        if self._values > MAX_VALUES:
            raise BadYaml(f"more than {MAX_VALUES} values")
        if event.tag and event.tag not in _PLAIN_TAGS:
            self.found.tags += 1
        if kind == "ScalarEvent":
            plain = event.implicit[0] and not event.tag
            built = _Built(_scalar(event.value) if plain else event.value, 1, 0)
        elif kind == "SequenceStartEvent":
            built = self._list(events, depth)
        else:
            built = self._map(events, depth)
        if built.size > MAX_VALUES:
            raise BadYaml(f"more than {MAX_VALUES} values once its aliases are written out")
        if built.height > MAX_DEPTH:
            raise BadYaml(f"nested deeper than {MAX_DEPTH} levels once its aliases are written out")
        if event.anchor:
            self._anchors[event.anchor] = built
        return built

    def _list(self, events: Iterator[Any], depth: int) -> _Built:
        items: list[Any] = []
        size, height = 1, 0
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            item = self.build(event, events, depth + 1)
            items.append(item.value)
            size, height = size + item.size, max(height, item.height + 1)
            if size > MAX_VALUES:
                raise BadYaml(f"more than {MAX_VALUES} values once its aliases are written out")
        return _Built(items, size, height)

    def _map(self, events: Iterator[Any], depth: int) -> _Built:
        made: dict[str, Any] = {}
        size, height = 1, 0
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            key = _key(self.build(event, events, depth + 1).value)
            item = self.build(next(events), events, depth + 1)
            if key in made:
                self.found.repeated.append(key)
            made[key] = item.value
            size, height = size + item.size, max(height, item.height + 1)
            if size > MAX_VALUES:
                raise BadYaml(f"more than {MAX_VALUES} values once its aliases are written out")
        return _Built(made, size, height)


def _key(value: Any) -> str:
    if isinstance(value, dict | list):
        raise BadYaml("a key that is a list or a map")
    return value if isinstance(value, str) else str(value)


def _scalar(text: str) -> Any:
    """An unquoted word: null, a boolean, a decimal number or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
