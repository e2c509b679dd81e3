"""`key=value` arguments: parsed, checked against the config they change, applied."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemotron.config.config import Config, Origin, describe, split_key
from nemotron.config.keys import dotted, locate, value_at
from nemotron.config.problems import one_error
from nemotron.config.tree import parse_value
from nemotron.errors import UsageError


@dataclass(frozen=True)
class Override:
    """One `key=value` argument.

    value: as YAML reads it; `raw` is what stood after the `=`.
    is_new: written as `+key=value`.
    text: the whole argument.
    """

    key: str
    value: Any
    is_new: bool
    text: str
    raw: str


def parse_override(text: str) -> Override:
    """An Override from `key=value` or `+key=value`.

    The value is a YAML scalar, `[...]` or `{...}`; anything else is taken as text, so a template
    needs no quotes beyond the shell's. Further `=` belong to the value.

    Raises
    ------
    UsageError: no `=`, no key, a malformed key, `~key` or `++key`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not UTF-8 text", where="command line") from error
    if text.startswith("~"):
        raise UsageError(
            f"{text}: deleting a key is not supported",
            where="command line",
            next=f"set it to null: {text[1:].partition('=')[0]}=null, or leave it out of the config file",
        )
    if text.startswith("++"):
        key = text[2:].partition("=")[0]
        raise UsageError(
            f"{text}: `++` is not supported", where="command line", next=f"{key}=... sets, +{key}=... adds"
        )
    is_new = text.startswith("+")
    key, equals, raw = text.removeprefix("+").partition("=")
    if not equals:
        raise UsageError(
            f"{text!r} is not an override: it has no `=`", where="command line", next="write key=value"
        )
    if not key:
        raise UsageError(f"{text!r} is not an override: no key before the `=`", where="command line")
    split_key(key)
    return Override(key, parse_value(raw), is_new, text, raw)


def apply_overrides(config: Config, texts: Sequence[str]) -> Config:
    """The config with all overrides applied in order; of two for one key the later wins.

    Raises one UsageError for all that do not fit.
    """
    problems: list[UsageError] = []
    for text in texts:
        try:
            config = apply_override(config, parse_override(text))
        except UsageError as error:
            problems.append(error)
    if problems:
        raise one_error(problems, "overrides cannot be applied")
    return config


def apply_override(config: Config, override: Override) -> Config:
    """The config with one override applied.

    Raises
    ------
    UsageError: the key does not exist (or does, for `+key`), or the value's type does not fit.
    """
    path = locate(config.data, override.key)
    if override.raw == "" and not (path is not None and isinstance(value_at(config.data, path), str)):
        raise UsageError(
            f"{override.text}: no value after the `=`",
            where="command line",
            next=f"for nothing write {override.key}=null, for empty text {override.key}='\"\"'",
        )
    origin = Origin("override", text=override.text)
    if override.is_new:
        if path is not None:
            raise UsageError(
                f"{override.key} exists already",
                where="command line",
                next=f"drop the plus: {override.text[1:]}",
            )
        return config.set(override.key, override.value, origin)
    if path is None:
        raise _unknown_key(config, override.key, override.raw)
    value = "" if override.raw == "" else override.value
    for key, new in _assignments(
        config, dotted(path), value_at(config.data, path), value, override.raw.strip()
    ):
        config = config.set(key, new, origin)
    return config


def _assignments(config: Config, key: str, old: Any, new: Any, raw: str | None) -> list[tuple[str, Any]]:
    """What one override sets: one key, or for a map the keys inside, which merge into the section."""
    if not (isinstance(old, dict) and isinstance(new, dict) and old):
        return [(key, _fitted(config, key, old, new, raw))]
    if not new:
        raise UsageError(
            f"{key}={{}} changes nothing: a map is merged into the section",
            where="command line",
            next=f"to empty it: {key}=null",
        )
    found = []
    for name, value in new.items():
        inner = f"{key}.{name}"
        if name not in old:
            raise _unknown_key(config, inner, json.dumps(value, ensure_ascii=False))
        found += _assignments(config, inner, old[name], value, None)
    return found


def _fitted(config: Config, key: str, old: Any, new: Any, raw: str | None) -> Any:
    """`new` as the value of a key that holds `old`. Raises UsageError when the types differ.

    Anything may replace null, `???` and an interpolation; null and interpolations may replace
    anything. A number typed for a text key is the text typed, `raw`, unless it stands inside a map;
    `1e3` is an int where one is needed.
    """
    if old is None or new is None or _is_open(old) or (isinstance(new, str) and "${" in new):
        return new
    if raw is not None and isinstance(old, str) and isinstance(new, bool | int | float):
        return raw
    if isinstance(old, bool) or isinstance(new, bool):
        fits = isinstance(old, bool) and isinstance(new, bool)
    elif isinstance(old, int) and isinstance(new, float):
        fits = new.is_integer()
        new = int(new) if fits else new
    elif isinstance(old, float):
        fits = isinstance(new, int | float)
    else:
        fits = type(old) is type(new)
    if fits:
        return new
    raise UsageError(
        f"{key}: {describe(new)} cannot replace {describe(old)}, which {config.place(key)} set",
        where="command line",
        next=_FIXES.get(type(old), "").format(key=key) or None,
    )


_FIXES = {
    bool: "write {key}=true or {key}=false",
    int: "write a whole number",
    float: "write a number",
    list: "write {key}=[a,b], or set one item: {key}.0=a",
    dict: "set a key inside it: {key}.NAME=value",
    str: "put the value in quotes if it is text: {key}='\"...\"'",
}


def _is_open(old: Any) -> bool:
    return isinstance(old, str) and (old == "???" or "${" in old)


def _unknown_key(config: Config, key: str, raw: str) -> UsageError:
    try:
        config.path_for(key)
    except UsageError as error:
        return error
    return UsageError(
        f"{key} is not a key of this config",
        where="command line",
        nearest=config.nearest(key),
        next=f"for a new key: +{key}={raw}",
    )
