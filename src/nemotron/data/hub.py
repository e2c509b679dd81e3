"""Rows from the hub, or from Python: objects that were never lines of JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nemotron.errors import SchedulerError, UsageError

from .rowwise import Done, Row, RowMaker, RowWork
from .stream.jsontext import exact_dumps
from .stream.parquet import without_nulls
from .stream.rows import Rejected
from .stream.tally import Tally

# `datasets.load_dataset`, or what takes the same: (name, subset, split=split, streaming=True).
Hub = Callable[..., Iterable[Mapping[str, Any]]]

# Rows that are worked on at once.
CHUNK = 500
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE = re.compile(r"\.(jsonl|json|gz|zst|parquet)$")


@dataclass(frozen=True)
class Place:
    """Where rows are: a file, or a data set on the hub with its subset and split."""

    path: str
    subset: str | None = None
    split: str | None = None


def is_hub_name(path: str) -> bool:
    """Whether a path is the name of a data set on the hub: ORG/NAME, and no such file."""
    return bool(_HUB_NAME.fullmatch(path)) and not _FILE.search(path) and not Path(path).exists()


def missing_hub(reason: ImportError) -> Hub:
    """What stands for `load_dataset` where it cannot be imported: it tells why when it is asked."""

    def missing(name: str, *_: Any, **__: Any) -> Any:
        what = f"{name} is no file here, and the hub needs the package datasets: {reason}"
        raise UsageError(what, next="pip install datasets, or name a file")

    return missing


def hub_chunks(place: Place, hub: Hub | None) -> Iterator[list[Mapping[str, Any]]]:
    """The rows of a data set on the hub, which `hub` loads, some at a time.

    As in Parquet files, which most of them are, a null is taken for a key that is not there. Errors:
    `UsageError` without `hub`, `SchedulerError` where the hub has no such data set.
    """
    if hub is None:
        what = f"{place.path} is no file here, and to fetch it from the hub takes the package datasets"
        raise UsageError(what, next="pip install datasets, or name a file")
    try:
        rows = iter(hub(place.path, place.subset, split=place.split, streaming=True))
        while chunk := list(islice(rows, CHUNK)):
            yield [without_nulls(row) for row in chunk]
    except (OSError, ValueError, KeyError) as exc:
        what = f"{place.path} cannot be loaded from the hub: {exc}"
        raise SchedulerError(what, next="mend the name or the network, or name a file") from exc


def hub_rows(place: Place, work: RowWork, hub: Hub | None) -> Iterator[Done]:
    """The converted rows of a data set on the hub. Errors: those of `hub_chunks`."""
    return objects_done(hub_chunks(place, hub), work, place.path)


def objects_done(chunks: Iterable[Iterable[Mapping[str, Any]]], work: RowWork, name: str) -> Iterator[Done]:
    """What rows become that come from Python. name: of where they come from."""
    line = 0
    for chunk in chunks:
        maker = RowMaker(work, name)
        for row in chunk:
            line += 1
            maker.done.rows_in += 1
            found = json_object(row, maker.done.tally, name, line)
            if found is not None:
                maker.take(found, line)
        yield maker.end()


def json_object(row: Mapping[str, Any], tally: Tally, name: str, line: int) -> Row | None:
    """A row as JSON has it; None where it holds dates or bytes, which is counted."""
    try:
        exact_dumps(row)
    except (TypeError, ValueError) as exc:
        tally.leave_out(Rejected("not_json", str(exc)[:100]), name, line)
        return None
    return dict(row)
