"""Every interpolation of a config replaced by its value.

OmegaConf keeps resolvers in a table of the process and reads `os.environ`; its grammar needs
neither. So two configs resolve side by side with different environments, every problem is found in
one pass, and a secret is not read at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from nemotron.config.grammar import LITERAL_HINT, Wrong, decode, evaluate, plain, split_reference
from nemotron.config.keys import Path, all_keys, dotted, list_index, value_at
from nemotron.config.late import Late, Marks
from nemotron.config.problems import one_error
from nemotron.config.resolvers import ARITHMETIC, NAMES, calculate, is_secret
from nemotron.errors import UsageError, nearest

if TYPE_CHECKING:
    from nemotron.config.config import Config

MISSING = "???"
# Each step of a chain takes a dozen frames, Python stops at a thousand.
MAX_CHAIN = 25
# References to references double with every line: 40 lines of `${a}${a}` are a terabyte.
MAX_VALUES = 100_000
MAX_TEXT = 16 * 1024 * 1024


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


class _NoKey(Wrong):
    """A reference to a key that does not exist."""


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
    chain: int = 0
    marks: Marks = field(default_factory=Marks)
    problems: list[UsageError] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    late: list[LateValue] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    inserted: int = 0
    written: int = 0

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
            raise type(known)
        return known

    def _outcome(self, path: Path) -> Any:
        """The value at a path, or the `_Stop` that says why there is none."""
        if path in self.stack:
            circle = [dotted(p) for p in (*self.stack[self.stack.index(path) :], path)]
            return self._note(path, Wrong(f"refers to itself: {' -> '.join(circle)}"))
        raw = value_at(self.root, path)
        self.stack.append(path)
        try:
            if isinstance(raw, dict):
                return self._bounded({name: self._child((*path, name)) for name in raw})
            if isinstance(raw, list):
                return self._bounded([self._child((*path, index)) for index in range(len(raw))])
            return self._bounded(self._text(raw, path)) if isinstance(raw, str) else raw
        except Wrong as wrong:
            return self._note(path, wrong)
        except _Stop as stop:
            return stop
        finally:
            self.stack.pop()

    def _bounded(self, value: Any) -> Any:
        if self._size(value) > MAX_VALUES:
            raise Wrong(f"stands for more than {MAX_VALUES} values once its references are filled in")
        return value

    def _size(self, value: Any) -> int:
        """How many values there are in a value; shared parts are counted each time, but looked at once."""
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in self.sizes:
            inner = value.values() if isinstance(value, dict) else value
            self.sizes[id(value)] = 1 + sum(map(self._size, inner))
        return self.sizes[id(value)]

    def _note(self, path: Path, wrong: Wrong) -> _Failed:
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
            raise Wrong("the text holds a NUL byte")
        value = self._evaluated(raw, path) if "${" in raw else raw
        if value == MISSING:
            self.missing[dotted(path)] = None
            raise _Missing
        return value

    def _evaluated(self, raw: str, path: Path) -> Any:
        if self.chain == MAX_CHAIN:
            raise Wrong(f"a chain of more than {MAX_CHAIN} references")
        self.chain += 1
        try:
            return evaluate(raw, partial(self._referred, path), partial(self._call, path))
        except _KeepWhole as whole:
            return self.marks.put(raw, whole.late)
        finally:
            self.chain -= 1

    def _referred(self, path: Path, dots: int, parts: list[str]) -> Any:
        value = self._reference(path, dots, parts)
        if isinstance(value, str):
            self.inserted += len(value)
            if self.inserted > MAX_TEXT:
                raise Wrong("references fill in more than 16 MB of text")
        return value

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
        return _NoKey(f"${{{shown}}} refers to a key that does not exist", nearest=close, next=LITERAL_HINT)

    def _call(self, path: Path, name: str, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
        if name == "oc.env":
            return self._env(args, args_str)
        values = tuple(map(plain, args))
        if name in self.keep:
            return self._kept(name, None, name, values, args_str)
        if name not in NAMES:
            valid = tuple(sorted({*NAMES, *self.keep}))
            close = nearest(name, valid)
            raise Wrong(f"there is no resolver {name!r}", nearest=close, valid=valid, next=LITERAL_HINT)
        late = self.marks.within(values[:1] if name == "oc.select" else values)
        if late:
            raise _KeepWhole(late)
        if name in ARITHMETIC:
            try:
                return calculate(name, values)
            except ValueError as error:
                raise Wrong(str(error)) from error
        return self._select(path, values) if name == "oc.select" else self._decode(path, values)

    def _select(self, path: Path, args: tuple[Any, ...]) -> Any:
        if len(args) not in (1, 2) or not isinstance(args[0], str):
            raise Wrong("oc.select takes a key, and a default if you like")
        try:
            return self._reference(path, *split_reference(args[0]))
        except (_NoKey, _Missing):
            return args[1] if len(args) == 2 else None

    def _decode(self, path: Path, args: tuple[Any, ...]) -> Any:
        if len(args) != 1 or not isinstance(args[0], str | None):
            raise Wrong("oc.decode takes one text")
        if args[0] is None:
            return None
        return decode(args[0], partial(self._referred, path), partial(self._call, path))

    def _env(self, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
        if len(args) not in (1, 2) or not isinstance(args[0], str) or not args[0]:
            raise Wrong("oc.env takes the name of a variable, and a default if you like")
        variable = args[0]
        late = self.marks.within(variable)
        if late:
            raise _KeepWhole(late)
        if is_secret(variable) or "oc.env" in self.keep:
            reason = "secret" if is_secret(variable) else "oc.env"
            return self._kept("oc.env", variable, reason, tuple(map(plain, args)), args_str)
        if variable in self.environ:
            value = self.environ[variable]
            if "\0" in value:
                raise Wrong(f"the environment variable {variable} holds a NUL byte")
            return value
        if len(args) == 2:
            return None if args[1] is None else str(args[1])
        raise Wrong(
            f"the environment variable {variable} is not set and has no default",
            next=f"export {variable}=... or write ${{oc.env:{variable},DEFAULT}}",
        )

    def _kept(
        self, name: str, variable: str | None, reason: str, args: tuple[Any, ...], args_str: tuple[str, ...]
    ) -> str:
        """A mark for an expression that stays; what it refers to inside the config is filled in."""
        inner = self.marks.within(args)
        whole = (Late(variable, reason, _expression(name, args_str)), *inner)
        filled = list(args_str)
        for position, text in enumerate(args_str):
            if "${" in text:
                literal = _as_argument(args[position])
                if literal is None:
                    raise _KeepWhole(whole)
                filled[position] = literal
        text = _expression(name, filled)
        return self.marks.put(text, (Late(variable, reason, text), *inner))

    def _written(self, value: Any, path: Path) -> Any:
        """A value as `Resolved.data` holds it; notes its late expressions and numbers JSON has not."""
        self.written += 1
        if self.written > MAX_VALUES:
            raise UsageError(
                f"the config has more than {MAX_VALUES} values once its references are filled in"
            )
        if isinstance(value, dict):
            return {name: self._written(inner, (*path, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._written(inner, (*path, index)) for index, inner in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            self._note(
                path, Wrong(f"{value} is not a number that JSON can hold", next="write a finite number")
            )
        if not isinstance(value, str):
            return value
        key = dotted(path)
        for late in dict.fromkeys(self.marks.within(value)):
            self.late.append(LateValue(key, late.variable, late.reason, late.expression))
        return self.marks.written(value)


def _expression(name: str, args: tuple[str, ...] | list[str]) -> str:
    return f"${{{name}:{','.join(args)}}}"


def _as_argument(value: Any) -> str | None:
    """A value as an argument is written, None where that is not simple."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    simple = isinstance(value, str) and not re.search(r"['\\\0]|\$\{", value)
    return f"'{value}'" if simple else None


def _step(node: Any, part: str) -> str | int | None:
    """The key or index of `part` in a container, None when it has none."""
    if isinstance(node, list):
        return list_index(node, part)
    return part if isinstance(node, dict) and part in node else None
