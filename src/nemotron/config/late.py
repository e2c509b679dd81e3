"""Values that only the job's machine can give, on their way through other values.

While a config is resolved, such an expression is a mark inside ordinary text, so that it survives
being referred to, copied and joined with other text. A mark holds NUL bytes, which neither a config
nor an environment variable can contain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_MARK = re.compile("\0([0-9]+)\0")
_LITERAL = re.compile(r"(\\*)\$\{")


@dataclass(frozen=True)
class Late:
    """One expression left as it is: the variable it reads, if any, why it stays, its text."""

    variable: str | None
    reason: str
    expression: str


@dataclass(frozen=True)
class _Marked:
    text: str
    late: tuple[Late, ...]


@dataclass
class Marks:
    """The marks handed out during one resolution."""

    marked: list[_Marked] = field(default_factory=list)

    def put(self, text: str, late: tuple[Late, ...]) -> str:
        """A mark that will be written as `text`, which holds the expressions in `late`."""
        self.marked.append(_Marked(text, late))
        return f"\0{len(self.marked) - 1}\0"

    def within(self, value: Any) -> tuple[Late, ...]:
        """The late expressions anywhere inside a value."""
        if isinstance(value, str):
            return tuple(late for number in _MARK.findall(value) for late in self.marked[int(number)].late)
        inner = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        )
        return tuple(late for item in inner for late in self.within(item))

    def written(self, value: str) -> str:
        """Text as OmegaConf would read it: expressions live, every other `${` escaped."""
        pieces = _MARK.split(value)
        text = _escaped(pieces[0])
        for number, literal in zip(pieces[1::2], pieces[2::2], strict=True):
            expression = self.marked[int(number)].text
            if expression.startswith("${"):
                # Backslashes before an interpolation are read in pairs.
                text += "\\" * (len(text) - len(text.rstrip("\\")))
            text += expression + _escaped(literal)
        return text


def _escaped(literal: str) -> str:
    return _LITERAL.sub(lambda found: found[1] * 2 + "\\${", literal)
