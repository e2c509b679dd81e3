"""Checked access to one table of a manifest: a value of the wrong TOML type is a `ManifestError`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from nemotron.catalog.toml_lines import Key
    from nemotron.catalog.toml_source import TomlSource
    from nemotron.findings import Finding

_T = TypeVar("_T")


class TomlTable:
    """One table. Every reader takes a key of it and raises ManifestError (with the line) on a wrong type."""

    def __init__(self, source: TomlSource, values: Mapping[str, object], key: Key = ()) -> None:
        self.source = source
        self.values = values
        self.key = key

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def where(self, key: str | None = None) -> str:
        """`file:line` of `key`, or of the table itself."""
        return self.source.where(self.key if key is None else (*self.key, key))

    def fail(self, key: str | None, problem: str) -> NoReturn:
        """Raises the ManifestError for what is wrong at `key`, or with the table itself."""
        raise self.source.error(self.key if key is None else (*self.key, key), problem)

    def text(self, key: str, default: str = "") -> str:
        return self._typed(key, str, "a string") if key in self.values else default

    def optional_text(self, key: str) -> str | None:
        return self._typed(key, str, "a string") if key in self.values else None

    def required_text(self, key: str) -> str:
        """A string that must be there and not be empty."""
        if not self.text(key):
            self.fail(key, f"{self._name()} has no {key}")
        return self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when the key is absent."""
        items = self.items(key)
        for item in items:
            if not isinstance(item, str):
                self.fail(key, f"{self._name(key)} must be a list of strings, not of {_type_name(item)}")
        return tuple(str(item) for item in items)

    def items(self, key: str) -> list[object]:
        """A list of anything; empty when the key is absent."""
        return list(self._typed(key, list, "a list")) if key in self.values else []

    def flag(self, key: str, default: bool) -> bool:
        return self._typed(key, bool, "true or false") if key in self.values else default

    def number(self, key: str, default: int) -> int:
        """A whole number; true and false are none."""
        if isinstance(self.values.get(key), bool):
            self.fail(key, f"{self._name(key)} must be a whole number, not a boolean")
        return self._typed(key, int, "a whole number") if key in self.values else default

    def table(self, key: str) -> TomlTable:
        """A table; empty when the key is absent."""
        values = self._typed(key, dict, "a table") if key in self.values else {}
        return TomlTable(self.source, values, (*self.key, key))

    def tables(self, key: str) -> Iterator[TomlTable]:
        """The tables of `[[key]]`; entries of another kind are left out (see `strays`)."""
        for index, item in enumerate(self._array(key)):
            if isinstance(item, dict):
                yield TomlTable(self.source, item, (*self.key, key, index))

    def strays(self, key: str) -> list[Finding]:
        """A warning for each entry of `[[key]]` that is no table, and so is left out."""
        from nemotron.findings import Finding

        return [
            Finding(
                id="catalog.stray_entry",
                severity="warning",
                message=f"entry {index + 1} of {key} is {_type_name(item)}, not a table: it is left out",
                where=self.source.where((*self.key, key, index)),
            )
            for index, item in enumerate(self._array(key))
            if not isinstance(item, dict)
        ]

    def _array(self, key: str) -> list[object]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.fail(key, f"{key} must be a list of tables, [[{key}]], not {_type_name(value)}")
        return value

    def _typed(self, key: str, kind: type[_T], wanted: str) -> _T:
        value = self.values[key]
        if not isinstance(value, kind):
            self.fail(key, f"{self._name(key)} must be {wanted}, not {_type_name(value)}")
        return value

    def _name(self, key: str = "") -> str:
        """How a sentence names this table, or a key of it: `[step]`, `[[consumes]] type`, `step`."""
        names = ".".join(part for part in self.key if isinstance(part, str))
        if not names:
            return key or "the file"
        table = f"[[{names}]]" if isinstance(self.key[-1], int) else f"[{names}]"
        return f"{table} {key}".rstrip()


def _type_name(value: object) -> str:
    names = {
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), type(value).__name__)
