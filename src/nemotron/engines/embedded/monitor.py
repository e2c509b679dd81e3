"""A score that is watched and never trained on: `embedded.monitor: module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.engines.embedded.reading import lookup
from nemotron.errors import UsageError


@dataclass(frozen=True)
class Monitor:
    """A function of one completion's text that gives a number."""

    name: str
    score: Callable[[str], float]


def load_monitor(config: Mapping[str, Any]) -> Monitor | None:
    """The monitor a config names, None without one. Raises UsageError when it cannot be imported."""
    named = lookup(config, "embedded.monitor")
    if named is None:
        return None
    module_name, _, function_name = str(named).partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as problem:
        raise UsageError(
            f"{named!r} cannot be imported: {problem}",
            where="embedded.monitor",
            next="name a function of one text as package.module:function",
        ) from problem
    if not callable(function):
        raise UsageError(f"{named!r} is no function", where="embedded.monitor")
    return Monitor(function_name, function)
