"""Tool definitions and calls: each by itself, and against those of the rows before it."""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .bounds import HARMLESS, too_costly
from .files import blanks_end, unparsed
from .report import Problem, clipped, kind, missing, shown, wrong_type

# What is remembered of a file, whatever it holds.
_MAX_NAMES = 20_000
_MAX_PATHS = 20_000
_MAX_NAME = 1000
_MAX_DEPTH = 24
_SHOWN = 3
_NAMES = 10
_PATH = 120
_JSON = json.JSONDecoder()


class Call(NamedTuple):
    """A call of a tool, wherever a row has it."""

    where: str
    name: object
    arguments: object


class _First(NamedTuple):
    """What a file said first, and in which line."""

    value: object
    line: int


class _Undeclared(NamedTuple):
    """Calls without a definition: the first, and how many there were so far."""

    first: Problem
    line: int
    calls: int
    rows: int
    last_line: int


class ToolWatch:
    """The tools and calls of one file, a row at a time.

    `datasets` gives a column one type: where rows disagree, it fails, or fills the gaps of every row with
    the keys of the others. line: that of the row, set by whoever reads the file.
    """

    def __init__(self, *, compare: bool = True) -> None:
        """compare: tell where rows disagree; else each is looked at by itself."""
        self.line = 0
        self._compare = compare
        self._style: _First | None = None
        self._schemas: dict[str, _First] = {}
        self._kinds: dict[str, _First] = {}
        self._known: dict[int, tuple[tuple[Problem, ...], str | None]] = {}
        self._undeclared: _Undeclared | None = None

    def problems(
        self, tools: object, calls: Sequence[Call], where: str, *, severity: str = "error"
    ) -> Iterator[Problem]:
        """What is wrong with the tools that a row declares at `where`, and with its calls.

        severity: of arguments that cannot be read, which a model may have generated.
        """
        declared: set[str] = set()
        if isinstance(tools, list):
            yield from self._definitions(tools, where, declared)
        elif tools is not None:
            yield wrong_type(where, "a list of tool definitions", tools)
            return
        for call in calls:
            if self._compare and isinstance(call.name, str) and call.name not in declared:
                self._count_undeclared(call, declared)
            yield from self._arguments(call, severity)

    def _count_undeclared(self, call: Call, declared: set[str]) -> None:
        first = self._undeclared
        if first is None:
            self._undeclared = _Undeclared(_undeclared(call, declared), self.line, 1, 1, self.line)
        else:
            rows = first.rows + (self.line != first.last_line)
            self._undeclared = first._replace(calls=first.calls + 1, rows=rows, last_line=self.line)

    def undeclared(self) -> tuple[Problem, int] | None:
        """What the whole file says of calls without a definition, and the line of the first; agents whose
        environment has the tools make hundreds in a row."""
        found = self._undeclared
        if found is None:
            return None
        problem = found.first
        if found.calls > 1:
            many = (
                f"{found.calls:,} calls in {found.rows:,} rows are of tools without a definition; the first:"
            )
            problem = problem._replace(message=f"{many} {problem.message}")
        return problem, found.line

    def _definitions(self, tools: list[Any], where: str, names: set[str]) -> Iterator[Problem]:
        """What is wrong with the definitions, whose names are added to `names`."""
        for index, tool in enumerate(tools):
            try:
                # Most rows repeat the tools of others. Version 2 writes equal values as equal bytes.
                key = hash(marshal.dumps(tool, 2))
            except ValueError:
                yield Problem("data.too_deep", f"{where}[{index}] is nested too deeply")
                continue
            known = self._known.get(key)
            if known is None:
                known = tuple(self._definition(tool)), _name_of(tool)
                if len(self._known) < _MAX_NAMES and len(known[1] or "") < _MAX_NAME:
                    self._known[key] = known
            problems, name = known
            if name is not None:
                names.add(name)
            for problem in problems:
                yield problem._replace(message=f"{where}[{index}]{problem.message}")

    def _definition(self, tool: object) -> Iterator[Problem]:
        """What is wrong with one definition; the messages go on after the place where it stands."""
        if not isinstance(tool, dict):
            yield wrong_type("", "a tool definition", tool)
            return
        nested = "function" in tool
        function = tool.get("function", tool)
        if not isinstance(function, dict):
            yield wrong_type(".function", "an object with a name", function)
            return
        name = function.get("name")
        if not isinstance(name, str):
            if tool.get("type", "function") == "function":
                yield missing(".function.name" if nested else ".name")
            return
        if not self._compare:
            return
        style = "nested under function" if nested else "flat"
        if self._style is None:
            self._style = _First(style, self.line)
        elif self._style.value != style:
            what = f" is {style}, those in line {self._style.line} are {self._style.value}"
            yield Problem("data.mixed_tool_styles", what, "warning", valid="one notation for all tools")
        yield from self._schema(name, function.get("parameters"))

    def _schema(self, name: str, parameters: object) -> Iterator[Problem]:
        schema = _same_for_equal(parameters)
        first = self._schemas.get(name)
        if first is None:
            if len(self._schemas) < _MAX_NAMES and len(name) < _MAX_NAME:
                self._schemas[name] = _First(schema, self.line)
        elif first.value != schema:
            what = f": the parameters of {shown(name)} are not those it has in line {first.line}"
            valid = "one schema for a tool in all rows"
            yield Problem("data.tool_schemas", what, "warning", valid=valid)
        yield from self._kinds_of(parameters, "parameters", "")

    def _arguments(self, call: Call, severity: str) -> Iterator[Problem]:
        arguments, here = call.arguments, f"{call.where}.arguments"
        if isinstance(arguments, str):
            problem = _unreadable(arguments, here)
            if problem:
                yield problem._replace(severity=severity)
        if not self._compare:
            return
        path = f"arguments of {call.name:.60}" if isinstance(call.name, str) else "arguments"
        first = self._kinds.get(path)
        if type(arguments) is str and first is not None and first.value == "a string":
            return  # as nearly all of them
        yield from self._kinds_of(arguments, path, here)

    def _kinds_of(self, value: object, path: str, where: str) -> Iterator[Problem]:
        """Values that have another JSON type than in an earlier row."""
        found = 0
        open_values = [iter([(path, value)])]
        while open_values:
            here, item = next(open_values[-1], (None, None))
            if here is None:
                open_values.pop()
            if here is None or item is None:
                continue
            named = kind(item)
            first = self._kinds.get(here)
            if first is None:
                if len(self._kinds) < _MAX_PATHS:
                    self._kinds[here] = _First(named, self.line)
            elif first.value != named:
                found += 1
                if found <= _SHOWN:
                    shown_path = ascii(here)[1:-1][-_PATH:]
                    what = f"{where}: {shown_path} is {named}, {first.value} in line {first.line}"
                    fix = "write it as a JSON string in all rows"
                    yield Problem("data.mixed_value_types", what, "warning", fix=fix)
                continue
            if isinstance(item, dict | list) and len(open_values) <= _MAX_DEPTH:
                open_values.append(_inside(item, here))


def _inside(value: dict[str, Any] | list[Any], path: str) -> Iterator[tuple[str, object]]:
    """The path and value of each item; one at a time, for there may be a million."""
    if isinstance(value, list):
        path += "[]"
        for item in value:
            yield path, item
    else:
        for key, item in value.items():
            yield f"{path}.{clipped(key, 60)}", item


def _undeclared(call: Call, declared: set[str]) -> Problem:
    which = "which the row does not declare" if declared else "and the row declares no tools"
    names = ", ".join(shown(name) for name in sorted(declared)[:_NAMES])
    what = f"{call.where} calls {shown(call.name)}, {which}"
    return Problem("data.undeclared_tool", what, "warning", valid=names or None)


def _unreadable(arguments: str, where: str) -> Problem | None:
    valid = "a JSON object as a string"
    if len(arguments) > HARMLESS and (costly := too_costly(arguments.encode("utf-8", "surrogatepass"))):
        return costly
    try:
        value, end = _JSON.raw_decode(arguments, blanks_end(arguments, 0))
        if isinstance(value, dict) and blanks_end(arguments, end) == len(arguments):
            return None
    except (RecursionError, ValueError) as exc:
        what = f"{where} is empty" if not arguments.strip() else f"{where}: {unparsed(exc).message}"
        return Problem("data.tool_arguments", what, valid=valid)
    if isinstance(value, dict):
        what = f"{where}: something follows the object at character {end + 1}"
        return Problem("data.tool_arguments", what, valid=valid)
    return Problem("data.tool_arguments", f"{where} is {kind(value)} in a string", valid=valid)


def _name_of(tool: object) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _same_for_equal(value: object) -> int:
    """A number that is the same for equal JSON values, whatever the order of their keys."""
    try:
        return hash(json.dumps(value, sort_keys=True))
    except RecursionError:
        return 0
