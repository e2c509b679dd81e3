"""Reads one log line by line and offers what may be the cause of a failure: tracebacks and telling lines."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from nemotron.job.causes.log_lines import Line, Stamps, clean
from nemotron.job.causes.patterns import HINT, LINES, SURVIVED, rank_of_exception

_TRACEBACK = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)')
_EXCEPTION = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*(?:\([\w.]+\))?)(?::\s*(?P<message>.*))?$")
_SURELY = re.compile(r"(?:Error|Exception|Interrupt)\)?$")
_QUIET_LEVEL = re.compile(r"\b(?:WARNING|WARN|INFO|DEBUG)\b|\bW\d{3,4} \d\d:")
_OF_NODE = re.compile(r"\.node-(\d+)\.")
_NODE_IS = re.compile(r"^nemotron: \S+ \S+ node (\d+) is (\S+) \(([^)]*)\)")
# How far back a time is looked for when the line itself has none.
_BACK = 200


@dataclass(frozen=True)
class Candidate:
    """What may be the cause. at: epoch seconds, None where no line so far had a time. log: which of the
    logs. frame: innermost frame of a traceback. node: rank, name or address of the node."""

    rank: int
    at: float | None
    log: int
    line: int
    what: str
    frame: str | None
    node: str | None


@dataclass
class _Trace:
    """A traceback that is being read. chained: `direct` or `during` while one more is announced."""

    at: float | None
    is_quiet: bool
    frame: str | None = None
    cause: Candidate | None = None
    has_ended: bool = False
    is_remote: bool = False
    chained: str | None = None


class Reader:
    """Reads the log with this number. several: whether there are others, so that nodes need a name.

    names: what the log says of nodes: a name with the rank by `node R` and by address.
    """

    def __init__(self, log: Path, number: int, several: bool) -> None:
        self.names: dict[str, str] = {}
        self._number = number
        named = _OF_NODE.search(log.name)
        self._node = f"node {named[1]}" if named else ("node 0" if several else None)
        self._stamps = Stamps(log.stat().st_mtime)
        self._at: float | None = None
        self._before: deque[bytes] = deque(maxlen=_BACK)
        # By the process that writes it.
        self._traces: dict[str, _Trace] = {}

    @property
    def is_reading(self) -> bool:
        """Whether every line counts, since a traceback is not over."""
        return bool(self._traces)

    def skip(self, raw: bytes) -> None:
        """A line that is no candidate; it may have the time of the next that is."""
        self._before.append(raw)

    def read(self, number: int, raw: bytes) -> list[Candidate]:
        """The candidates that are complete with this line."""
        line = clean(raw)
        self._before.append(raw)
        if met := _NODE_IS.match(line.text):
            title = f"{met[2]} (node {met[1]})"
            self.names.update(dict.fromkeys([f"node {met[1]}", *met[3].split(", ")], title))
            self.names.pop("127.0.0.1", None)
            return []
        trace = self._traces.get(line.source)
        if _TRACEBACK.match(line.body):
            return self._begin(line, trace)
        return self._single(number, line) if trace is None else self._go_on(number, line, trace)

    def end(self) -> list[Candidate]:
        """The candidates that the end of the log completes."""
        left = [trace.cause for trace in self._traces.values() if trace.cause]
        self._traces.clear()
        return left

    def _begin(self, line: Line, before: _Trace | None) -> list[Candidate]:
        if before is not None and before.chained:
            before.has_ended, before.frame = False, None
            return []
        previous = self._before[-2] if len(self._before) > 1 else b""
        is_quiet = bool(_QUIET_LEVEL.search(line.text)) or previous.startswith(b"Exception ignored")
        self._traces[line.source] = _Trace(self._time(), is_quiet)
        return [before.cause] if before is not None and before.cause else []

    def _go_on(self, number: int, line: Line, trace: _Trace) -> list[Candidate]:
        """One more line of a process whose traceback is being read."""
        body = line.body
        if frame := _FRAME.match(body):
            trace.frame = f"{frame['file']}:{frame['line']} in {frame['name']}"
        elif body.startswith("The above exception was the direct cause"):
            trace.chained = "direct"
        elif body.startswith("During handling of the above exception"):
            trace.chained = "during"
        elif body[:1] in ("", " ", "\t", "^"):
            pass  # the source text of a frame, or marks below it
        elif not trace.has_ended and (exception := _exception(body, in_trace=True)):
            self._ends(number, line, trace, *exception)
        elif trace.has_ended and not trace.chained:
            del self._traces[line.source]
            return ([trace.cause] if trace.cause else []) + self._single(number, line)
        else:
            return self._single(number, line)
        return []

    def _ends(self, number: int, line: Line, trace: _Trace, kind: str, message: str) -> None:
        before, chained = trace.cause, trace.chained
        # Ray prints the trace of the remote process below the exception that carries it.
        was_remote, trace.is_remote = trace.is_remote, "RayTaskError" in kind or "ray::" in message
        trace.has_ended, trace.chained = not trace.is_remote, None
        rank = SURVIVED if trace.is_quiet else rank_of_exception(kind, message)
        node = _address(message) or (before.node if before and was_remote else line.address) or self._node
        what = f"{kind}: {message}" if message else kind
        new = Candidate(rank, trace.at, self._number, number, what.strip(), trace.frame, node)
        # Of a chain the first one is the cause; a handler's own exception says more than what it handles.
        if (
            before is None
            or was_remote
            or rank < before.rank
            or (chained == "during" and rank == before.rank)
        ):
            trace.cause = new

    def _single(self, number: int, line: Line) -> list[Candidate]:
        node = line.node or line.address or self._node
        for rank, pattern in LINES:
            if pattern.search(line.text):
                return [Candidate(rank, self._time(), self._number, number, line.text.strip(), None, node)]
        exception = _exception(line.body, in_trace=False)
        if exception is None or _QUIET_LEVEL.search(line.text):
            return []
        rank = max(HINT, rank_of_exception(*exception))
        return [Candidate(rank, self._time(), self._number, number, line.body.strip(), None, node)]

    def _time(self) -> float | None:
        """The time of the last line that has one."""
        while self._before:
            at = self._stamps.of(clean(self._before.pop()).text)
            if at is not None:
                self._before.clear()
                self._at = at
        return self._at


def _exception(body: str, *, in_trace: bool) -> tuple[str, str] | None:
    """Type and message of an exception's last line; at the end of a traceback any type will do."""
    found = _EXCEPTION.match(body.rstrip())
    if found is None:
        return None
    kind, message = found["kind"], found["message"] or ""
    last = kind.rsplit(".", 1)[-1]
    if not _SURELY.search(kind) and not (in_trace and last[:1].isupper()):
        return None
    return kind, message


def _address(message: str) -> str | None:
    found = re.search(r"\bip=([0-9a-f.:]+)", message)
    return found[1] if found else None
