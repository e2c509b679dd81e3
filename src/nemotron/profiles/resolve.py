"""`${oc.env:...}` in a profile: filled in when the profile is asked for, secrets excepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import UsageError
from nemotron.findings import Finding
from nemotron.profiles.extend import Path
from nemotron.profiles.profile import Origin

_ESCAPED = re.compile(r"(\\*)\\\$\{")


@dataclass(frozen=True)
class Filled:
    """A profile's values after interpolation.

    late: dotted key -> the expressions of secrets that its text still holds.
    problem: why nothing was filled in; `values` are as written then.
    """

    values: dict[str, Any]
    late: Mapping[str, tuple[str, ...]]
    problem: Finding | None = None


def filled(values: dict[str, Any], origins: Mapping[Path, Origin], environ: Mapping[str, str]) -> Filled:
    """The values with every interpolation filled in from `environ` and from each other."""
    if not holds_interpolation(values):
        return Filled(values, {})
    from nemotron.config.config import Config
    from nemotron.config.config import Origin as Source
    from nemotron.config.keys import leaves

    history: dict[str, tuple[Source, ...]] = {}
    for path, origin in origins.items():
        source = Source("file", origin.place)
        value: Any = values
        for part in path:
            value = value[part]
        for key, _ in leaves(value, ".".join(path)):
            history[key] = (source,)
    try:
        resolved = Config(values, history).resolve(environ)
    except UsageError as error:
        near = f"; nearest: {', '.join(error.nearest)}" if error.nearest else ""
        return Filled(
            values,
            {},
            Finding("profiles.unresolved", "error", error.what + near, error.where, fix=error.next),
        )
    late: dict[str, tuple[str, ...]] = {}
    for each in resolved.late:
        late[each.key] = (*late.get(each.key, ()), each.expression)
    return Filled(_literal(resolved.data), late)


def _literal(value: Any) -> Any:
    """`value` with its escapes taken away: a profile is interpolated once, a config again by its trainer."""
    if isinstance(value, dict):
        return {part: _literal(inner) for part, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return _ESCAPED.sub(lambda found: found[1][: len(found[1]) // 2] + "${", value)


def holds_interpolation(value: Any) -> bool:
    """Whether an interpolation is anywhere in a value."""
    if isinstance(value, str):
        return "${" in value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(holds_interpolation, inner))
