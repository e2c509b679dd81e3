"""Catalogs that came with an installed package, found without importlib.metadata (30 ms) or an import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

GROUP = "nemotron.catalogs"


class InstalledCatalog(NamedTuple):
    """One entry point: `name = value`, declared in the file `declared_in`."""

    name: str
    value: str
    declared_in: Path


def find_installed(paths: Sequence[str]) -> tuple[InstalledCatalog, ...]:
    """The entry points of the group `nemotron.catalogs` of every distribution on `paths`.

    A distribution that is there twice counts where it comes first, as for an import.
    """
    found: list[InstalledCatalog] = []
    seen: set[str] = set()
    for directory in paths:
        for name in _distributions(directory or "."):
            project = name.rsplit(".", 1)[0].split("-", 1)[0].lower().replace(".", "_")
            if project in seen:
                continue
            seen.add(project)
            file = f"{directory or '.'}/{name}/entry_points.txt"
            content = _read(file)
            if GROUP.encode() in content:
                found += _parse(content.decode("utf-8", errors="replace"), Path(file))
    return tuple(found)


def locate(catalog: InstalledCatalog) -> Path | str:
    """The directory of an installed catalog, or what is wrong with its entry point.

    `package` is that package's directory, found without importing it. `package:attribute` is imported: the
    attribute is a path.
    """
    value = catalog.value.partition("[")[0].strip()
    module, _, attribute = value.partition(":")
    if not all(part.isidentifier() for part in f"{module}.{attribute or 'x'}".split(".")):
        return f"entry point {catalog.name} = {catalog.value!r} is neither a package nor package:attribute"
    try:
        return _attribute(module, attribute) if attribute else _package(module)
    except Exception as error:  # noqa: BLE001 - somebody else's import hook or package: may raise anything
        return f"entry point {catalog.name} = {catalog.value!r}: {type(error).__name__}: {error}"


def _distributions(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(e.name for e in entries if e.name.endswith((".dist-info", ".egg-info")))
    except OSError:  # a zip file, or a directory that is not there: both are common on sys.path
        return []


def _read(file: str) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:  # most distributions have no entry points
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def _parse(content: str, file: Path) -> Iterator[InstalledCatalog]:
    group = ""
    for line in map(str.strip, content.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ")
        elif group == GROUP and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield InstalledCatalog(name.strip(), value.strip(), file)


def _package(dotted: str) -> Path:
    top, *rest = dotted.split(".")
    for directory in sys.path:
        if Path(directory, top, "__init__.py").is_file():
            return Path(directory, top, *rest).absolute()
    from importlib.util import find_spec

    spec = find_spec(top)  # of a top-level name: nothing is imported
    if spec is None:
        raise ModuleNotFoundError(f"no package named {top!r}")
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    if not places:
        raise ModuleNotFoundError(f"{top!r} is a module, not a package")
    return next((place for place in places if place.is_dir()), places[0])


def _attribute(module: str, attribute: str) -> Path:
    from importlib import import_module

    target: object = import_module(module)
    for part in attribute.split("."):
        target = getattr(target, part)
    if not isinstance(target, str | os.PathLike):
        raise TypeError(f"{attribute} is a {type(target).__name__}, not a path")
    return Path(target).absolute()
