"""YAML text as plain data, with the line of every key.

Built on the parser's events, not on its composer: the C composer recurses and ends the process on
a file of 100,000 opening brackets, and no constructor of ours ever runs a tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron.config.scalars import fraction, plain_scalar, whole_number
from nemotron.errors import NotFound, UsageError, nearest

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 50
# The largest training config seen has 2,000 values; aliases of aliases reach millions at once.
MAX_VALUES = 100_000

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = ("str", "int", "float", "bool", "null")
_MERGE = "<<"


@dataclass(slots=True)
class _Node:
    """One value of the file: a scalar, a list of nodes, or a list of entries."""

    line: int
    scalar: Any = None
    items: list[_Node] | None = None
    entries: list[tuple[str, int, _Node]] | None = None
    merged: list[_Node] = field(default_factory=list)


class _BadYaml(Exception):
    """What is wrong with the text, and on which line."""

    def __init__(self, what: str, line: int | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.fix = fix


def load_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML file whose top level is a map, as plain data.

    Returns the data and the line of every key, containers included; `a.b.0` is the first item of
    the list `a.b`. An empty file is an empty map.

    Raises
    ------
    NotFound: there is no such file.
    UsageError: not readable, not UTF-8, larger than 8 MB, not YAML, a tag, a key given twice, a key
        that is not text, or nested and aliased beyond any real config.
    """
    text = _read_text(path)
    try:
        return _Builder(text).top_level_map()
    except _BadYaml as bad:
        where = f"{path}:{bad.line}" if bad.line else str(path)
        raise UsageError(bad.what, where=where, next=bad.fix) from bad


def parse_value(text: str) -> Any:
    """The value of `text` as typed on a command line: one YAML scalar, `[...]` or `{...}`.

    Whatever is not exactly one of these (a template such as `{% if x %}`, `a: b`, `x # y`, an
    anchor, a tag) is the text itself.
    """
    stripped = text.strip()
    if stripped[:1] not in ("[", "{", '"', "'"):
        try:
            return plain_scalar(stripped)
        except ValueError:
            return stripped
    try:
        return _Builder(stripped).whole_value()
    except _BadYaml:
        return stripped


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UsageError(
                "the config is a directory, not a file", where=str(path), next="name a .yaml file in it"
            )
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(
            "there is no such config file",
            where=str(path),
            nearest=nearest(path.name, yaml_names(path.parent)),
        ) from error
    except (OSError, ValueError) as error:
        # ValueError: a name with a NUL byte in it.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the config file cannot be read: {reason}", where=str(path)) from error
    if len(raw) > MAX_BYTES:
        raise UsageError(
            "the config file is larger than 8 MB", where=str(path), next="keep data out of configs"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError("the config file is not UTF-8 text", where=f"{path}:{line}") from error


def is_file(path: Path) -> bool:
    """Whether there is a file; false as well for names the system cannot even look up."""
    try:
        return path.is_file()
    except OSError:
        return False


def yaml_names(directory: Path) -> tuple[str, ...]:
    """The names of the YAML files in a directory; none where it cannot be listed."""
    try:
        return tuple(sorted(entry.name for entry in directory.iterdir() if entry.suffix in (".yaml", ".yml")))
    except (OSError, ValueError):
        return ()


class _Builder:
    """Reads one document from the parser's events, then lays it out as data and lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.anchors: dict[str, _Node] = {}
        self.nodes = 0
        self.values = 0
        self.lines: dict[str, int] = {}
        self.flow_end = 0

    def top_level_map(self) -> tuple[dict[str, Any], dict[str, int]]:
        root = self._document()
        if root is None or (root.items is None and root.entries is None and root.scalar is None):
            return {}, {}
        if root.entries is None:
            kind = "a list" if root.items is not None else "a single value"
            raise _BadYaml(f"the top level of a config is a map of keys, this is {kind}", root.line)
        return self._plain(root, "", 0), self.lines

    def whole_value(self) -> Any:
        root = self._document()
        if root is None or self.flow_end != len(self.text):
            raise _BadYaml("more than one value")
        return self._plain(root, "", 0)

    def _document(self) -> _Node | None:
        import yaml

        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            root = None
            events = yaml.parse(self.text, Loader=loader)
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if root is not None:
                        raise _BadYaml("a config is one YAML document, this has several", _line(event))
                    first: Any = next(events)
                    self.flow_end = first.end_mark.index
                    root = self._node(first, events, 0)
            return root
        except yaml.YAMLError as error:
            raise _from_parser(error) from error

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> _Node:
        line = _line(event)
        self.nodes += 1
        if self.nodes > MAX_VALUES:
            raise _BadYaml(f"more than {MAX_VALUES} keys and values", line, "keep data out of configs")
        if depth > MAX_DEPTH:
            raise _BadYaml(f"nested deeper than {MAX_DEPTH} levels", line)
        kind = type(event).__name__
        if kind == "AliasEvent":
            if event.anchor not in self.anchors:
                raise _BadYaml(f"alias *{event.anchor} has no anchor &{event.anchor} before it", line)
            return self.anchors[event.anchor]
        if kind == "ScalarEvent":
            node = _Node(line, scalar=_scalar(event, line))
        else:
            node = self._collection(event, events, depth, line)
        if event.anchor:
            # After its content: an anchor that contains itself is then an unknown alias.
            self.anchors[event.anchor] = node
        return node

    def _collection(self, event: Any, events: Iterator[Any], depth: int, line: int) -> _Node:
        is_list = type(event).__name__ == "SequenceStartEvent"
        if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
            raise _tag_refused(event.tag, line)
        node = _Node(line)
        if is_list:
            node.items = []
        else:
            node.entries = []
        seen: dict[str, int] = {}
        for inner in events:
            if type(inner).__name__ in ("SequenceEndEvent", "MappingEndEvent"):
                self.flow_end = inner.end_mark.index if depth == 0 else self.flow_end
                break
            if node.items is not None:
                node.items.append(self._node(inner, events, depth + 1))
            else:
                self._entry(node, seen, inner, events, depth)
        return node

    def _entry(
        self, node: _Node, seen: dict[str, int], event: Any, events: Iterator[Any], depth: int
    ) -> None:
        line = _line(event)
        is_merge = _is_merge(event)
        key = _MERGE if is_merge else _key(self._node(event, events, depth + 1), line)
        if key in seen:
            raise _BadYaml(
                f"{key!r} is given twice, on lines {seen[key]} and {line}", line, "keep one of the two"
            )
        seen[key] = line
        value = self._node(next(events), events, depth + 1)
        if is_merge:
            node.merged = _merge_sources(value, line)
            return
        assert node.entries is not None
        node.entries.append((key, line, value))

    def _plain(self, node: _Node, at: str, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise _BadYaml(f"more than {MAX_VALUES} values once its aliases are expanded", node.line)
        if depth > MAX_DEPTH:
            raise _BadYaml(f"nested deeper than {MAX_DEPTH} levels once its aliases are expanded", node.line)
        prefix = f"{at}." if at else ""
        if node.items is not None:
            result = []
            for index, item in enumerate(node.items):
                self.lines[f"{prefix}{index}"] = item.line
                result.append(self._plain(item, f"{prefix}{index}", depth + 1))
            return result
        if node.entries is None:
            return node.scalar
        data = {}
        for key, line, value in self._entries(node, depth):
            self.lines[prefix + key] = line
            data[key] = self._plain(value, prefix + key, depth + 1)
        return data

    def _entries(self, node: _Node, depth: int) -> list[tuple[str, int, _Node]]:
        """The entries with `<<` applied: own keys win, then the first source that has the key."""
        assert node.entries is not None
        if not node.merged:
            return node.entries
        if depth > MAX_DEPTH:
            raise _BadYaml(f"nested deeper than {MAX_DEPTH} levels once its aliases are expanded", node.line)
        found: dict[str, tuple[str, int, _Node]] = {}
        for source in reversed(node.merged):
            for entry in self._entries(source, depth + 1):
                self.values += 1
                if self.values > MAX_VALUES:
                    raise _BadYaml(f"more than {MAX_VALUES} values once its aliases are expanded", node.line)
                found[entry[0]] = entry
        for entry in node.entries:
            found[entry[0]] = entry
        return list(found.values())


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: Any, line: int) -> Any:
    tag, text = event.tag, event.value
    if tag is None or tag == "!":
        try:
            return plain_scalar(text) if tag is None and event.implicit[0] else text
        except ValueError as error:
            raise _BadYaml(f"not a number: {text[:40]}", line, "quote it if it is text") from error
    name = tag.removeprefix(_TAG)
    if tag == name or name not in _SCALAR_TAGS:
        raise _tag_refused(tag, line)
    try:
        return _tagged_scalar(name, text)
    except ValueError as error:
        raise _BadYaml(f"{text[:40]!r} is not a value of the type !!{name}", line) from error


def _tagged_scalar(name: str, text: str) -> Any:
    if name == "str":
        return text
    if name == "int":
        return whole_number(text)
    if name == "float":
        return fraction(text)
    value = plain_scalar(text)
    if (value is None) != (name == "null") or (name == "bool" and not isinstance(value, bool)):
        raise ValueError(text)
    return value


def _tag_refused(tag: str, line: int) -> _BadYaml:
    shown = tag.replace(_TAG, "!!")
    return _BadYaml(
        f"the tag {shown} is refused: a config holds plain values only", line, "write the value itself"
    )


def _is_merge(event: Any) -> bool:
    return type(event).__name__ == "ScalarEvent" and bool(event.value == _MERGE and event.implicit[0])


def _merge_sources(node: _Node, line: int) -> list[_Node]:
    sources = [node] if node.items is None else node.items
    if any(source.entries is None for source in sources):
        raise _BadYaml("`<<` takes a map or a list of maps", line)
    return sources


def _key(node: _Node, line: int) -> str:
    if node.items is not None or node.entries is not None:
        raise _BadYaml(
            "a key is a word, this is a list or a map", line, "quote it if it is text, such as a template"
        )
    if not isinstance(node.scalar, str):
        shown = "null" if node.scalar is None else str(node.scalar).lower()
        kind = {"NoneType": "null", "bool": "a boolean"}.get(type(node.scalar).__name__, "a number")
        raise _BadYaml(f"a key must be text, {shown} is {kind}", line, "put it in quotes")
    if not node.scalar:
        raise _BadYaml("a key is empty", line)
    return node.scalar


def _from_parser(error: Any) -> _BadYaml:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return _BadYaml(f"not YAML: {problem}", mark.line + 1 if mark else None)
