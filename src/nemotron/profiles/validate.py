"""What is wrong with the values of one profile: unknown keys, wrong kinds, what is missing or not read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.errors import nearest
from nemotron.findings import Finding
from nemotron.profiles.keys import EXECUTOR_NAMES, EXECUTORS, KEYS, ProfileKey, keys_of, readers_of
from nemotron.profiles.kinds import LOCAL_FILE, converted
from nemotron.profiles.profile import Origin

MISSING = "???"
# Keys that are options of sbatch too: it takes the last of two, and nobody sees which that is.
_OPTIONS = (
    *("account", "partition", "time", "mem", "exclusive", "signal", "nodes", "gpus_per_node"),
    *("ntasks_per_node", "cpus_per_task"),
)


def checked(
    executor: Any,
    values: dict[str, Any],
    origins: Mapping[str, Origin],
    file: Path,
    *,
    interpolated: Collection[str],
    filled: bool,
) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """The values that are read, and all that is wrong.

    Keys that are unknown or another executor's are left out. Texts from the environment are turned into
    what their keys take.

    interpolated: the keys whose values were written with interpolations.
    filled: whether those are filled in; where not, nothing is said of these values.
    """
    findings = list(_executor_findings(executor, origins, file))
    known = keys_of(executor) if executor in EXECUTOR_NAMES else {key.name: key for key in KEYS}
    result = dict(values)
    for name, value in values.items():
        place = _place(name, origins)
        if name not in known:
            findings.append(_unknown(name, executor, known, place))
            del result[name]
        elif filled or name not in interpolated:
            kind = known[name].kind
            # Variables hold nothing but text; a text that is written in the file is meant as one.
            result[name] = value = converted(kind, value) if name in interpolated else value
            findings += _value_findings(known[name], value, place, origins)
            if kind is LOCAL_FILE and isinstance(value, str) and value:
                result[name] = _local_file(value, origins.get(name), findings)
    if executor in EXECUTOR_NAMES:
        findings += _absent(executor, known, values, origins, file)
    findings += _twice(values, origins)
    return result, tuple(findings)


def _executor_findings(executor: Any, origins: Mapping[str, Origin], file: Path) -> Iterator[Finding]:
    place = _place("executor", origins) or printable(file)
    valid = ", ".join(EXECUTOR_NAMES)
    if executor is None or executor == "":
        yield Finding(
            "profiles.no_executor",
            "error",
            "the profile names no executor",
            place,
            valid,
            'executor = "slurm"',
        )
    elif executor not in EXECUTOR_NAMES:
        shown = printable(executor) if isinstance(executor, str) else "this"
        close = nearest(executor, EXECUTOR_NAMES, 1) if isinstance(executor, str) else ()
        fix = f'did you mean "{close[0]}"?' if close else None
        yield Finding("profiles.unknown_executor", "error", f"{shown} is no executor", place, valid, fix)
    elif not next(each for each in EXECUTORS if each.name == executor).launchable:
        what = f"{executor} profiles are read, but nothing can be launched on them"
        yield Finding("profiles.not_launchable", "warning", what, place)


def _unknown(name: str, executor: Any, known: Mapping[str, ProfileKey], place: str) -> Finding:
    readers = readers_of(name)
    if readers:
        what = f"{name} is for {' and '.join(readers)}; {executor} does not read it"
        return Finding("profiles.other_executor", "warning", what, place)
    close = nearest(name, known, 1)
    fix = f'did you mean "{close[0]}"?' if close else "nemotron profiles --help"
    valid = ", ".join(sorted(key.name for key in known.values() if not key.unread))
    of = f"a {executor} profile" if executor in EXECUTOR_NAMES else "a profile"
    return Finding("profiles.unknown_key", "error", f"{printable(name)} is no key of {of}", place, valid, fix)


def _value_findings(
    key: ProfileKey, value: Any, place: str, origins: Mapping[str, Origin]
) -> Iterator[Finding]:
    odd = [(path, wrong) for path, each in _scalars(value, key.name) if (wrong := _odd(each))]
    for path, wrong in odd:
        yield Finding("profiles.value", "error", f"{printable(path)} {wrong}", _place(path, origins) or place)
    if odd or value == "":
        return
    wrong = key.kind.problem(value)
    if wrong:
        yield Finding("profiles.kind", "error", f"{key.name} {wrong}", place, f"{key.name} = {key.example}")
    elif key.choices and value not in key.choices:
        close = nearest(value, key.choices, 1)
        fix = f'did you mean "{close[0]}"?' if close else None
        what = f"{key.name} cannot be {value!r}"
        yield Finding("profiles.choice", "error", what, place, ", ".join(key.choices), fix)
    if key.unread:
        yield Finding("profiles.not_read", "note", f"nothing reads {key.name}: {key.unread}", place)


def _odd(value: Any) -> str | None:
    """What no value may be, whatever its key."""
    if value == MISSING:
        return f"is {MISSING}: fill it in"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL byte"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which is no number JSON can hold"
    return None


def _absent(
    executor: str,
    known: Mapping[str, ProfileKey],
    values: Mapping[str, Any],
    origins: Mapping[str, Origin],
    file: Path,
) -> Iterator[Finding]:
    for key in known.values():
        names = (key.name, *key.instead)
        if key.required and not any(values.get(name) for name in names):
            what = f"a {executor} profile needs {' or '.join(names)}: {key.meaning.rstrip('.')}"
            place = _place("executor", origins) or printable(file)
            yield Finding("profiles.missing", "error", what, place, fix=f"{key.name} = {key.example}")


def _twice(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Iterator[Finding]:
    """What is said both by a key and by an option of sbatch."""
    options = values.get("sbatch")
    for option in options if isinstance(options, Mapping) else ():
        own = option.replace("-", "_")
        if own in _OPTIONS and values.get(own) not in (None, ""):
            what = f"sbatch.{option} and {own} say the same thing twice"
            yield Finding(
                "profiles.twice", "error", what, _place(f"sbatch.{option}", origins), fix=f"keep {own} only"
            )


def _local_file(value: str, origin: Origin | None, findings: list[Finding]) -> str:
    """The absolute path of a file here; one that is not there is a finding."""
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        path = Path(value)
    base = origin.file.parent if origin else Path()
    path = base.absolute() / path
    try:
        there = path.is_file()
    except OSError:
        there = False
    if not there and "\0" not in value:
        where = origin.place if origin else None
        what = f"there is no file {printable(path)}"
        findings.append(Finding("profiles.no_file", "error", what, where))
    return str(path)


def _scalars(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for part, inner in value.items():
            yield from _scalars(inner, f"{path}.{part}")
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner, path)
    else:
        yield path, value


def _place(key: str, origins: Mapping[str, Origin]) -> str:
    """`file:line` of a key; of a table, that of the first value in it."""
    if key in origins:
        return origins[key].place
    inside = [origin.place for name, origin in origins.items() if name.startswith(key + ".")]
    return inside[0] if inside else ""
