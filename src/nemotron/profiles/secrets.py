"""Takes secrets out of a profile: what is left names them and does not hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemotron.config.resolvers import is_secret
from nemotron.findings import Finding
from nemotron.profiles.kinds import is_variable
from nemotron.profiles.profile import HIDDEN, Secret

_REFERENCE = re.compile(r"\$\{oc\.env:\s*['\"]?([A-Za-z_]\w*)['\"]?\s*(,.*)?\}", re.ASCII | re.DOTALL)
_PATH = re.compile(r"~?/[\w./-]*")
# How the tokens of services that jobs use begin. Names are looked at first; this is for the rest.
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16}|nvapi-[\w-]{16}|sk-[\w-]{16}|gh[pousr]_[A-Za-z0-9]{16}|github_pat_\w{16}"
    r"|glpat-[\w-]{16}|xox[abp]-[\w-]{10}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.)"
)
# Shorter ones stand in other texts by chance.
_TELLING = 8

Key = tuple[str | int, ...]


@dataclass
class _Sorting:
    """One pass over the values of one profile."""

    late: Mapping[str, tuple[str, ...]]
    raw: Mapping[str, Any]
    place: Callable[[Key], str]
    secrets: list[Secret] = field(default_factory=list)
    literals: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def without_secrets(
    values: Mapping[str, Any],
    raw: Mapping[str, Any],
    late: Mapping[str, tuple[str, ...]],
    place: Callable[[Key], str],
) -> tuple[dict[str, Any], tuple[Secret, ...], dict[str, str], tuple[Finding, ...]]:
    """A profile's values with each secret replaced, the secrets, the values of literal ones, findings.

    values: interpolations filled in, but for those of secrets.
    raw: the same before.
    late: dotted key -> the expressions of secrets that are left in its text.
    place: `file:line` of a key.
    """
    sorting = _Sorting(late, raw, place)
    left = {key: _sorted(sorting, value, (key,), key) for key, value in values.items()}
    left = {key: _scrubbed(sorting, value, (key,)) for key, value in left.items()}
    known = {secret.name for secret in sorting.secrets}
    for name in left["secrets"] if isinstance(left.get("secrets"), list) else ():
        if isinstance(name, str) and is_variable(name) and name not in known:
            known.add(name)
            sorting.secrets.append(Secret(name, name, "secrets"))
    return left, tuple(sorting.secrets), sorting.literals, tuple(sorting.findings)


def _sorted(sorting: _Sorting, value: Any, key: Key, name: str) -> Any:
    if isinstance(value, dict):
        return {part: _sorted(sorting, inner, (*key, part), part) for part, inner in value.items()}
    if isinstance(value, list):
        return [_sorted(sorting, inner, (*key, position), name) for position, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    dotted = ".".join(map(str, key))
    if dotted in sorting.late:
        return _referred(sorting, value, key, name)
    # secret_vars holds what secrets are called elsewhere; their variables are named as secrets are.
    if not _is_secret_text("" if key[0] == "secret_vars" else name, value):
        return value
    if not _may_be_secret(key, name):
        return _refused(sorting, key, f"{dotted} looks like a secret, and nothing treats it as one")
    if "${" not in str(_raw_at(sorting.raw, key)):
        what = f"{dotted} looks like a secret, written into the file"
        fix = f'export it, and write {name} = "${{oc.env:{name}}}"'
        sorting.findings.append(
            Finding("profiles.secret_in_file", "warning", what, sorting.place(key), fix=fix)
        )
    sorting.secrets.append(Secret(name, None, dotted))
    sorting.literals[dotted] = value
    return HIDDEN


def _referred(sorting: _Sorting, value: str, key: Key, name: str) -> str:
    """A text with the reference of a secret in it: nothing but the reference, in env_vars or the like."""
    dotted = ".".join(map(str, key))
    found = _REFERENCE.fullmatch(value)
    if found and len(sorting.late[dotted]) == 1 and _may_be_secret(key, name):
        sorting.secrets.append(Secret(name, found[1], dotted, optional=found[2] is not None))
        return f"${{oc.env:{found[1]}}}"
    return _refused(sorting, key, f"{dotted} has a secret in a text that is not treated as one")


def _may_be_secret(key: Key, name: str) -> bool:
    """Whether a value is handled as a secret by whoever reads it, when it is one."""
    return isinstance(key[-1], str) and (is_secret(name) or (len(key) == 2 and key[0] == "env_vars"))


def _refused(sorting: _Sorting, key: Key, what: str) -> str:
    fix = "name the variable in `secrets`, and let the job's shell put it in: $NAME"
    sorting.findings.append(Finding("profiles.secret_in_text", "error", what, sorting.place(key), fix=fix))
    return HIDDEN


def _scrubbed(sorting: _Sorting, value: Any, key: Key) -> Any:
    """`value` where no text repeats a literal secret that stands elsewhere."""
    if isinstance(value, dict):
        return {part: _scrubbed(sorting, inner, (*key, part)) for part, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(sorting, inner, (*key, position)) for position, inner in enumerate(value)]
    telling = [literal for literal in sorting.literals.values() if len(literal) >= _TELLING]
    if not isinstance(value, str) or not any(literal in value for literal in telling):
        return value
    dotted = ".".join(map(str, key))
    if len(key) == 2 and key[0] == "env_vars":
        sorting.secrets.append(Secret(str(key[1]), None, dotted))
        sorting.literals[dotted] = value
        return HIDDEN
    return _refused(sorting, key, f"{dotted} repeats a secret of this profile")


def _is_secret_text(name: str, value: str) -> bool:
    if not value or value == "???":
        return False
    return bool(_TOKEN.search(value)) or (is_secret(name) and not _PATH.fullmatch(value))


def _raw_at(raw: Any, key: Key) -> Any:
    for part in key:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return "${"  # below a value that was an interpolation as a whole
    return raw
