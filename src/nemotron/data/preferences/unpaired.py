"""Pairs out of answers that were judged one by one."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from nemotron.data.stream.rows import Rejected

from .pair import Judged, Message, Pair

# Context and completion.
_Answer: TypeAlias = tuple[list[Message], list[Message]]
_Placed: TypeAlias = tuple[str, int, _Answer]


class Pairing:
    """Collects judged answers on disk, and tells the pairs when all are in.

    Two answers to one context, one wanted and one not, become a pair, in the order they came. Memory does
    not grow with the number of answers; the file is in the system's place for temporary files and is gone
    after `close`, or use `with`.
    """

    def __init__(self, default: bool | None = None) -> None:
        """default: what an answer without a label counts as; None leaves it out."""
        self._default = default
        self._place = tempfile.TemporaryDirectory(prefix="nemotron-pairs-")
        self._base = sqlite3.connect(Path(self._place.name) / "answers.db", isolation_level=None)
        self._base.execute("pragma journal_mode = off")
        self._base.execute("pragma synchronous = off")
        self._base.execute("begin")
        columns = "context blob, good integer, number integer, file text, line integer, row text"
        self._base.execute(f"create table answers ({columns})")
        self._count = 0

    def __enter__(self) -> Pairing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was collected."""
        self._base.close()
        self._place.cleanup()

    def add(self, judged: Judged, file: str, line: int) -> Rejected | None:
        """Take an answer; file and line are for the report. Returns why it cannot be paired."""
        good = self._default if judged.good is None else judged.good
        if good is None:
            return Rejected("no_label", "no label, and none is assumed")
        context = json.dumps(judged.context, ensure_ascii=False)
        row = json.dumps([judged.context, judged.completion], ensure_ascii=False)
        key = hashlib.blake2b(context.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._count += 1
        entry = (key, int(good), self._count, file, line, row)
        self._base.execute("insert into answers values (?, ?, ?, ?, ?, ?)", entry)
        return None

    def pairs(self) -> Iterator[tuple[str, int, Pair | Rejected]]:
        """File and line of the wanted answer with its pair, or of an answer without a counterpart with the
        reason; contexts in the order in which they first came.
        """
        self._base.execute("create index by_context on answers (context, number)")
        firsts = self._base.execute(
            "select context, min(number) as first from answers group by context order by first"
        )
        for context, _ in firsts:
            waiting: tuple[list[_Placed], list[_Placed]] = ([], [])
            entries = self._base.execute(
                "select good, file, line, row from answers where context = ? order by number", (context,)
            )
            for good, file, line, text in entries:
                waiting[good].append((file, line, json.loads(text)))
            bad, wanted = waiting
            for (_, _, worse), (file, line, better) in zip(bad, wanted, strict=False):
                yield file, line, _pair(better, worse)
            paired = min(len(bad), len(wanted))
            for file, line, _ in [*bad[paired:], *wanted[paired:]]:
                what = "no answer to the same prompt with the other label"
                yield file, line, Rejected("no_counterpart", what)


def _pair(better: _Answer, worse: _Answer) -> Pair | Rejected:
    context, chosen = better
    _, rejected = worse
    if chosen == rejected:
        return Rejected("same_answers", "wanted and unwanted answer are the same")
    return Pair(tuple(context), tuple(chosen), tuple(rejected))
