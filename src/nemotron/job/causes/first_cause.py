"""The first cause of a failure, out of the logs of all nodes.

One process of a distributed job fails and all others report what that did to them, minutes later and many
times over. So what a line says is ranked before the time at which it says it: see `patterns`.
Memory and time are bounded: of a huge log its first and last megabytes are read.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nemotron.job.causes.log_reading import Candidate, Reader
from nemotron.job.causes.patterns import PROGRESS, SURVIVED, WORTH_A_LOOK

_HEAD_BYTES, _TAIL_BYTES = 8 << 20, 48 << 20
_SECONDS = 20.0
# Signs of progress after a complaint from which on it counts as survived.
_PROGRESS = 3
# Of each rank so many first and so many last candidates of a log are kept.
_KEPT = 50
_LONGEST = 500
_LINE_BYTES = 1 << 20


def first_cause(logs: Sequence[Path], since: float | None = None) -> dict[str, str | None] | None:
    """What ended the attempt whose logs these are, node 0's first; None when they do not tell.

    since: epoch seconds; logs and stamped lines before that are of other attempts. `what` is a line of the
    log, `where` the innermost frame and the log with its line, `node` a node's name, rank or address.
    """
    deadline = time.monotonic() + _SECONDS
    found: list[tuple[Candidate, Path, str]] = []
    names: dict[str, str] = {}
    for number, log in enumerate(logs):
        share = (deadline - time.monotonic()) / (len(logs) - number)
        try:
            if since is None or log.stat().st_mtime >= since - 1:
                found += _of_log(log, number, len(logs) > 1, names, time.monotonic() + share)
        except OSError:
            continue  # removed, or a node's disk went away with it
    found = [f for f in found if since is None or f[0].at is None or f[0].at >= since - 2]
    if not found:
        return None
    # Where a log has no times, the order of the logs has to do.
    best, log, place = min(
        found, key=lambda f: (f[0].rank, f[0].at is None, f[0].at or 0.0, f[0].log, f[0].line)
    )
    return {
        "what": best.what[:_LONGEST],
        "where": f"{best.frame} ({log.name}, {place})" if best.frame else f"{log.name}, {place}",
        "node": names.get(best.node, best.node) if best.node else None,
    }


def _of_log(
    log: Path, number: int, several: bool, names: dict[str, str], deadline: float
) -> list[tuple[Candidate, Path, str]]:
    """The candidates of one log, and in which line of it each stands."""
    reader = Reader(log, number, several)
    few = _Few()
    progress: list[int] = []
    line, gap = 0, None
    for line, (raw, is_after_gap) in enumerate(_lines(log, deadline), 1):
        if gap is None and is_after_gap:
            gap = line
        if not reader.is_reading and not WORTH_A_LOOK.search(raw):
            reader.skip(raw)
            continue
        if PROGRESS.search(raw):
            progress.append(line)
        few.add(reader.read(line, raw))
    few.add(reader.end())
    names.update(reader.names)
    found = []
    for each in few.all():
        went_on = len(progress) - bisect_right(progress, each.line) >= _PROGRESS
        after_gap = gap is not None and each.line >= gap
        place = f"line {line - each.line + 1} from its end" if after_gap else f"line {each.line}"
        found.append((replace(each, rank=SURVIVED) if went_on else each, log, place))
    return found


class _Few:
    """The first and the last candidates of each rank."""

    def __init__(self) -> None:
        self._first: dict[int, list[Candidate]] = {}
        self._last: dict[int, deque[Candidate]] = {}

    def add(self, candidates: Sequence[Candidate]) -> None:
        for each in candidates:
            first = self._first.setdefault(each.rank, [])
            if len(first) < _KEPT:
                first.append(each)
            else:
                self._last.setdefault(each.rank, deque(maxlen=_KEPT)).append(each)

    def all(self) -> list[Candidate]:
        groups = [*self._first.values(), *self._last.values()]
        return [each for group in groups for each in group]


def _lines(log: Path, deadline: float) -> Iterator[tuple[bytes, bool]]:
    """The lines of a log, of a huge one those of its beginning and end; and whether they are of its end."""
    size = log.stat().st_size
    is_huge = size > _HEAD_BYTES + _TAIL_BYTES
    with log.open("rb") as file:
        for is_tail, end in ((False, _HEAD_BYTES), (True, size)) if is_huge else ((False, size),):
            if is_tail:
                file.seek(size - _TAIL_BYTES)
                file.readline(_LINE_BYTES)  # the rest of a line
                # The end says more than the beginning: a slow disk must not keep us from it.
                deadline = max(deadline, time.monotonic() + 1.0)
            while file.tell() < end and time.monotonic() < deadline:
                raw = file.readline(_LINE_BYTES)
                # A progress bar writes one line over and over.
                for part in raw.rstrip(b"\r\n").split(b"\r"):
                    yield part, is_tail
