"""The value of a text with interpolations, by OmegaConf's own grammar.

What a reference or a resolver means is the caller's: two functions are called for them, which may
raise `Wrong`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LITERAL_HINT = "for text that is no interpolation write \\${"

Reference = Callable[[int, list[str]], Any]
"""Value of `${..a.b}`, given the number of leading dots and the parts."""
Call = Callable[[str, tuple[Any, ...], tuple[str, ...]], Any]
"""Value of `${name:...}`, given the name, the arguments and their text."""

# The forms nearly every config keeps to. Reading them here saves the import of OmegaConf (90 ms)
# where nothing else is used; whatever does not match goes to its grammar.
_NODE = r"\.*[A-Za-z_]\w*(?:\.\w+)*"
_ARGUMENT = rf"(?:\$\{{{_NODE}\}}|0|[1-9]\d{{0,15}})"
_SIMPLE = re.compile(
    rf"\$\{{(?:(?P<node>{_NODE})"
    # A default with a slash in it is no number and no word with a meaning.
    r"|oc\.env:(?P<variable>[A-Za-z_]\w*)(?P<default>,(?:(?:[A-Za-z][\w.-]*)?/[\w./-]*)?)?"
    rf"|(?P<name>[A-Za-z_]\w*):(?P<arguments>{_ARGUMENT}(?:,{_ARGUMENT})*))\}}",
    re.ASCII,
)


class Wrong(Exception):
    """What is wrong with an expression, with the parts of the error it becomes."""

    def __init__(
        self,
        what: str,
        *,
        nearest: tuple[str, ...] = (),
        valid: tuple[str, ...] = (),
        next: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what, self.nearest, self.valid, self.next = what, nearest, valid, next


@dataclass(frozen=True)
class _Container:
    """A section or list on its way through the grammar, which would print it into a text."""

    value: Any

    def __str__(self) -> str:
        raise Wrong("a section or a list cannot be part of a text", next="refer to one of its keys")


def evaluate(text: str, reference: Reference, call: Call) -> Any:
    """The value of a text that holds `${`; of any type where it is nothing but one interpolation.

    Raises Wrong where the text does not follow the grammar, and whatever the two functions raise.
    """
    if "\\" in text or "${" in _SIMPLE.sub("", text):
        return _parsed(text, reference, call, "configValue", "DEFAULT_MODE")
    pieces: list[Any] = []
    end = 0
    for match in _SIMPLE.finditer(text):
        if match.start() > end:
            pieces.append(text[end : match.start()])
        pieces.append(_wrapped(_simple(match, reference, call)))
        end = match.end()
    if end < len(text):
        pieces.append(text[end:])
    return plain(pieces[0]) if len(pieces) == 1 else "".join(map(str, pieces))


def decode(text: str, reference: Reference, call: Call) -> Any:
    """The value of a text as an argument of a resolver would be read: `8` is a number, `[a]` a list.

    Raises as `evaluate` does.
    """
    return _parsed(text, reference, call, "singleElement", "VALUE_MODE")


def plain(value: Any) -> Any:
    """A value that came out of the grammar, in plain types. Raises Wrong for a key that is no text."""
    if isinstance(value, _Container):
        return value.value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise Wrong(f"a key must be text, {wrong[0]!r} is none", next="put it in quotes")
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value


def split_reference(key: str) -> tuple[int, list[str]]:
    """A reference as its leading dots and its parts; `a[0].b` is `a.0.b`."""
    names = key.lstrip(".")
    parts = names.replace("[", ".").replace("]", "").split(".")
    return len(key) - len(names), [part for part in parts if part]


def _simple(match: re.Match[str], reference: Reference, call: Call) -> Any:
    if match["node"]:
        return reference(*split_reference(match["node"]))
    if match["name"]:
        words = tuple(match["arguments"].split(","))
        values = (
            _wrapped(reference(*split_reference(w[2:-1]))) if w.startswith("$") else int(w) for w in words
        )
        return call(match["name"], tuple(values), words)
    default = match["default"]
    args = (match["variable"],) if default is None else (match["variable"], default[1:])
    return call("oc.env", args, args)


def _parsed(text: str, reference: Reference, call: Call, rule: str, mode: str) -> Any:
    from omegaconf.errors import OmegaConfBaseException
    from omegaconf.grammar_parser import parse
    from omegaconf.grammar_visitor import GrammarVisitor

    def on_reference(key: Any, memo: Any) -> Any:
        # OmegaConf before 2.4 hands over the text, from 2.4 on its parts.
        split = split_reference(key) if isinstance(key, str) else (key.relative_dots, list(key.parts))
        return _wrapped(reference(*split))

    def on_call(name: str, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
        return _wrapped(call(name, args, args_str))

    visitor: Any = GrammarVisitor(
        node_interpolation_callback=on_reference, resolver_interpolation_callback=on_call, memo=set()
    )
    try:
        return plain(visitor.visit(parse(text, parser_rule=rule, lexer_mode=mode)))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Wrong(f"{_short(text)} is not a valid interpolation: {reason}", next=LITERAL_HINT) from error
    except RecursionError as error:
        raise Wrong(f"{_short(text)} is nested too deeply") from error


def _wrapped(value: Any) -> Any:
    return _Container(value) if isinstance(value, dict | list) else value


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
