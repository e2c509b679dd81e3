"""Files of JSON rows, read once from front to back in memory that does not grow with the file."""

from __future__ import annotations

import re
from io import BufferedReader
from pathlib import Path
from typing import Any

from .bounds import too_costly
from .files import JsonReader, not_text, open_regular, read_lines, unreadable
from .report import Problem, Report, kind, shown
from .rows import Row, Shape, shape_of
from .tools import ToolWatch

MAX_LINE = 16 << 20

_BOM = b"\xef\xbb\xbf"
_HEAD = 4096
# Half of a character, escaped: JSON permits it, no tokenizer does.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_FIELDS = 200
_FIELD_NAME = 100


def check_rows(path: Path, report: Report, shapes: tuple[Shape, ...]) -> dict[str, Any]:
    """Check every row of the file at `path` and return its facts.

    Facts: rows (those that could be read), bytes, lines, max_line_bytes, shape, fields (name to number of
    rows that have it), and the range and mean of reward where rows have one.
    """
    file = open_regular(path)
    if isinstance(file, Problem):
        report.add(file)
        return {}
    rows = _Rows(report, shapes)
    with file:
        try:
            _read(file, rows, report)
        except OSError as exc:
            report.add(unreadable(exc))
    return rows.facts()


def _read(file: BufferedReader, rows: _Rows, report: Report) -> None:
    problem = not_text(file.peek(_HEAD))
    if problem:
        report.add(problem)
        return
    for number, (line, length) in enumerate(read_lines(file, MAX_LINE), start=1):
        rows.bytes += length
        rows.lines = number
        rows.longest = max(rows.longest, length)
        if number == 1 and line and line.startswith(_BOM):
            what = "the file begins with a byte order mark, which some readers take for data"
            report.add(
                Problem("data.byte_order_mark", what, "warning", fix="sed -i '1s/^\\xEF\\xBB\\xBF//' FILE"),
                line=1,
            )
            line = line[len(_BOM) :]
        rows.take(line, number)
    rows.finish()
    if not rows.bytes:
        report.add(Problem("artifact.empty", "an empty file"))
    elif not rows.rows and not report.errors:
        report.add(Problem("data.no_rows", "a file without a row"))


class _Rows:
    """The running totals of one file."""

    def __init__(self, report: Report, shapes: tuple[Shape, ...]) -> None:
        self._report = report
        self._shapes = shapes
        self._json = JsonReader()
        self._fields: dict[str, int] = {}
        self._rewards = _Range()
        self._tools = ToolWatch()
        self._shape: Shape | None = None
        self._shape_line = 0
        self.bytes = 0
        self.lines = 0
        self.longest = 0
        self.rows = 0

    def take(self, line: bytes | None, number: int) -> None:
        """Check one line."""
        if line is None:
            what = f"a line longer than {MAX_LINE >> 20} MiB, not read"
            self._report.add(Problem("data.line_too_long", what), line=number)
        elif line.isspace():
            what = "a blank line; readers that take one row a line fail on it"
            self._report.add(
                Problem("data.blank_line", what, "warning", fix="sed -i '/^[[:space:]]*$/d' FILE"),
                line=number,
            )
        else:
            row = self._parse(line)
            if isinstance(row, Problem):
                self._report.add(row, line=number)
            else:
                self._check(row, number)

    def _parse(self, line: bytes) -> Row | Problem:
        costly = too_costly(line)
        if costly:
            return costly
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as exc:
            return Problem("artifact.not_utf8", f"not UTF-8 at byte {exc.start + 1} of the line")
        row = self._json.parse(text)
        if isinstance(row, Problem):
            return row
        if not isinstance(row, dict):
            return Problem("data.not_an_object", f"the row is {kind(row)}, not an object")
        if self._json.duplicates:
            key = shown(self._json.duplicates[0])
            return Problem("data.duplicate_key", f"the key {key} stands twice in an object")
        if self._json.constants:
            return Problem("data.not_finite", f"{self._json.constants[0]} is no JSON number")
        # In the bytes and in this order: to look for the escape in the text took a sixth of all the time.
        if b"\\" in line and _SURROGATE.search(line) and _has_lone_surrogate(row):
            return Problem(
                "data.half_character", "a \\u escape of half a character, which no tokenizer takes"
            )
        return row

    def _check(self, row: Row, number: int) -> None:
        self.rows += 1
        for key in row:
            if key in self._fields or len(self._fields) < _FIELDS:
                self._fields[key] = self._fields.get(key, 0) + 1
        shape = shape_of(row, self._shapes)
        if shape is None:
            valid = " or ".join(shape.example for shape in self._shapes)
            keys = ", ".join(shown(key) for key in list(row)[:6]) or "no keys"
            self._report.add(Problem("data.missing_field", f"the row has {keys}", valid=valid), line=number)
            return
        if self._shape is None:
            self._shape, self._shape_line = shape, number
        elif shape is not self._shape:
            first = f"{self._shape.name} as in line {self._shape_line}"
            what = f"the row is of the shape {shape.name}, not {first}"
            self._report.add(
                Problem("data.mixed_shapes", what, valid="one shape for all rows of a file"), line=number
            )
        self._tools.line = number
        for problem in shape.problems(row, self._tools):
            self._report.add(problem, line=number)
        self._rewards.take(row.get("reward"))

    def finish(self) -> None:
        """Say what is said once of the whole file."""
        undeclared = self._tools.undeclared()
        if undeclared:
            self._report.add(undeclared[0], line=undeclared[1])

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "rows": self.rows,
            "bytes": self.bytes,
            "lines": self.lines,
            "max_line_bytes": self.longest,
            "shape": self._shape.name if self._shape else None,
            "fields": {key[:_FIELD_NAME]: count for key, count in sorted(self._fields.items())},
        }
        if self._rewards.count:
            found["reward"] = self._rewards.facts()
        return found


class _Range:
    """Minimum, maximum and mean of the numbers it is given."""

    def __init__(self) -> None:
        self.count = 0
        self._total = 0.0
        self._low = float("inf")
        self._high = float("-inf")

    def take(self, value: object) -> None:
        if isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e300:
            self.count += 1
            self._total += value
            self._low = min(self._low, value)
            self._high = max(self._high, value)

    def facts(self) -> dict[str, float]:
        return {"rows": self.count, "min": self._low, "max": self._high, "mean": self._total / self.count}


def _has_lone_surrogate(value: Any) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str) and not item.isascii():
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                return True
    return False
