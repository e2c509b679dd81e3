"""What an unquoted YAML word means: null, true, 8, 1e-8 or text.

The rules are those of the trainers' own loader (YAML 1.1, with `1e-8` a number and dates kept as
text), with one difference: `12:30:00` stays text. YAML 1.1 reads it as 45000 in base 60, which no
writer of a walltime ever meant.
"""

from __future__ import annotations

import re

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {
    spelling: value
    for word, value in (
        ("true", True),
        ("yes", True),
        ("on", True),
        ("false", False),
        ("no", False),
        ("off", False),
    )
    for spelling in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_MAY_BE_NUMBER = frozenset("+-.0123456789")


def plain_scalar(text: str) -> bool | int | float | str | None:
    """The value of an unquoted word.

    Raises ValueError for a number that has no value, such as `0x_` or one of 5000 digits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in _MAY_BE_NUMBER:
        return text
    if _INT.fullmatch(text):
        return whole_number(text)
    if _FLOAT.fullmatch(text):
        return fraction(text)
    return text


def whole_number(text: str) -> int:
    """`text` as an int: decimal, `0x1f`, `0b11` or, with a leading zero, octal."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").replace("_", "")
    for prefix, base in (("0b", 2), ("0x", 16), ("0", 8)):
        if digits.startswith(prefix) and digits != "0":
            return sign * int(digits[len(prefix) :], base)
    return sign * int(digits)


def fraction(text: str) -> float:
    """`text` as a float, `.inf` and `.nan` included."""
    word = text.replace("_", "").lower()
    return float(word.replace(".inf", "inf").replace(".nan", "nan"))
