"""What a manifest tells people: parameters, strategies, known errors and models.

Apart from the step itself, because `steps list` reads none of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemotron.catalog.toml_table import TomlTable


@dataclass(frozen=True)
class Parameter:
    """A documented config key. `default` is None where the manifest gives none.

    alias_of: the config key that is meant, when `name` is another word for it.
    """

    name: str
    description: str = ""
    default: object = None
    choices: tuple[object, ...] = ()
    alias_of: str | None = None

    @property
    def key(self) -> str:
        """The config key it sets."""
        return self.alias_of or self.name


@dataclass(frozen=True)
class Strategy:
    """Advice: in situation `when`, do `then`."""

    when: str
    then: str
    skill: str | None = None


@dataclass(frozen=True)
class KnownError:
    """A failure users meet. `match` is a regular expression to look for in a failed run's log."""

    name: str
    recovery: str
    skill: str | None = None
    match: str | None = None


@dataclass(frozen=True)
class ModelChoice:
    """A model known to work with the step."""

    name: str
    description: str = ""
    default: bool = False
    min_gpus: int | None = None


def matching_errors(errors: Sequence[KnownError], log: str) -> tuple[KnownError, ...]:
    """The known errors whose `match` is found in a log; a broken expression matches nothing."""
    found = []
    for known in errors:
        try:
            if known.match is not None and re.search(known.match, log):
                found.append(known)
        except re.error:
            continue  # lint names it
    return tuple(found)


def read_parameters(manifest: TomlTable) -> tuple[Parameter, ...]:
    """The `[[parameters]]`. Raises ManifestError on a value of the wrong type, as all readers here."""
    return tuple(
        Parameter(
            name=entry.required_text("name"),
            description=entry.text("description"),
            default=entry.values.get("default"),
            choices=tuple(entry.items("choices")),
            alias_of=entry.optional_text("alias_of"),
        )
        for entry in manifest.tables("parameters")
    )


def read_strategies(manifest: TomlTable) -> tuple[Strategy, ...]:
    """The `[[strategies]]`."""
    return tuple(
        Strategy(entry.text("when"), entry.text("then"), entry.optional_text("skill"))
        for entry in manifest.tables("strategies")
    )


def read_known_errors(manifest: TomlTable) -> tuple[KnownError, ...]:
    """The `[[errors]]`."""
    return tuple(
        KnownError(
            name=entry.required_text("name"),
            recovery=entry.text("recovery"),
            skill=entry.optional_text("skill"),
            match=entry.optional_text("match"),
        )
        for entry in manifest.tables("errors")
    )


def read_models(manifest: TomlTable) -> tuple[ModelChoice, ...]:
    """The `[[models]]`."""
    return tuple(
        ModelChoice(
            name=entry.required_text("name"),
            description=entry.text("description"),
            default=entry.flag("default", False),
            min_gpus=entry.number("min_gpus", 0) if "min_gpus" in entry else None,
        )
        for entry in manifest.tables("models")
    )
