"""How much memory a JSON text would take, estimated from its bytes before anything is parsed.

A few bytes can ask for much: `{},` three times over is 9 bytes of text and 270 bytes of objects. Whatever
is read here stays below `BUDGET`, whoever wrote it.
"""

from __future__ import annotations

import re

from .report import Problem

BUDGET = 160 << 20

# Below this size even the most wasteful text (a row of `{"":0}`) stays far below the budget.
HARMLESS = 1 << 20
# Bytes that CPython 3.11 to 3.14 takes for what each of these characters brings, measured and rounded up:
# an item with its slot, a key with its entry, half a string, an object, a list.
_COSTS = ((b",", 44), (b":", 140), (b'"', 32), (b"{", 130), (b"[", 80))
_WIDE = re.compile(rb"[\xf0-\xff]")
_MIDDLE = re.compile(rb"[\xc4-\xff]")


def text_width(data: bytes) -> int:
    """Bytes that Python takes for every character of the UTF-8 text in `data`: the widest one decides."""
    if data.isascii():
        return 1
    if _WIDE.search(data):
        return 4
    return 2 if _MIDDLE.search(data) else 1


def json_cost(data: bytes) -> int:
    """At most how many bytes it takes to hold `data`, its text and the JSON values in it at once."""
    width = text_width(data)
    values = 4 if b"\\u" in data else width
    cost = len(data) * (1 + width + values)
    return cost + sum(data.count(mark) * price for mark, price in _COSTS)


def too_costly(data: bytes, budget: int = BUDGET) -> Problem | None:
    """Why the JSON text in `data` is not parsed: it would take more than `budget` bytes."""
    if len(data) <= HARMLESS:
        return None
    cost = json_cost(data)
    if cost <= budget:
        return None
    what = f"{len(data):,} bytes of JSON that would take {cost >> 20} MiB to read, not read"
    return Problem("data.too_costly", what, valid=f"at most {budget >> 20} MiB")
