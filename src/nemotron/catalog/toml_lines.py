"""Which line of a TOML text a table or key is on: tomllib does not say."""

from __future__ import annotations

import re

Key = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_TOKEN = re.compile(r'''"""|\'\'\'|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#.*|[\[\]{}]''')
_CLOSING = {'"""': re.compile(r'(?:\\.|[^\\])*?"""'), "'''": re.compile(r".*?'''")}


def key_lines(text: str) -> dict[Key, int]:
    """The line (from 1) of every table and key that starts a line of `text`.

    An entry of an array of tables is `("consumes", 0)`, a key in it `("consumes", 0, "type")`. Keys
    inside inline tables are not listed. The text need not be valid TOML.
    """
    scanner = _Scanner()
    for number, line in enumerate(text.split("\n"), 1):
        scanner.read(line, number)
    return scanner.lines


def line_of(lines: dict[Key, int], key: Key) -> int | None:
    """The line of `key`, or of the closest table around it."""
    while key:
        if key in lines:
            return lines[key]
        key = key[:-1]
    return None


class _Scanner:
    """Knows, between two lines, which table it is in and whether a value is still open."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self._table: Key = ()
        self._entries: dict[Key, int] = {}
        self._open_string: str | None = None
        self._depth = 0

    def read(self, line: str, number: int) -> None:
        if self._open_string or self._depth:
            self._read_value(line)
        elif header := _HEADER.match(line):
            self._open_table(_parts(header[2]), is_array=header[1] == "[[", number=number)
        elif assignment := _ASSIGNMENT.match(line):
            key = self._table
            for part in _parts(assignment[1]):
                key = (*key, part)
                self.lines.setdefault(key, number)
            self._read_value(line[assignment.end() :])

    def _open_table(self, parts: list[str], *, is_array: bool, number: int) -> None:
        table: Key = ()
        for part in parts[:-1]:
            table = (*table, part)
            if table in self._entries:
                table = (*table, self._entries[table])
        table = (*table, parts[-1])
        self.lines.setdefault(table, number)
        if is_array:
            self._entries[table] = self._entries.get(table, -1) + 1
            table = (*table, self._entries[table])
        elif table in self._entries:
            table = (*table, self._entries[table])
        self._table = table
        self.lines.setdefault(table, number)

    def _read_value(self, text: str) -> None:
        position = 0
        while position < len(text):
            if self._open_string:
                closing = _CLOSING[self._open_string].match(text, position)
                if not closing:
                    return
                self._open_string = None
                position = closing.end()
                continue
            token = _TOKEN.search(text, position)
            if not token:
                return
            position = token.end()
            if token[0] in _CLOSING:
                self._open_string = token[0]
            elif token[0] in "[{":
                self._depth += 1
            elif token[0] in "]}":
                self._depth = max(0, self._depth - 1)


def _parts(dotted: str) -> list[str]:
    return [part[1:-1] if part[0] in "\"'" else part for part in re.findall(_PART, dotted)]
