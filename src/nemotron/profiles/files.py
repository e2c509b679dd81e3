"""The files that hold profiles: which they are, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.paths import printable
from nemotron.artifacts.store import PROJECT_MARKERS
from nemotron.catalog.toml_source import ManifestError, TomlSource, parse_toml, read_text
from nemotron.errors import NemotronError, NotFound, UsageError
from nemotron.findings import Finding

VARIABLE = "NEMOTRON_ENV_FILE"
FILE_NAME = "env.toml"
DIRECTORY_NAME = "profiles"
# Tables of the same files that hold settings of other things.
RESERVED = ("wandb", "cli", "cache", "artifacts")
# Every walk over a profile recurses; no profile of use is half as deep.
MAX_DEPTH = 32


@dataclass(frozen=True)
class Entry:
    """One table of one file: a profile before anything is made of it."""

    name: str
    table: Mapping[str, Any]
    source: TomlSource

    def line(self, *path: str) -> int | None:
        """The line of a key of it, or of the closest table around that; without a key, of its header."""
        return self.source.line_of((self.name, *path))


def find_profile_files(environ: Mapping[str, str], cwd: Path) -> tuple[Path, ...]:
    """The files to read, in order; none of them has been read.

    `NEMOTRON_ENV_FILE` and nothing else where that is set. Otherwise the nearest `env.toml` from `cwd`
    upwards, no further than the first directory that has a `pyproject.toml`; and `profiles/*.toml` beside
    the nearest project marker (nemotron.toml, env.toml, pyproject.toml, .git), or in `cwd` where there is
    none. Raises `NotFound` when `NEMOTRON_ENV_FILE` names a file that is not there, `UsageError` for a `~`
    without a home.
    """
    named = environ.get(VARIABLE, "").strip()
    if named:
        return (_named(named, cwd),)
    found = [path for path in (_upward(cwd.absolute()),) if path is not None]
    for path in _beside(_project(cwd.absolute())):
        # A link to the other one is the same profiles, not the same names twice.
        if not any(path.samefile(other) for other in found):
            found.append(path)
    return tuple(found)


def read_profile_file(path: Path) -> tuple[tuple[Entry, ...], tuple[Finding, ...]]:
    """The profiles of a file, and what is wrong with the rest of it.

    Raises UsageError, with the line, for what is no TOML.
    """
    try:
        text = read_text(path.resolve())
        source = TomlSource(path, parse_toml(text, path), lambda: (read_text(path.resolve()), 0))
    except ManifestError as error:
        where = printable(path) + (f":{error.line}" if error.line else "")
        raise UsageError(error.what, where=where) from error
    except OSError as error:
        raise os_error(error, path) from error
    entries, findings = [], []
    for name, table in source.data.items():
        if name in RESERVED:
            continue
        if not isinstance(table, dict):
            findings.append(_stray(name, source))
        elif _too_deep(table):
            raise UsageError(
                f"[{printable(name)}] is nested more than {MAX_DEPTH} deep", where=source.where((name,))
            )
        else:
            entries.append(Entry(name, table, source))
    return tuple(entries), tuple(findings)


def read_all(paths: tuple[Path, ...]) -> tuple[tuple[Entry, ...], tuple[Finding, ...]]:
    """The profiles of several files; a file that cannot be read is a finding, the others count."""
    entries: list[Entry] = []
    findings: list[Finding] = []
    for path in paths:
        try:
            more, found = read_profile_file(path)
        except NemotronError as error:
            findings.append(Finding("profiles.unreadable", "error", error.what, error.where, fix=error.next))
        else:
            entries += more
            findings += found
    return tuple(entries), tuple(findings)


def _named(named: str, cwd: Path) -> Path:
    try:
        path = cwd.absolute() / Path(named).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"no home directory for {printable(named)}", where=VARIABLE, next="write the path in full"
        ) from error
    if not _is_there(path):
        raise NotFound(
            f"{printable(path)} does not exist", where=VARIABLE, next=f"unset {VARIABLE}, or mend it"
        )
    return path


def _upward(start: Path) -> Path | None:
    for directory in (start, *start.parents):
        if _is_there(directory / FILE_NAME):
            return directory / FILE_NAME
        if _is_there(directory / "pyproject.toml"):
            return None
    return None


def _project(start: Path) -> Path:
    for directory in (start, *start.parents):
        if any(_is_there(directory / marker) for marker in PROJECT_MARKERS):
            return directory
    return start


def _beside(project: Path) -> Iterator[Path]:
    directory = project / DIRECTORY_NAME
    try:
        names = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise os_error(error, directory) from error
    yield from (path for path in names if not path.name.startswith(".") and _is_there(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # nor would it be read


def _stray(name: str, source: TomlSource) -> Finding:
    return Finding(
        "profiles.stray_key",
        "warning",
        f"{printable(name)} stands outside of any profile and is not read",
        source.where((name,)),
        valid="tables such as [my_cluster]",
    )


def _too_deep(table: Mapping[str, Any]) -> bool:
    level: list[Any] = [table]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
