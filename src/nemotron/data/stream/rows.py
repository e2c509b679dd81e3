"""A line as a row, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_TEXT = 100


class Rejected(NamedTuple):
    """Why a row is left out.

    reason: one stable word (`invalid_json`, `reward_below_threshold`), counted in reports.
    what: what is wrong with this row, one short sentence.
    """

    reason: str
    what: str


TOO_DEEP = Rejected("too_deep", "a value is nested too deeply to be written")


def parse_row(line: bytes, loads: Callable[[bytes | str], Any]) -> dict[str, Any] | Rejected:
    """The JSON object in a line; `loads` is that of `jsontext.codec`."""
    try:
        row = loads(line)
    except ValueError as exc:
        return _unparsed(line, exc)
    if type(row) is dict:
        return row
    kind = "null" if row is None else type(row).__name__
    return Rejected("not_an_object", f"the row is no JSON object but {kind}")


def _unparsed(line: bytes, exc: ValueError) -> Rejected:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return Rejected("not_utf8", f"not UTF-8 at byte {wrong.start + 1} of the line")
    said = str(exc).encode("ascii", "backslashreplace").decode("ascii")
    return Rejected("invalid_json", f"not JSON: {said[:_TEXT]}")
