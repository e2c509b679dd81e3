"""Packed sequences in Parquet: one file, or the shards in a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .directory import directory_names
from .parquet_footer import Element, Footer, read_footer
from .report import Problem, Report, clipped

SUFFIX = ".parquet"
_REQUIRED = ("input_ids", "loss_mask")
_TOKENS, _MASKS = ("int32", "int64"), ("int32", "int64", "boolean")
_VALID = "input_ids and loss_mask, lists of whole numbers"
# What the packing leaves in the key-value metadata of each file, and the fact it becomes.
_KEYS = ("tokenizer_digest", "chat_template_digest", "pack_size", "tokenizer_size")
_PREFIX = "nemotron."
_NUMBERS = ("pack_size", "tokenizer_size")
_LISTED = 200


def check_packed(path: Path, report: Report) -> dict[str, Any]:
    """A Parquet file of packed sequences, or a directory with such files.

    Facts: files, rows, row_groups, bytes, columns (name to type), and tokenizer_digest,
    chat_template_digest, pack_size and tokenizer_size where the files' metadata tell them.
    """
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises where it may not look
        names = directory_names(path, report)
        shards = shard_names(names or frozenset())
        if not shards and names is not None:
            what = "a directory without *.parquet files"
            report.add(Problem("data.no_shards", what, fix="name the directory that holds the files"))
        places: tuple[tuple[Path, str | None], ...] = tuple((path / name, name) for name in shards)
    else:
        places = ((path, None),)
    shards_facts = _Shards(report)
    for place, name in places:
        footer = read_footer(place)
        if isinstance(footer, Problem):
            report.add(footer, file=name)
        else:
            shards_facts.take(footer, name)
    return shards_facts.facts()


def shard_names(names: frozenset[str]) -> tuple[str, ...]:
    """The names of Parquet files among those in a directory."""
    return tuple(sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith((".", "_"))))


def looks_packed(path: Path) -> bool:
    """Whether a Parquet file holds packed sequences, or is too damaged to tell."""
    footer = read_footer(path)
    if isinstance(footer, Problem):
        return footer.id == "data.broken_parquet"
    return _REQUIRED[0] in {column.name for column in footer.columns}


class _Shards:
    """The running totals over the files, and what the first of them said."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._columns: dict[str, str] | None = None
        self._told: dict[str, Any] = {}
        self._first: str | None = None
        self._files = self._rows = self._groups = self._bytes = 0

    def take(self, footer: Footer, name: str | None) -> None:
        self._files += 1
        self._rows += footer.rows
        self._groups += footer.row_groups
        self._bytes += footer.bytes
        columns = {column.name: _type_of(column) for column in footer.columns}
        for problem in _column_problems(footer.columns):
            self._report.add(problem, file=name)
        if not footer.rows:
            self._report.add(Problem("data.no_rows", "a file without a row", "warning"), file=name)
        told = _told(footer.metadata, self._report, name)
        if self._columns is None:
            self._columns, self._told, self._first = columns, told, name
            return
        if columns != self._columns:
            what = f"its columns are not those of {self._first}"
            self._report.add(Problem("data.shards_disagree", what), file=name)
        for key in _KEYS:
            if told.get(key) != self._told.get(key):
                what = f"its {key} is {told.get(key)}, that of {self._first} is {self._told.get(key)}"
                fix = "pack all of the data in one go"
                self._report.add(Problem("data.shards_disagree", what, fix=fix), file=name)

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"files": self._files, "rows": self._rows}
        if self._columns is None:
            return found
        if not self._rows and not self._report.errors:
            self._report.add(Problem("data.no_rows", "no row in any file"))
        columns = list(self._columns.items())[:_LISTED]
        return {
            **found,
            "row_groups": self._groups,
            "bytes": self._bytes,
            "columns": {clipped(name): kind for name, kind in columns},
            **self._told,
        }


def _told(metadata: Mapping[str, str], report: Report, name: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for key in _KEYS:
        value = metadata.get(_PREFIX + key)
        if value is None:
            continue
        if key in _NUMBERS:
            if not (value.isascii() and value.isdigit() and len(value) < 19 and int(value)):
                what = f"{_PREFIX}{key} is no whole number above 0"
                report.add(Problem("data.wrong_type", what), file=name)
                continue
            told[key] = int(value)
        else:
            told[key] = clipped(value)
    return told


def _column_problems(columns: tuple[Element, ...]) -> list[Problem]:
    by_name = {column.name: column for column in columns}
    problems = []
    for name, kinds in zip(_REQUIRED, (_TOKENS, _MASKS), strict=True):
        if name not in by_name:
            problems.append(Problem("data.missing_field", f"no column {name}", valid=_VALID))
        elif _list_item(by_name[name]) not in kinds:
            what = f"the column {name} is {_type_of(by_name[name])}, not a list of whole numbers"
            problems.append(Problem("data.wrong_type", what, valid=_VALID))
    return problems


def _list_item(column: Element) -> str | None:
    """The type of the items of a list of plain values, in the notation of three levels or of one."""
    if column.repeated:
        return column.kind
    if len(column.children) != 1 or not column.children[0].repeated:
        return None
    inner = column.children[0]
    if not inner.children:
        return inner.kind
    return inner.children[0].kind if len(inner.children) == 1 and not inner.children[0].repeated else None


def _type_of(column: Element) -> str:
    item = _list_item(column)
    if item:
        return f"list of {item}"
    return column.kind or "group"
