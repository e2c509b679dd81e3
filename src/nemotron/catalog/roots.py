"""Where catalogs are: NEMOTRON_CATALOG, then installed catalogs, then ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nemotron.catalog.installed import find_installed, locate

OWN_ROOT = "nemotron"
OWN_PATH = Path(__file__).resolve().parent.parent / "steps"


class Root(NamedTuple):
    """A directory of steps. `problem` says why there is nothing to read; None if there is."""

    name: str
    path: Path
    problem: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is the catalog that comes with this package."""
        return self.name == OWN_ROOT


def find_roots(environ: Mapping[str, str]) -> tuple[Root, ...]:
    """Every catalog root; a bare step id is the first root's.

    NEMOTRON_CATALOG is a list of directories as PATH is one. An installed catalog is an entry point of the
    group `nemotron.catalogs`. Names are unique, a directory given twice is there once, and a root that
    cannot be used stays, with its problem.
    """
    listed = [_absolute(entry) for entry in environ.get("NEMOTRON_CATALOG", "").split(os.pathsep) if entry]
    installed = find_installed(sys.path)
    reserved = {OWN_ROOT, *(entry.name for entry in installed)}
    roots: list[Root] = []
    places: set[Path] = set()

    def add(name: str, path: Path, problem: str | None, *, owns_name: bool = False) -> None:
        place = Path(os.path.realpath(path))
        if place in places and problem is None:
            return
        places.add(place)
        if place == OWN_PATH:
            name, owns_name = OWN_ROOT, True
        taken = {root.name for root in roots} | (set() if owns_name else reserved)
        roots.append(Root(_unique(name, taken), path, problem or _problem_of(path)))

    for path in listed:
        add(path.name or "root", path, None)
    for entry in installed:
        place = locate(entry)
        if isinstance(place, Path):
            add(entry.name, place, None, owns_name=entry.name != OWN_ROOT)
        else:
            add(entry.name, entry.declared_in, place, owns_name=entry.name != OWN_ROOT)
    add(OWN_ROOT, OWN_PATH, None, owns_name=True)
    return tuple(roots)


def _absolute(entry: str) -> Path:
    path = Path(entry)
    with contextlib.suppress(RuntimeError):  # `~nobody`: taken as written, and reported as missing
        path = path.expanduser()
    path = path.absolute()
    return path.resolve() if ".." in path.parts else path


def _problem_of(path: Path) -> str | None:
    try:
        is_directory = path.is_dir()
        exists = is_directory or path.exists()
    except OSError as error:
        return f"catalog root cannot be read: {error.strerror}"
    if is_directory:
        return None
    return "catalog root is a file, not a directory" if exists else "catalog root does not exist"


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}-{count}"
    return unique
