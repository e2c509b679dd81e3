"""JSON text to values and back: by orjson where it is installed (the extra `data`), else by `json`.

Both ways give the same: NaN, infinity and halves of characters are refused, floats come back digit by digit,
the last of two equal keys counts. In one thing orjson differs: it makes a float of an integer that does not
fit 64 bits. See `has_huge_number`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

_HUGE = float(1 << 63)


class TooDeepError(ValueError):
    """A value is nested deeper than JSON is read or written here."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


@cache
def codec() -> tuple[Callable[[bytes | str], Any], Callable[[Any], bytes]]:
    """The functions `loads(text) -> value` and `dumps(value) -> bytes`; both raise ValueError or TypeError,
    `TooDeepError` among them.

    Fetch them once per block, not per row.
    """
    try:
        import orjson
    except ImportError:
        return exact_loads, exact_dumps

    def dumps(value: Any) -> bytes:
        try:
            return orjson.dumps(value)
        except TypeError:  # an integer beyond 64 bits, which only `exact_loads` lets in
            return exact_dumps(value)

    return orjson.loads, dumps


def exact_loads(text: bytes | str) -> Any:
    """As the standard library reads it, integers of any size included."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise TooDeepError from None
    return value


def exact_dumps(value: Any) -> bytes:
    """Compact JSON by the standard library. Raises `TooDeepError`."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise TooDeepError from None
    return text.encode("utf-8")


def has_huge_number(value: Any) -> bool:
    """Whether a value holds a float that may have been an integer beyond 64 bits in the text.

    Who copies numbers from a row asks this of what he copies, and reads the line again with `exact_loads`
    where it is so.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is dict:
            pending += item.values()
        elif kind is list:
            pending += item
        elif kind is float and not -_HUGE < item < _HUGE:
            return True
    return False


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    """A float; as infinity it would be written as no JSON, or as null."""
    value = float(text)
    if value in (math.inf, -math.inf):
        raise ValueError(f"{text:.40} is too large a number")
    return value
