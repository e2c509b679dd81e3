"""What a run is doing: its lock, its records, and what its scheduler last said, in this order.

A lock that is held on this host settles it. A run that was handed to a scheduler works elsewhere: its job
writes a sign of life (`attempt.json`) and in the end a record. Where neither tells, the last word of the
scheduler does, with its age; nobody is asked here, see `nemotron.launch.refresh`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nemotron.errors import SchedulerError

from .submissions import LIVE, JobState, JobStatus, Journal, Submission

RunState = Literal["queued", "running", "succeeded", "failed", "interrupted", "prepared", "unknown"]
UNFINISHED: tuple[RunState, ...] = ("queued", "running", "unknown")

RECORD_FILE = "record.json"
LOCK_FILE = "lock"
BEAT_FILE = "attempt.json"
# Where the files of a run are that only its job sees; what it told of them is beside this.
ELSEWHERE_FILE = "elsewhere.json"
LOCAL = "local"  # the backend whose jobs are processes of a host

# Ends after which the same run can go on: nothing was wrong with the work itself.
_CUT_OFF = ("interrupted", "walltime", "lost", "node lost", "cancelled", "preempted", "dependency")
_CUT_OFF_JOBS: tuple[JobState, ...] = ("cancelled", "timeout", "node_fail", "preempted")
# A job tells every 30 s that it lives; a busy file server may hold back a few of these.
_FRESH_SECONDS = 150.0


@dataclass(frozen=True)
class Standing:
    """A run's state, and what it rests on.

    job: the one that matters now, of a run that was handed to a scheduler. reason: why it waits or how it
    ended, in the scheduler's words. nodes: those it has. asked: ISO time at which the scheduler said so,
    where its word decided. recorded: whether an ended record tells it, so that nobody has to be asked.
    """

    state: RunState
    job: Submission | None = None
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    asked: str | None = None
    recorded: bool = False


def standing(directory: Path) -> Standing:
    """What the run in `directory` is doing, told from its files and the processes of this host."""
    journal = Journal(directory)
    handed_over = journal.exists
    if is_locked(directory / LOCK_FILE):
        return _Told(directory).with_job("running") if handed_over else Standing("running")
    record = read_object(directory / RECORD_FILE)
    state = ended_state(record.get("exit_code"), record.get("reason")) if record else None
    if state == "succeeded" or (state and not handed_over):
        return Standing(state, recorded=True)
    if not handed_over:
        began = os.access(directory / "logs", os.F_OK)
        return Standing("interrupted" if began else "prepared")
    told = _Told(directory)
    if state is not None:
        # A part of the chain follows, or it was handed over once more since it ended.
        cut_off = state == "interrupted" or record.get("exit_code") == SchedulerError.exit_code
        goes_on = told.live if cut_off else told.since(str(record.get("at")))
        return told.of_live(goes_on) if goes_on else told.ended(state)
    return told.without_record()


def is_unfinished(directory: Path) -> bool:
    """Whether a run was handed to a scheduler, and only that can tell whether it is over."""
    if not Journal(directory).exists:
        return False
    now = standing(directory)
    return now.state in UNFINISHED or (not now.recorded and now.state != "prepared")


def ended_state(exit_code: object, reason: object) -> RunState:
    """The state of a run whose last attempt ended so."""
    if exit_code == 0:
        return "succeeded"
    return "interrupted" if reason in _CUT_OFF else "failed"


def process_lives(job: str) -> bool:
    """Whether the process `PID:STARTTIME` of this host lives; one that nobody waited for does not."""
    pid, _, started = job.partition(":")
    return bool(started) and start_time(pid) == started


def start_time(pid: str | int) -> str | None:
    """When a process of this host began, in its kernel's ticks: with its number it names no other."""
    try:
        text = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    values = text.rpartition(")")[2].split()
    return None if values[0] in "ZX" else values[19]


def seconds_since(moment: str | None) -> float | None:
    """How long ago an ISO time was; None for what is none."""
    try:
        then = datetime.fromisoformat(str(moment))
    except ValueError:
        return None
    return (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file; false where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a colleague's run is not ours to write
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as problem:
        return problem.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(handle)
    return False


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


class _Told:
    """The jobs of a run that was handed over, and the last word on each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._journal = Journal(directory)
        self._jobs = self._journal.submitted()
        self._asked, said = self._journal.seen()
        self._words: Mapping[str, JobStatus] = {each.job: each for each in said}

    @property
    def live(self) -> tuple[Submission, ...]:
        """The jobs that are not over, as far as is known."""
        return tuple(job for job in self._jobs if self._state(job) in (*LIVE, None))

    def since(self, moment: str) -> tuple[Submission, ...]:
        """Those of them that were handed over after a moment."""
        return tuple(job for job in self.live if job.at > moment)

    def of_live(self, live: tuple[Submission, ...]) -> Standing:
        """The standing of a run that goes on with these jobs."""
        running = next((job for job in live if self._state(job) == "running"), None)
        return self._standing("running" if running else "queued", running or live[0])

    def with_job(self, state: RunState) -> Standing:
        """A state that the host itself told."""
        job = next((j for j in self.live if self._state(j) == "running"), None) or self._last()
        return self._standing(state, job, rests_on_word=False)

    def ended(self, state: RunState) -> Standing:
        """A state that a record told."""
        return self._standing(state, self._last(), rests_on_word=False, recorded=True)

    def without_record(self) -> Standing:
        """The standing of a run whose last attempt, if it had one, left no record of its end."""
        if self._beats():
            return self.with_job("running")
        if self.live:
            return self.of_live(self.live)
        if self._journal.unanswered() or any(self._state(job) == "unknown" for job in self._jobs):
            return self._standing("unknown", self._last())
        if not self._jobs:
            return Standing("prepared")
        last = self._last()
        cut_off = any(self._state(job) in _CUT_OFF_JOBS for job in self._jobs)
        return self._standing("interrupted" if cut_off else "failed", last)

    def _beats(self) -> bool:
        """Whether its job gave a sign of life just now, and nobody knows better."""
        beat = read_object(self._directory / BEAT_FILE)
        since = seconds_since(beat.get("at"))
        if since is None or since > _FRESH_SECONDS or beat.get("phase") == "ended":
            return False
        if beat.get("host") == os.uname().nodename:
            return False  # of a job on this host the lock tells
        word = self._words.get(str(beat.get("job")))
        over = word is not None and word.state not in (*LIVE, "unknown")
        return not (over and self._asked is not None and self._asked > str(beat["at"]))

    def _state(self, job: Submission) -> JobState | None:
        """The last word on a job; None when nobody was ever asked. A process of this host is looked at."""
        word = self._words.get(job.job)
        if job.backend == LOCAL and job.cluster == os.uname().nodename:
            over = "node_fail" if word is None or word.state in LIVE else word.state
            return "pending" if process_lives(job.job) else over
        return word.state if word else None

    def _last(self) -> Submission | None:
        """The job that was the last to begin, else the first that was handed over."""
        begun = [j for j in self._jobs if (word := self._words.get(j.job)) and word.started]
        return begun[-1] if begun else (self._jobs[0] if self._jobs else None)

    def _standing(
        self, state: RunState, job: Submission | None, *, rests_on_word: bool = True, recorded: bool = False
    ) -> Standing:
        word = self._words.get(job.job) if job else None
        return Standing(
            state,
            job,
            reason=word.reason if word else None,
            nodes=word.nodes if word else (),
            asked=self._asked if rests_on_word else None,
            recorded=recorded,
        )
