"""What is asked of a place: a profile and the config's `run.env`, put together by one rule.

The recipe owns image and shape, the profile owns logistics, the command line comes last:

- image, nodes, GPUs and processes of a node: the config's `run.env` wins over the profile;
- everything else: the profile wins over the config; env_vars are merged, mounts are joined;
- what is typed on the command line (`run.env.KEY=VALUE`) wins over both.

A value that loses is told, with what it lost against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemotron.config.config import Config
from nemotron.errors import UsageError, nearest
from nemotron.profiles.keys import KEYS, readers_of
from nemotron.profiles.profile import Profile

SECTION = "run.env"
# Keys of the recipe: what a config says of them counts more than what a profile says.
SHAPE_KEYS = (
    *("container_image", "container", "nodes", "gpus_per_node"),
    *("ntasks_per_node", "nproc_per_node", "nprocs_per_node"),
)
_BY_NAME = {key.name: key for key in KEYS}
_MERGED, _JOINED = ("env_vars",), ("mounts",)


def is_key(name: str) -> bool:
    """Whether a place has a key of this name."""
    return name in _BY_NAME


class Wishes:
    """The values of a profile and of a config's `run.env`, and which of them count.

    profile: None for this machine without one. values: `run.env` with interpolations filled in.
    """

    def __init__(self, profile: Profile | None, config: Config, values: Mapping[str, Any]) -> None:
        self.profile = profile
        self.ignored: list[tuple[str, str]] = []
        self._config = config
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._of_config: set[str] = set()
        for name, value in (profile.values if profile else {}).items():
            self._values[name] = value
            self._sources[name] = self._of_profile(name)
        for name, value in values.items():
            self._add(name, value)

    def get(self, name: str, default: Any = None) -> Any:
        """The value that counts; an empty text counts as none."""
        value = self._values.get(name, "")
        return default if value == "" else value

    def source(self, name: str) -> str | None:
        """Where the value that counts was written; None where nobody says anything."""
        return self._sources.get(name) if self.get(name) is not None else None

    def is_of_config(self, name: str) -> bool:
        """Whether a config or the command line gave the value that counts."""
        return name in self._of_config

    def names(self) -> tuple[str, ...]:
        """Every key that has a value."""
        return tuple(self._values)

    def ignore(self, name: str, why: str) -> None:
        """Tell that a value has no effect here."""
        if self.source(name) is not None:
            self.ignored.append((f"{name} = {self.get(name)} ({self.source(name)})", why))

    def _add(self, name: str, value: Any) -> None:
        key = f"{SECTION}.{name}"
        place = self._config.place(key) if self._config.has(key) else SECTION
        known = _BY_NAME.get(name)
        if known is None:
            raise UsageError(
                f"{key} is no key of a place",
                where=place,
                nearest=nearest(name, _BY_NAME),
                next="docs/profiles.md has them all",
            )
        wrong = known.kind.problem(value)
        if wrong:
            raise UsageError(f"{key} {wrong}", where=place, valid=(known.example,))
        if self.profile is not None and self.profile.executor not in (readers_of(name) or ("",)):
            self.ignored.append((f"{key} = {value} ({place})", f"{self.profile.executor} does not read it"))
            return
        typed = self._is_typed(key)
        if name in _MERGED:
            mine = self._values.get(name) or {}
            self._values[name] = {**mine, **value} if typed else {**value, **mine}
        elif name in _JOINED:
            self._values[name] = [*value, *(self._values.get(name) or ())]
        elif name not in self._values or typed or name in SHAPE_KEYS:
            self._lost(name, self._sources.get(name), value, place)
            self._values[name] = value
        else:
            why = f"{self._sources[name]} says {self._values[name]}"
            self.ignored.append((f"{key} = {value} ({place})", why))
            return
        self._sources[name] = place
        self._of_config.add(name)

    def _lost(self, name: str, source: str | None, value: Any, place: str) -> None:
        if source is not None and self._values[name] not in ("", value):
            self.ignored.append((f"{name} = {self._values[name]} ({source})", f"{place} says {value}"))

    def _is_typed(self, key: str) -> bool:
        leaves = [key, *(k for k in self._config.history if k.startswith(key + "."))]
        return any(o.kind == "override" for leaf in leaves for o in self._config.origins(leaf)[-1:])

    def _of_profile(self, name: str) -> str:
        assert self.profile is not None
        origin = self.profile.origins.get(name)
        return f"profile {origin.profile if origin else self.profile.name}" + (
            f", {origin.place}" if origin else ""
        )
