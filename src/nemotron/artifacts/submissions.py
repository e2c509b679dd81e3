"""What was handed to a scheduler for a run: a journal beside the plan, a line before and after each call.

    RUN/submissions.jsonl      {"event": "submitting"|"submitted"|"failed"|"cancelled", ...}
    RUN/scheduler.json         what the scheduler last said of the run's jobs, and when it was asked

A client that is killed between two lines leaves a `submitting` without an answer: the scheduler is asked
for jobs of that name then, see `Backend.find`. Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .atomic import os_error, write_json
from .records import timestamp

JOURNAL_FILE = "submissions.jsonl"
SEEN_FILE = "scheduler.json"

JobState = Literal[
    "pending",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "timeout",
    "node_fail",
    "out_of_memory",
    "preempted",
    "unknown",
]
LIVE: tuple[JobState, ...] = ("pending", "running")


@dataclass(frozen=True)
class Submission:
    """One job of a run.

    job: what the scheduler calls it; unique together with `cluster` and `at` alone. name: the run's id.
    connection: how the scheduler is reached, nothing secret in it; empty for the one of this machine.
    part, parts: which of how many allocations that follow one another. at: ISO time in UTC.
    """

    backend: str
    job: str
    name: str
    cluster: str = ""
    at: str = ""
    part: int = 1
    parts: int = 1
    connection: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler says of one job.

    exit_code: of the job where it has ended. reason: in the scheduler's words, such as why it waits.
    nodes: names of the nodes it has. started, ended: ISO times in UTC where known.
    """

    job: str
    state: JobState
    exit_code: int | None = None
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    started: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Journal:
    """The journal of one run directory."""

    directory: Path

    @property
    def exists(self) -> bool:
        """Whether the run was ever handed to a scheduler, or was about to be."""
        return (self.directory / JOURNAL_FILE).is_file()

    def note(self, event: str, submission: Submission, **more: Any) -> None:
        """Append a line, on disk when this returns. Errors: see `os_error`."""
        line = json.dumps({"event": event, **asdict(submission), **more}, ensure_ascii=False, sort_keys=True)
        data = f"{line}\n".encode("utf-8", "surrogateescape")
        path = self.directory / JOURNAL_FILE
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                # A line that a full disk cut short must not swallow this one.
                if (size := os.fstat(handle).st_size) and os.pread(handle, 1, size - 1) != b"\n":
                    data = b"\n" + data
                while data:
                    data = data[os.write(handle, data) :]
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as problem:
            raise os_error(problem, path) from problem

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line, in order."""
        try:
            text = (self.directory / JOURNAL_FILE).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return []
        found = []
        for line in text.splitlines():
            try:
                loaded = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            if isinstance(loaded, dict) and "event" in loaded:
                found.append(loaded)
        return found

    def submitted(self) -> tuple[Submission, ...]:
        """The jobs that the scheduler took, in order; one that was adopted later counts once."""
        found: dict[tuple[str, str], Submission] = {}
        for line in self.lines():
            if line["event"] == "submitted":
                each = _submission(line)
                found.setdefault((each.cluster, each.job), each)
        return tuple(found.values())

    def unanswered(self) -> tuple[Submission, ...]:
        """Submissions that were begun and of which nobody knows what became; `job` is empty in them."""
        begun: dict[tuple[str, int], Submission] = {}
        for line in self.lines():
            each = _submission(line)
            if line["event"] == "submitting":
                begun[(each.at, each.part)] = each
            else:
                begun.pop((str(line.get("begun", each.at)), each.part), None)
        return tuple(begun.values())

    def saw(self, statuses: Iterable[JobStatus]) -> None:
        """Keep what the scheduler said just now. Errors: see `os_error`."""
        now = timestamp(datetime.now(UTC))
        write_json(self.directory / SEEN_FILE, {"at": now, "jobs": [asdict(s) for s in statuses]})

    def seen(self) -> tuple[str | None, tuple[JobStatus, ...]]:
        """When the scheduler was last asked, and what it said; (None, ()) when it never was."""
        try:
            loaded = json.loads((self.directory / SEEN_FILE).read_text(encoding="utf-8"))
            jobs = tuple(JobStatus(**{**j, "nodes": tuple(j.get("nodes", ()))}) for j in loaded["jobs"])
            return str(loaded["at"]), jobs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, ()


def _submission(line: Mapping[str, Any]) -> Submission:
    known = {f.name for f in fields(Submission)}
    given = {"backend": "", "job": "", "name": ""}
    return Submission(**{**given, **{k: v for k, v in line.items() if k in known}})
