"""Where a value came from: every source that set a key, in order, the winner marked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from nemotron.config.config import Config, Origin
from nemotron.config.keys import dotted, leaves, locate, value_at
from nemotron.errors import NotFound


@dataclass(frozen=True)
class Explanation:
    """What set a key, or the keys of a section.

    value: the final value, interpolations still text; of a section all of it.
    sources: for a single value, oldest first, the winner last.
    keys: for a section or list, each value below it with the place that set it.
    """

    key: str
    value: Any
    sources: tuple[Origin, ...]
    keys: tuple[tuple[str, Any, str], ...]

    def render(self) -> str:
        """The explanation as text, one source or key a line; `*` marks the winner."""
        if self.keys:
            rows = [(f"{key} = {_shown(value)}", place) for key, value, place in self.keys]
            width = max(len(text) for text, _ in rows)
            count = f"{len(rows)} value" + ("s" if len(rows) > 1 else "")
            return "\n".join(
                [f"{self.key}: {count}", *(f"  {text:<{width}}  {place}" for text, place in rows)]
            )
        width = max((len(source.place) for source in self.sources), default=0)
        lines = [f"{self.key} = {_shown(self.value)}"]
        for source in self.sources:
            mark = "*" if source is self.sources[-1] else " "
            lines.append(f"  {mark} {source.place:<{width}}  {source.text}".rstrip())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The explanation as `--json` prints it."""
        last = len(self.sources) - 1
        return {
            "key": self.key,
            "value": self.value,
            "sources": [
                {**asdict(source), "place": source.place, "winner": position == last}
                for position, source in enumerate(self.sources)
            ],
            "keys": [{"key": key, "value": value, "place": place} for key, value, place in self.keys],
        }


def explain(config: Config, key: str) -> Explanation:
    """Where the value of a key, or of every key of a section, came from.

    Raises NotFound with the nearest keys.
    """
    path = locate(config.data, key)
    if path is None:
        raise NotFound(f"{key} is not a key of this config", nearest=config.nearest(key))
    name, value = dotted(path), config.get(key)
    if isinstance(value, dict | list) and value:
        rows = [
            (leaf, inner, config.history[leaf][-1].place)
            for leaf, inner in leaves(value_at(config.data, path), name)
        ]
        return Explanation(name, value, (), tuple(rows))
    return Explanation(name, value, config.origins(name), ())


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
