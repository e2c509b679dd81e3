"""Interpolations replaced by their values, by OmegaConf's grammar but none of its global state.

OmegaConf keeps resolvers in a table of the process and reads `os.environ`; its parser and visitor
need neither. So two configs resolve side by side with different environments, every problem is
found in one pass, and a secret is not read at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemotron.config.keys import Path, all_keys, dotted, list_index, value_at
from nemotron.config.late import Late, Marks
from nemotron.config.problems import one_error
from nemotron.config.resolvers import ARITHMETIC, NAMES, calculate, is_secret
from nemotron.errors import UsageError, nearest

if TYPE_CHECKING:
    from nemotron.config.config import Config

MISSING = "???"
# Each step of a chain takes a dozen frames, Python stops at a thousand.
MAX_CHAIN = 40

# The forms nearly every config keeps to. Reading them here saves the import of OmegaConf (90 ms)
# where nothing else is used; whatever does not match goes to its grammar.
_SIMPLE = re.compile(
    r"\$\{(?:(?P<node>\.*[A-Za-z_]\w*(?:\.\w+)*)|oc\.env:(?P<variable>[A-Za-z_]\w*)(?P<default>,(?:/[\w./-]*)?)?)\}",
    re.ASCII,
)
_LITERAL_HINT = "for text that is no interpolation write \\${"


@dataclass(frozen=True)
class LateValue:
    """One expression that is left for the job's machine.

    key: where it stands.
    variable: the environment variable it reads, None for other resolvers.
    reason: `secret`, or the name of the resolver the caller asked to keep.
    expression: its text, such as `${oc.env:HF_TOKEN}`.
    """

    key: str
    variable: str | None
    reason: str
    expression: str


@dataclass(frozen=True)
class Resolved:
    """A config in which only the interpolations named in `late` are left.

    data: plain dicts, lists and scalars; numbers are finite. Text is as OmegaConf reads it: a
        literal `${` is still written `\\${`, so that a trainer which interpolates finds it unchanged.
    late: what the job's machine must fill in, in the order of the keys.
    missing: the keys that hold `???`; a key that refers to one of them is `???` in `data` too.
    """

    data: dict[str, Any]
    late: tuple[LateValue, ...] = ()
    missing: tuple[str, ...] = ()


class _Stop(Exception):
    """A key has no value, and the reason is noted already."""


class _Failed(_Stop):
    """There is a problem with the key, or with one it refers to."""


class _Missing(_Stop):
    """The key, or one it refers to, is `???`."""


class _KeepWhole(Exception):
    """An expression computes with a late value: the whole text has to stay."""

    def __init__(self, late: tuple[Late, ...]) -> None:
        super().__init__("late")
        self.late = late


class _Wrong(Exception):
    """What is wrong with the expression that is being evaluated."""

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


class _NoKey(_Wrong):
    """A reference to a key that does not exist."""


@dataclass(frozen=True)
class _Container:
    """A section or list on its way through the grammar, which would print it into a text."""

    value: Any

    def __str__(self) -> str:
        raise _Wrong("a section or a list cannot be part of a text", next="refer to one of its keys")


def resolve_config(config: Config, environ: Mapping[str, str], keep: tuple[str, ...] = ()) -> Resolved:
    """See `Config.resolve`."""
    return _Resolution(config, environ, keep).run()


@dataclass
class _Resolution:
    """One pass over one config."""

    config: Config
    environ: Mapping[str, str]
    keep: tuple[str, ...]
    values: dict[Path, Any] = field(default_factory=dict)
    stack: list[Path] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)
    problems: list[UsageError] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    late: list[LateValue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = {**self.config.hidden, **self.config.data}

    def run(self) -> Resolved:
        resolved = {name: self._child((name,)) for name in self.config.data}
        data = {name: self._written(value, (name,)) for name, value in resolved.items()}
        if self.problems:
            raise one_error(self.problems, "values of the config cannot be resolved")
        return Resolved(data, tuple(self.late), tuple(self.missing))

    def _child(self, path: Path) -> Any:
        """The value at a path: None where there is a problem, `???` where it is missing."""
        try:
            return self._value(path)
        except _Missing:
            return MISSING
        except _Failed:
            return None

    def _value(self, path: Path) -> Any:
        if path not in self.values:
            self.values[path] = self._outcome(path)
        known = self.values[path]
        if isinstance(known, _Stop):
            raise known
        return known

    def _outcome(self, path: Path) -> Any:
        """The value at a path, or the `_Stop` that says why there is none."""
        if path in self.stack:
            circle = [dotted(p) for p in (*self.stack[self.stack.index(path) :], path)]
            return self._note(path, _Wrong(f"refers to itself: {' -> '.join(circle)}"))
        if len(self.stack) > MAX_CHAIN:
            return self._note(
                path, _Wrong(f"at the end of a chain of {MAX_CHAIN} references, which is too long")
            )
        raw = value_at(self.root, path)
        self.stack.append(path)
        try:
            if isinstance(raw, dict):
                return {name: self._child((*path, name)) for name in raw}
            if isinstance(raw, list):
                return [self._child((*path, index)) for index in range(len(raw))]
            return self._text(raw, path) if isinstance(raw, str) else raw
        except _Wrong as wrong:
            return self._note(path, wrong)
        except _Stop as stop:
            return stop
        finally:
            self.stack.pop()

    def _note(self, path: Path, wrong: _Wrong) -> _Failed:
        key = dotted(path)
        known = self.config.history.get(key)
        where = known[-1].place if known else self.config.place(key)
        self.problems.append(
            UsageError(
                f"{key}: {wrong.what}",
                where=where or None,
                nearest=wrong.nearest,
                valid=wrong.valid,
                next=wrong.next,
            )
        )
        return _Failed()

    def _text(self, raw: str, path: Path) -> Any:
        if "\0" in raw:
            raise _Wrong("the text holds a NUL byte")
        value: Any = raw
        if "${" in raw:
            try:
                value = self._evaluated(raw, path)
            except _KeepWhole as whole:
                value = self.marks.put(raw, whole.late)
        if value == MISSING:
            self.missing[dotted(path)] = None
            raise _Missing
        return value

    def _evaluated(self, raw: str, path: Path) -> Any:
        """The value of a text with interpolations, which is no text where it is one interpolation."""
        if "\\" in raw or "${" in _SIMPLE.sub("", raw):
            return self._parsed(raw, path, "configValue", "DEFAULT_MODE")
        pieces: list[Any] = []
        end = 0
        for match in _SIMPLE.finditer(raw):
            if match.start() > end:
                pieces.append(raw[end : match.start()])
            pieces.append(self._simple(match, path))
            end = match.end()
        if end < len(raw):
            pieces.append(raw[end:])
        return _plain(pieces[0]) if len(pieces) == 1 else "".join(map(str, pieces))

    def _simple(self, match: re.Match[str], path: Path) -> Any:
        if match["node"]:
            return _wrapped(self._reference(path, *_split(match["node"])))
        default = match["default"]
        args = (match["variable"],) if default is None else (match["variable"], default[1:])
        return self._env(args, args)

    def _parsed(self, text: str, path: Path, rule: str, mode: str) -> Any:
        from omegaconf.errors import OmegaConfBaseException
        from omegaconf.grammar_parser import parse
        from omegaconf.grammar_visitor import GrammarVisitor

        def reference(key: Any, memo: Any) -> Any:
            # OmegaConf before 2.4 hands over the text, from 2.4 on its parts.
            split = _split(key) if isinstance(key, str) else (key.relative_dots, list(key.parts))
            return _wrapped(self._reference(path, *split))

        def call(name: str, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
            return _wrapped(self._call(name, args, args_str, path))

        visitor: Any = GrammarVisitor(
            node_interpolation_callback=reference, resolver_interpolation_callback=call, memo=set()
        )
        try:
            return _plain(visitor.visit(parse(text, parser_rule=rule, lexer_mode=mode)))
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise _Wrong(
                f"{_short(text)} is not a valid interpolation: {reason}", next=_LITERAL_HINT
            ) from error
        except RecursionError as error:
            raise _Wrong(f"{_short(text)} is nested too deeply") from error

    def _reference(self, path: Path, dots: int, parts: list[str]) -> Any:
        """The value of `${parts}` as written at `path`; each leading dot is one level up from there."""
        shown = "." * dots + ".".join(parts)
        if dots > len(path):
            raise _NoKey(f"${{{shown}}} leads above the top of the config")
        at = path[: len(path) - dots] if dots else ()
        node = value_at(self.root, at)
        for position, part in enumerate(parts):
            if isinstance(node, str) and ("${" in node or node == MISSING):
                return self._inside(self._value(at), parts[position:], shown)
            step = _step(node, part)
            if step is None:
                raise self._no_key(shown, dotted((*at, *parts[position:])))
            at, node = (*at, step), node[step]
        return self._value(at)

    def _inside(self, value: Any, parts: list[str], shown: str) -> Any:
        """The value below one that is itself the result of an interpolation."""
        for part in parts:
            late = self.marks.within(value) if isinstance(value, str) else ()
            if late:
                raise _KeepWhole(late)
            step = _step(value, part)
            if step is None:
                raise self._no_key(shown, shown)
            value = value[step]
        if value == MISSING:
            raise _Missing
        return value

    def _no_key(self, shown: str, full: str) -> _NoKey:
        close = nearest(full, all_keys(self.root))
        return _NoKey(f"${{{shown}}} refers to a key that does not exist", nearest=close, next=_LITERAL_HINT)

    def _call(self, name: str, args: tuple[Any, ...], args_str: tuple[str, ...], path: Path) -> Any:
        if name == "oc.env":
            return self._env(args, args_str)
        plain = tuple(map(_plain, args))
        if name in self.keep:
            return self._kept(name, None, name, plain, args_str)
        if name not in NAMES:
            valid = tuple(sorted({*NAMES, *self.keep}))
            raise _Wrong(
                f"there is no resolver {name!r}",
                nearest=nearest(name, valid),
                valid=valid,
                next=_LITERAL_HINT,
            )
        late = self.marks.within(plain[:1] if name == "oc.select" else plain)
        if late:
            raise _KeepWhole(late)
        if name in ARITHMETIC:
            try:
                return calculate(name, plain)
            except ValueError as error:
                raise _Wrong(str(error)) from error
        return self._select(plain, path) if name == "oc.select" else self._decode(plain, path)

    def _select(self, args: tuple[Any, ...], path: Path) -> Any:
        if len(args) not in (1, 2) or not isinstance(args[0], str):
            raise _Wrong("oc.select takes a key, and a default if you like")
        try:
            return self._reference(path, *_split(args[0]))
        except (_NoKey, _Missing):
            return args[1] if len(args) == 2 else None

    def _decode(self, args: tuple[Any, ...], path: Path) -> Any:
        if len(args) != 1 or not isinstance(args[0], str | None):
            raise _Wrong("oc.decode takes one text")
        return None if args[0] is None else self._parsed(args[0], path, "singleElement", "VALUE_MODE")

    def _env(self, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
        if len(args) not in (1, 2) or not isinstance(args[0], str) or not args[0]:
            raise _Wrong("oc.env takes the name of a variable, and a default if you like")
        variable = args[0]
        late = self.marks.within(variable)
        if late:
            raise _KeepWhole(late)
        if is_secret(variable) or "oc.env" in self.keep:
            reason = "secret" if is_secret(variable) else "oc.env"
            return self._kept("oc.env", variable, reason, tuple(map(_plain, args)), args_str)
        if variable in self.environ:
            value = self.environ[variable]
            if "\0" in value:
                raise _Wrong(f"the environment variable {variable} holds a NUL byte")
            return value
        if len(args) == 2:
            return None if args[1] is None else str(args[1])
        raise _Wrong(
            f"the environment variable {variable} is not set and has no default",
            next=f"export {variable}=... or write ${{oc.env:{variable},DEFAULT}}",
        )

    def _kept(
        self, name: str, variable: str | None, reason: str, args: tuple[Any, ...], args_str: tuple[str, ...]
    ) -> str:
        """A mark for an expression that stays; what it refers to inside the config is filled in."""
        source = f"${{{name}:{','.join(args_str)}}}"
        late = (Late(variable, reason, source), *self.marks.within(args))
        filled = [
            text if "${" not in text else self._argument(arg, late) for arg, text in zip(args, args_str)
        ]
        text = f"${{{name}:{','.join(filled)}}}"
        return self.marks.put(text, (Late(variable, reason, text), *late[1:]))

    def _argument(self, value: Any, late: tuple[Late, ...]) -> str:
        """A value as an argument of an expression. Raises _KeepWhole where that is not simple."""
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, int | float):
            return repr(value)
        if not isinstance(value, str) or re.search(r"['\\\0]|\$\{", value):
            raise _KeepWhole(late)
        return f"'{value}'"

    def _written(self, value: Any, path: Path) -> Any:
        """A value as `Resolved.data` holds it; notes its late expressions and numbers JSON has not."""
        if isinstance(value, dict):
            return {name: self._written(inner, (*path, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._written(inner, (*path, index)) for index, inner in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            self._note(
                path, _Wrong(f"{value} is not a number that JSON can hold", next="write a finite number")
            )
        if not isinstance(value, str):
            return value
        key = dotted(path)
        self.late += [LateValue(key, o.variable, o.reason, o.expression) for o in self.marks.within(value)]
        return self.marks.written(value)


def _wrapped(value: Any) -> Any:
    return _Container(value) if isinstance(value, dict | list) else value


def _plain(value: Any) -> Any:
    """A value that came out of the grammar, in plain types."""
    if isinstance(value, _Container):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise _Wrong(f"a key must be text, {wrong[0]!r} is none", next="put it in quotes")
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value


def _split(key: str) -> tuple[int, list[str]]:
    """A reference as its leading dots and its parts; `a[0].b` is `a.0.b`."""
    names = key.lstrip(".")
    parts = names.replace("[", ".").replace("]", "").split(".")
    return len(key) - len(names), [part for part in parts if part]


def _step(node: Any, part: str) -> str | int | None:
    """The key or index of `part` in a container, None when it has none."""
    if isinstance(node, list):
        return list_index(node, part)
    return part if isinstance(node, dict) and part in node else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
