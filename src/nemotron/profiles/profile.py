"""One profile, ready to use: every value with where it came from, and no secret among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.errors import UsageError
from nemotron.findings import Finding
from nemotron.profiles.mounts import Mount, parse_mount

HIDDEN = "(secret)"


@dataclass(frozen=True)
class Origin:
    """Where a value was written: file, line, and which profile of the `extends` chain."""

    file: Path
    line: int | None
    profile: str

    @property
    def place(self) -> str:
        """`file:line`."""
        return printable(self.file) + (f":{self.line}" if self.line else "")


@dataclass(frozen=True)
class Secret:
    """A secret that the job gets: by name, never its value.

    name: the variable as the job sees it; for other values than env_vars, the key.
    variable: the variable that is read here, at submission; None where the profile itself holds the value.
    key: the dotted key of the profile that asks for it.
    optional: nothing is wrong when the variable is not set.
    """

    name: str
    variable: str | None
    key: str
    optional: bool = False


@dataclass(frozen=True)
class Profile:
    """A profile with all it extends, interpolations filled in, secrets taken out.

    executor: one of `keys.EXECUTOR_NAMES`, or what the file says in its place (then `findings` say so).
    file: where the profile itself is written.
    extends: the profiles it is based on, the nearest first.
    values: JSON-like values of the keys that the executor reads, without `executor` and `extends`. Where a
        secret was, a reference (`${oc.env:HF_TOKEN}`) or `(secret)` is left.
    origins: dotted key of each value that is no table -> where it was written; `executor`, and keys that
        are not read, too.
    findings: what was noticed; an error among them makes `Profiles.get` refuse the profile.
    """

    name: str
    executor: str
    file: Path
    extends: tuple[str, ...]
    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    secrets: tuple[Secret, ...] = ()
    findings: tuple[Finding, ...] = ()
    _literals: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a top-level key; an empty text counts as none."""
        value = self.values.get(key, "")
        return default if value == "" else value

    @property
    def image(self) -> str | None:
        """The container image, under its present or its earlier name."""
        image: str | None = self.get("container_image", self.get("container"))
        return image

    @property
    def env_vars(self) -> dict[str, str]:
        """The environment of the job, secrets excepted."""
        hidden = {secret.key for secret in self.secrets}
        items = self.get("env_vars", {}).items()
        return {name: str(value) for name, value in items if f"env_vars.{name}" not in hidden}

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What the container sees of the node, `lustre_mount` last."""
        lustre = self.get("lustre_mount")
        return tuple(map(parse_mount, [*self.get("mounts", ()), *([lustre] if lustre else ())]))

    def secret_value(self, secret: Secret, environ: Mapping[str, str]) -> str | None:
        """The value of one of `secrets`, to be handed to the job and written nowhere else.

        None for an optional one that is not set. Raises UsageError for any other that is not set.
        """
        if secret.variable is None:
            return self._literals[secret.key]
        value = environ.get(secret.variable, "")
        if value or secret.optional:
            return value or None
        origin = self.origins.get(secret.key)
        raise UsageError(
            f"the environment variable {secret.variable} is not set; profile {self.name} hands it on",
            where=origin.place if origin else None,
            next=f"export {secret.variable}=...",
        )

    def as_dict(self) -> dict[str, Any]:
        """The profile as JSON; no secret is in it."""
        return {
            "name": self.name,
            "executor": self.executor,
            "file": printable(self.file),
            "extends": list(self.extends),
            "values": dict(self.values),
            "origins": {
                key: {"file": printable(origin.file), "line": origin.line, "profile": origin.profile}
                for key, origin in self.origins.items()
            },
            "secrets": [
                {"name": s.name, "variable": s.variable, "key": s.key, "optional": s.optional}
                for s in self.secrets
            ],
            "findings": [finding.as_dict() for finding in self.findings],
        }
