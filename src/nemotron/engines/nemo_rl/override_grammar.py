"""Reads one override as NeMo-RL's scripts do, which hand what follows the config to Hydra's parser.

Its grammar is stricter than a shell user expects: a value with `=`, `#`, `!`, `~` or a letter that is not
ASCII has to stand in quotes, and a comma makes a sweep, which these scripts cannot run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["set", "add", "force", "delete"]

_KEY = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_-]*|0|[1-9]\d*)(?:\.(?:[A-Za-z_][A-Za-z0-9_-]*|0|[1-9]\d*))*")
_PREFIXES: tuple[tuple[str, Mode], ...] = (("++", "force"), ("+", "add"), ("~", "delete"))
_INTERPOLATION = re.compile(r"\$\{[^{}]+\}")
_ESCAPE = re.compile(r"\\[\\()\[\]{}:=, \t]")
_PLAIN = re.compile(r"[A-Za-z0-9_/\-\\+.$%*@?| \t]")
_CALL = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)\(")
_CASTS: Mapping[str, Callable[[Any], Any]] = {
    "bool": bool,
    "float": float,
    "int": int,
    "json_str": json.dumps,
    "str": str,
}
_INT = re.compile(r"[+-]?(?:0|[1-9]\d*(?:_\d+)*)")
_DIGITS = r"\d+(?:_\d+)*"
_POINTED = rf"(?:0|[1-9]\d*(?:_\d+)*)\.(?:{_DIGITS})?|\.{_DIGITS}"
_FLOAT = re.compile(
    rf"[+-]?(?:(?:{_POINTED})(?:e[+-]?{_DIGITS})?|(?:0|[1-9]\d*(?:_\d+)*)e[+-]?{_DIGITS}|inf|nan)", re.I
)
_WORDS = {"null": None, "true": True, "false": False}


@dataclass(frozen=True)
class Override:
    """One override. value: plain data; None for a delete without one (`has_value` tells it from null)."""

    mode: Mode
    key: str
    value: Any
    has_value: bool


class Malformed(Exception):
    """An override that Hydra's parser refuses; the message says why, in a clause."""


def parse_override(text: str) -> Override:
    """The override in `text`. Raises Malformed."""
    mode: Mode = "set"
    rest = text
    for prefix, meant in _PREFIXES:
        if text.startswith(prefix):
            mode, rest = meant, text[len(prefix) :]
            break
    key, equals, value = rest.partition("=")
    if not _KEY.fullmatch(key):
        raise Malformed(f"{key!r} is no key" if key else "it has no key")
    if not equals:
        if mode != "delete":
            raise Malformed("it has no `=`")
        return Override(mode, key, None, has_value=False)
    return Override(mode, key, _Reader(value).whole(), has_value=True)


class _Reader:
    """A value, read from the left."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Any:
        """The one value that the text is."""
        self._skip()
        if self._at == len(self._text):
            return ""
        value = self._element(closing="")
        if self._peek() == ",":
            raise Malformed("a comma makes a sweep of it; a list stands in [ ], a text in quotes")
        if self._at < len(self._text):
            self._unexpected()
        return value

    def _element(self, closing: str) -> Any:
        self._skip()
        char = self._peek()
        if char == "[":
            return self._list()
        if char == "{":
            return self._table()
        if char in ("'", '"'):
            value: Any = self._quoted(char)
            self._skip()
            return value
        called = _CALL.match(self._text, self._at)
        return self._call(called) if called else self._primitive(closing)

    def _list(self) -> list[Any]:
        self._at += 1
        found: list[Any] = []
        self._skip()
        while self._peek() != "]":
            found.append(self._element("]"))
            self._separator("]")
        self._close()
        return found

    def _table(self) -> dict[str, Any]:
        self._at += 1
        found: dict[str, Any] = {}
        self._skip()
        while self._peek() != "}":
            key = self._key_of_table()
            found[key] = self._element("}")
            self._separator("}")
        self._close()
        return found

    def _key_of_table(self) -> str:
        self._skip()
        start = self._at
        while _PLAIN.match(self._peek()):
            self._at += 1
        key = self._text[start : self._at].strip()
        if not key or self._peek() != ":":
            self._unexpected()
        self._at += 1
        return key

    def _call(self, called: re.Match[str]) -> Any:
        if called[1] not in _CASTS:
            raise Malformed(f"`{called[1]}(...)` is no value; a text with brackets stands in quotes")
        self._at = called.end()
        value = self._element(")")
        if self._peek() != ")":
            self._unexpected()
        self._close()
        try:
            return _CASTS[called[1]](value)
        except (TypeError, ValueError) as problem:
            raise Malformed(f"`{called[0]}...)`: {problem}") from problem

    def _quoted(self, quote: str) -> str:
        found, at = "", self._at + 1
        while at < len(self._text):
            char = self._text[at]
            if char == "\\" and self._text[at + 1 : at + 2] in (quote, "\\"):
                found, at = found + self._text[at + 1], at + 2
            elif char == quote:
                self._at = at + 1
                return found
            else:
                found, at = found + char, at + 1
        raise Malformed("a quote is not closed")

    def _primitive(self, closing: str) -> Any:
        start = self._at
        while self._at < len(self._text):
            char = self._peek()
            step = _INTERPOLATION.match(self._text, self._at) or _ESCAPE.match(self._text, self._at)
            if step:
                self._at = step.end()
            elif _PLAIN.match(char) or char == ":":
                self._at += 1
            elif char in (",", closing):
                break
            else:
                self._unexpected()
        # White space that was escaped is meant.
        cut = _ESCAPE.sub("..", self._text[start : self._at]).rstrip(" \t")
        written = self._text[start : start + len(cut)]
        if not written:
            self._unexpected()
        return _scalar(_ESCAPE.sub(lambda found: found[0][1:], written), is_escaped="\\" in written)

    def _separator(self, closing: str) -> None:
        self._skip()
        if self._peek() == ",":
            self._at += 1
            self._skip()
            if self._peek() == closing:
                self._unexpected()
        elif self._peek() != closing:
            self._unexpected()

    def _close(self) -> None:
        self._at += 1
        self._skip()

    def _skip(self) -> None:
        while self._peek() and self._peek() in " \t":
            self._at += 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _unexpected(self) -> None:
        char = self._peek()
        if not char:
            raise Malformed("it ends too early")
        raise Malformed(f"{char!r} cannot stand there unless the value is in quotes")


def _scalar(written: str, *, is_escaped: bool) -> Any:
    if is_escaped:
        return written
    if written.lower() in _WORDS:
        return _WORDS[written.lower()]
    if _INT.fullmatch(written):
        return int(written)
    return float(written) if _FLOAT.fullmatch(written) else written
