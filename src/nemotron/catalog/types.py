"""Artifact types: what may stand in for what, and which step turns one into another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nemotron.catalog.cache import ParsedFiles
from nemotron.catalog.toml_table import TomlTable

if TYPE_CHECKING:
    from nemotron.findings import Finding


class ArtifactType(NamedTuple):
    """One table of a `types.toml`.

    is_a: the types it may stand in for, directly.
    convert_to: target type to the id of the step that makes it.
    """

    name: str
    description: str
    is_a: tuple[str, ...]
    convert_to: Mapping[str, str]
    table: TomlTable

    @property
    def path(self) -> Path:
        """The `types.toml`."""
        return self.table.source.path

    @property
    def line(self) -> int | None:
        """The line of the type's table."""
        return self.table.source.line_of(self.table.key)


class TypeGraph:
    """The types of one root.

    Parameters
    ----------
    types: the types, any order; a name is there once.
    severity: of an unsound edge: `error` in our own catalog, `warning` in a foreign one.
    """

    def __init__(self, types: Iterable[ArtifactType] = (), severity: str = "error") -> None:
        self._types = {item.name: item for item in types}
        self.severity = severity

    def __iter__(self) -> Iterator[ArtifactType]:
        return iter(self._types.values())

    def __contains__(self, name: object) -> bool:
        return name in self._types

    @property
    def names(self) -> tuple[str, ...]:
        """All type names, in the order of the file."""
        return tuple(self._types)

    def get(self, name: str) -> ArtifactType | None:
        """The type of this name, None if the root has none."""
        return self._types.get(name)

    def is_a(self, have: str, want: str) -> bool:
        """Whether `have` may stand in for `want`: the same, or reached over `is_a` edges.

        A name that is not in the file is only itself.
        """
        return have == want or want in self.supertypes(have)

    def supertypes(self, name: str) -> frozenset[str]:
        """What is reached over `is_a` edges; `name` itself only if they run in a circle."""
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            known = self._types.get(ahead.pop())
            fresh = set(known.is_a if known else ()) - seen
            seen |= fresh
            ahead += fresh
        return frozenset(seen)

    def subtypes(self, name: str) -> tuple[str, ...]:
        """The types that may stand in for `name`, itself first if known."""
        others = tuple(other for other in self._types if other != name and self.is_a(other, name))
        return (name, *others) if name in self._types else others

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Cycles, unknown names and unknown keys."""
        from nemotron.catalog.lint_types import check_graph

        return tuple(check_graph(self))


def read_types(path: Path, files: ParsedFiles, *, is_own: bool) -> TypeGraph:
    """The types of a `types.toml`. Raises ManifestError if it is no TOML or a value has a wrong type."""
    source = files.toml(path)
    table = TomlTable(source, source.data)
    graph = TypeGraph(
        [_read_type(table.table(name), name) for name in source.data], "error" if is_own else "warning"
    )
    files.accept(source)
    return graph


def _read_type(table: TomlTable, name: str) -> ArtifactType:
    conversions = table.table("convert_to")
    return ArtifactType(
        name=name,
        description=table.text("description"),
        is_a=table.texts("is_a"),
        convert_to={target: conversions.required_text(target) for target in conversions.values},
        table=table,
    )
