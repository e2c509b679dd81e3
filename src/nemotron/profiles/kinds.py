"""What the value of a profile's key may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.profiles.mounts import BadMount, parse_mount

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_SIGNAL = re.compile(r"([RB]{1,2}:)?([A-Z][A-Z0-9]*|\d+)(@\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,15}", re.ASCII)
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    name: as documentation and errors call it.
    problem: what is wrong with a value that holds no interpolation, None when nothing is.
    """

    name: str
    problem: Callable[[Any], str | None]


def is_variable(name: str) -> bool:
    """Whether `name` can name an environment variable."""
    return _VARIABLE.fullmatch(name) is not None


def converted(kind: Kind, value: Any) -> Any:
    """A text that came out of an interpolation, as the number or flag that its key takes.

    Environment variables hold nothing but text. Anything else is returned as it is.
    """
    if not isinstance(value, str):
        return value
    if kind in (COUNT, NUMBER) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if kind in (FLAG, FLAG_OR_TEXT):
        return _FLAGS.get(value.strip().lower(), value)
    return value


def _is(kind: type, wanted: str) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        return None if right else f"must be {wanted}, not {named(value)}"

    return problem


def _any_of(wanted: str, *kinds: type) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        return None if right else f"must be {wanted}, not {named(value)}"

    return problem


def _at_least(least: int) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        wrong = _is(int, "a whole number")(value)
        return wrong or (None if value >= least else f"must be at least {least}, not {value}")

    return problem


def _each(item: Callable[[Any], str | None], wanted: str) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        if not isinstance(value, list):
            return f"must be {wanted}, not {named(value)}"
        for position, entry in enumerate(value):
            wrong = item(entry)
            if wrong:
                return f"item {position + 1} {wrong}"
        return None

    return problem


def _texts_or_text(value: Any) -> str | None:
    return None if isinstance(value, str) else _each(_is(str, "text"), "text or a list of texts")(value)


def _variable_name(value: Any) -> str | None:
    wrong = _is(str, "the name of an environment variable")(value)
    if wrong or is_variable(value):
        return wrong
    return (
        f"{value!r} is no name of an environment variable" if len(value) < 40 else "holds a value, not a name"
    )


def _variables(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"must be a table, not {named(value)}"
    for name, inner in value.items():
        if not is_variable(name):
            return f"has {name!r}, which is no name of an environment variable"
        if isinstance(inner, bool):
            word = "true" if inner else "false"
            return f'{name} must be text: write "{word}" or "{int(inner)}", whichever the program reads'
        if not isinstance(inner, str | int | float):
            return f"{name} must be text or a number, not {named(inner)}"
    return None


def _options(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"must be a table, not {named(value)}"
    for name, inner in value.items():
        if not _OPTION.fullmatch(name):
            plain = name.lstrip("-").replace("_", "-").lower()
            hint = f": write {plain}" if _OPTION.fullmatch(plain) else ""
            return f"has {name!r}, which is no long option without its dashes{hint}"
        if not isinstance(inner, str | int | bool):
            return f"{name} must be text, a whole number or true, not {named(inner)}"
    return None


def _mounts(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"must be a list of mounts, not {named(value)}"
    for position, entry in enumerate(value):
        try:
            parse_mount(entry)
        except BadMount as bad:
            return f"item {position + 1} {bad}"
    return None


def _mount(value: Any) -> str | None:
    try:
        parse_mount(value)
    except BadMount as bad:
        return str(bad)
    return None


def _checkout(value: Any) -> str | None:
    wrong = _is(str, "a path, or SRC:DST")(value)
    return wrong or (_mount(value) if ":" in value else None)


def _signal(value: Any) -> str | None:
    wrong = _is(str, "text such as USR1@600")(value)
    return wrong or (None if _SIGNAL.fullmatch(value) else f"must be like USR1@600, not {value!r}")


TEXT = Kind("text", _is(str, "text"))
TEXTS = Kind("list of texts", _each(_is(str, "text"), "a list of texts"))
TEXTS_OR_TEXT = Kind("text or list of texts", _texts_or_text)
COUNT = Kind("whole number, 1 or more", _at_least(1))
NUMBER = Kind("whole number, 0 or more", _at_least(0))
FLAG = Kind("true or false", _is(bool, "true or false"))
FLAG_OR_TEXT = Kind("true, false or text", _any_of("true, false or text", bool, str))
TEXT_OR_NUMBER = Kind("text or whole number", _any_of("text or a whole number", str, int))
TABLE = Kind("table", _is(dict, "a table"))
TABLES = Kind("list of tables", _each(_is(dict, "a table"), "a list of tables"))
VARIABLE_NAMES = Kind("list of variable names", _each(_variable_name, "a list of names"))
VARIABLES = Kind("table of texts and numbers", _variables)
OPTIONS = Kind("table of options", _options)
MOUNTS = Kind("list of mounts", _mounts)
MOUNT = Kind("mount", _mount)
CHECKOUT = Kind("path or mount", _checkout)
SIGNAL = Kind("signal", _signal)
LOCAL_FILE = Kind("path of a file here", _is(str, "a path"))


def named(value: Any) -> str:
    """The kind of a value, for a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 and value.isprintable() else "text"
    if isinstance(value, int):
        return f"the number {value}" if abs(value) < 10**12 else "a number"
    if isinstance(value, float):
        return f"the number {value}" if math.isfinite(value) else f"{value}"
    return "a list" if isinstance(value, list) else "a table"
