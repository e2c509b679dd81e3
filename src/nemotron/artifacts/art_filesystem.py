"""`art://` as a read-only fsspec file system: `fsspec.open("art://chats:v1")`.

    art://NAME[:vN|:ALIAS|@DIGEST]            an artifact that is a file
    art://NAME[:vN|:ALIAS|@DIGEST]/INSIDE     a file of an artifact that is a directory

Found through fsspec's entry points. The store is that of the environment and the working directory, as for
the command line; pass `store=` for another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from nemotron.artifacts.collection import Artifacts
from nemotron.artifacts.find import named_version
from nemotron.artifacts.references import parse_reference
from nemotron.artifacts.store import Store
from nemotron.artifacts.verify import holds
from nemotron.errors import NemotronError, NotFound


class ArtFileSystem(AbstractFileSystem):
    """Named artifacts where they lie on this machine.

    Errors: FileNotFoundError for a name, version or file that is not there, OSError for an artifact that is
    no longer what was recorded, or when something is to be written.
    """

    protocol = "art"
    # A name is given a new version at any time: an instance that was kept would not see it.
    cachable = False

    def __init__(self, store: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._artifacts = Artifacts(None if store is None else Store(Path(store)))
        self._local = LocalFileSystem()

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The entries of a directory, or the file itself; without a path all names."""
        stripped = self._strip_protocol(path)
        if not stripped:
            names = self._artifacts.index.names()
            return (
                [_entry(n, n, {"type": "directory", "size": None}) for n in names] if detail else list(names)
            )
        name, root, place = self._located(stripped)
        found = []
        for each in self._local.ls(str(place), detail=True):
            relative = os.path.relpath(each["name"], root)
            found.append(_entry(name if relative == "." else f"{name}/{relative}", name, each))
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Name, size and kind of a file or directory."""
        stripped = self._strip_protocol(path)
        if not stripped:
            return {"name": "", "size": None, "type": "directory"}
        name, _, place = self._located(stripped)
        found = self._local.info(str(place))
        return _entry(stripped, name, found)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode not in ("rb", "r"):
            raise OSError(f"art://{path} cannot be written: artifacts never change")
        return self._local.open(str(self._located(self._strip_protocol(path))[2]), "rb")

    def _located(self, path: str) -> tuple[str, Path, Path]:
        """The name in a path, where that artifact lies, and what is meant inside it."""
        parts = path.split("/")
        for count in range(len(parts), 0, -1):
            name = "/".join(parts[:count])
            try:
                ident = named_version(self._artifacts.index, parse_reference(f"art://{name}"))
            except NotFound as problem:
                if ":" in parts[count - 1] or "@" in parts[count - 1] or count == 1:
                    raise FileNotFoundError(problem.render()) from problem
                continue
            except NemotronError:
                continue  # what follows a name need not look like one
            places = self._artifacts.index.locations(ident)
            for place in places:
                if holds(place, ident, self._artifacts.environ):
                    return name, Path(place.path), _inside(Path(place.path), "/".join(parts[count:]))
            paths = ", ".join(place.path for place in places)
            if any(Path(place.path).exists() for place in places):
                raise OSError(f"art://{name} is no longer what was recorded: {paths}")
            raise FileNotFoundError(f"art://{name} does not lie on this machine: {paths}")
        raise FileNotFoundError(f"art://{path} names no artifact")


def _inside(root: Path, rest: str) -> Path:
    place = Path(os.path.realpath(root / rest)) if rest else root
    if rest and not place.is_relative_to(os.path.realpath(root)):
        raise FileNotFoundError(f"{rest} leads out of the artifact at {root}")
    return root / rest if rest else root


def _entry(path: str, name: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"name": path, "size": found["size"], "type": found["type"], "artifact": name}
