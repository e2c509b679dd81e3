"""Documented parameters that are another name of a config key (`alias_of` in the manifest)."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron.catalog.step import Step
from nemotron.config.config import Config
from nemotron.config.overrides import apply_overrides
from nemotron.errors import UsageError


def apply_aliases(step: Step, config: Config, overrides: Sequence[str]) -> Config:
    """`config` with `overrides` applied, an alias counting as the key it stands for.

    Raises UsageError when an alias and its key are both given, and for whatever `apply_overrides` refuses.
    """
    aliases = {p.name: p.alias_of for p in step.parameters if p.alias_of is not None}
    if not aliases or not overrides:
        return apply_overrides(config, overrides)
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    for alias, key in aliases.items():
        if alias in given and key in given:
            raise UsageError(
                f"{alias} is another name of {key}", where="command line", next="give one of them"
            )
    return apply_overrides(config, [_renamed(text, aliases) for text in overrides])


def _renamed(text: str, aliases: dict[str, str]) -> str:
    key, equals, value = text.partition("=")
    target = aliases.get(key.lstrip("+"))
    return f"{target}{equals}{value}" if target is not None and equals else text
