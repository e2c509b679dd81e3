"""The resolvers a config may call: `${mul:2,3}`, `${oc.env:HOME}` and their kin.

The arithmetic is that of NeMo-RL v0.6.0, two numbers each, `div` always a float. Only numbers are
taken: there, `${mul:${oc.env:N},2}` with N=4 is the text "44".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

NAMES = ("add", "div", "max", "mul", "oc.decode", "oc.env", "oc.select")

_SECRET_WORDS = frozenset(
    ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "APIKEY"),
)

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": lambda a, b: max(a, b),
}
ARITHMETIC = frozenset(_ARITHMETIC)


def is_secret(variable: str) -> bool:
    """Whether an environment variable is taken to hold a secret, by the whole words of its name.

    HF_TOKEN and WANDB_API_KEY are secrets; MAX_TOKENS, TOKENIZER and KEYBOARD are not.
    """
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^A-Z]+", variable.upper()))


def calculate(name: str, args: tuple[Any, ...]) -> int | float:
    """The value of an arithmetic resolver. Raises ValueError with what is wrong, in words."""
    if len(args) != 2:
        raise ValueError(f"{name} takes 2 numbers, here are {len(args)}")
    for value in args:
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "; use ${oc.decode:...} for a number in a text" if isinstance(value, str) else ""
            raise ValueError(f"{name} takes numbers, {value!r} is none{hint}")
    try:
        result: int | float = _ARITHMETIC[name](*args)
    except ZeroDivisionError as error:
        raise ValueError(f"{name} divides {args[0]} by 0") from error
    except OverflowError as error:
        raise ValueError(f"{name} of {args[0]} and {args[1]} is too large") from error
    return result
