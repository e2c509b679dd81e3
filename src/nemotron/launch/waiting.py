"""Runs until their end: waited for, or cancelled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.run_state import LOCK_FILE, UNFINISHED, RunState, is_locked, is_unfinished, standing
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import LIVE, Journal, Submission
from nemotron.errors import Conflict, NemotronError, SchedulerError, WorkFailed
from nemotron.findings import Finding
from nemotron.launch.backend import find_backend
from nemotron.launch.refresh import Change, Find, by_scheduler, refresh

# How often files are looked at, and schedulers asked: more and more seldom, as waiting goes on.
_LOOK_SECONDS = 0.3
_ASK_SECONDS, _ASK_SELDOM_SECONDS, _ASK_GROWTH = 1.0, 15.0, 1.3


class Teller:
    """What is told while runs are waited for; this one says nothing."""

    def change(self, change: Change) -> None:
        """A run is in another state."""

    def finding(self, finding: Finding) -> None:
        """A scheduler does not answer, say; told once, however often it is found."""


@dataclass(frozen=True)
class Ended:
    """How a run ended. exit_code: 0 when it succeeded, else never 0."""

    run: Run
    state: RunState
    exit_code: int
    reason: str | None = None


def wait_for_end(
    store: Store,
    runs: Sequence[Run],
    teller: Teller,
    timeout: float | None = None,
    find: Find = find_backend,
) -> tuple[Ended, ...]:
    """Wait until all runs are over; how each ended, in the order given.

    timeout: seconds. Raises SchedulerError when that is not enough, and Conflict for a run that nobody
    has started: there is nothing to wait for.
    """
    idle = [run for run in runs if run.state() == "prepared" and not Journal(run.directory).exists]
    if idle:
        raise Conflict(
            f"run {idle[0].id} has not begun, and nothing is about to start it",
            where=str(idle[0].directory),
            next="type the `nemotron steps run` that made it again",
        )
    _until_over(store, runs, teller, timeout, find)
    return tuple(_ended(run) for run in runs)


def cancel_runs(
    store: Store,
    runs: Sequence[Run],
    teller: Teller,
    timeout: float,
    find: Find = find_backend,
) -> Mapping[str, bool]:
    """End runs, waiting jobs and running ones, and wait until they are over; whether each was still going on.

    A trainer is asked to save and leave first. Raises SchedulerError when a scheduler does not take it, or
    does not confirm it within `timeout` seconds; all others are cancelled nevertheless.
    """
    for finding in refresh(store, runs, find).findings:
        teller.finding(finding)
    going_on = [run for run in runs if not _is_over(run)]
    problems: list[NemotronError] = []
    jobs = [(run, job) for run in going_on for job in _live_jobs(run)]
    for group in by_scheduler(job for _, job in jobs).values():
        try:
            find(group[0].backend).cancel(group)
        except NemotronError as problem:
            problems.append(problem)
            continue
        for run, job in jobs:
            if job in group:
                Journal(run.directory).note("cancelled", job)
    for run in going_on:
        if not Journal(run.directory).exists:
            _signal_holder(run.directory / LOCK_FILE)
    if problems:
        raise problems[0]
    _until_over(store, going_on, teller, timeout, find)
    return {run.id: run in going_on for run in runs}


def _until_over(store: Store, runs: Sequence[Run], teller: Teller, timeout: float | None, find: Find) -> None:
    begun = time.monotonic()
    pause, asked = _ASK_SECONDS, None
    states: dict[Path, RunState] = {}
    told: set[str] = set()
    while True:
        left = [run for run in runs if not _is_over(run)]
        _tell(runs, states, teller)
        if not left:
            return
        now = time.monotonic()
        if timeout is not None and now - begun >= timeout:
            raise SchedulerError(
                f"{', '.join(run.id for run in left)}: still {left[0].state()} after {timeout:g} s",
                next=f"nemotron runs show {left[0].id}",
            )
        if asked is None or now - asked >= pause:
            pause = _ASK_SECONDS if asked is None else min(pause * _ASK_GROWTH, _ASK_SELDOM_SECONDS)
            for finding in refresh(store, left, find).findings:
                if finding.message not in told:
                    told.add(finding.message)
                    teller.finding(finding)
            asked = time.monotonic()
            continue
        time.sleep(_LOOK_SECONDS)


def _tell(runs: Sequence[Run], states: dict[Path, RunState], teller: Teller) -> None:
    for run in runs:
        now = run.standing()
        before = states.get(run.directory)
        if now.state != before:
            states[run.directory] = now.state
            if before is not None or now.state in UNFINISHED:
                teller.change(Change(run.id, before or now.state, now.state, now.reason))


def _is_over(run: Run) -> bool:
    return run.state() not in UNFINISHED and not is_unfinished(run.directory)


def _ended(run: Run) -> Ended:
    now, record = standing(run.directory), run.record
    code = record.get("exit_code")
    if now.state == "succeeded":
        return Ended(run, now.state, 0)
    failed = code if isinstance(code, int) and code != 0 else WorkFailed.exit_code
    reason = record.get("reason") or run.failure.get("what") or now.reason
    return Ended(run, now.state, failed, str(reason) if reason else None)


def _live_jobs(run: Run) -> list[Submission]:
    journal = Journal(run.directory)
    words = {each.job: each.state for each in journal.seen()[1]}
    return [job for job in journal.submitted() if words.get(job.job, "unknown") in (*LIVE, "unknown")]


def _signal_holder(lock: Path) -> None:
    """Ask the job that is attached to another client to end, as Ctrl-C there would."""
    try:
        host, number = lock.read_text(encoding="utf-8", errors="replace").split()[:2]
        pid = int(number)
        if host != os.uname().nodename or not is_locked(lock):
            return
        handle = os.pidfd_open(pid)
    except (OSError, ValueError):
        return  # it has ended meanwhile, or runs where nobody here can reach it: the waiting tells
    try:
        if b"runtime/start.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except OSError:
        return
    finally:
        os.close(handle)
